"""The order in which training reads examples, and the processes that decode them."""

import dataclasses
import functools
import multiprocessing
import os
import signal
import sys
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import cloudpickle
import grain
import jax
import numpy as np
from absl import flags
from ml_collections import ConfigDict

from lzn_jax import extensions
from lzn_jax.data import Examples
from lzn_jax.data.pixels import EncodedImages, decoding_threads, prepare

# Maps an image file's content, or pixels (h, w, c) uint8, to the arrays of an example by name.
Transform = Callable[[bytes | np.ndarray, np.random.Generator], Mapping[str, np.ndarray]]

# Maps the columns of an example to columns to add or replace.
RowTransform = Callable[[Mapping[str, np.ndarray], np.random.Generator], Mapping[str, np.ndarray]]

# Fewer images are decoded within seconds, while a worker still starts.
MIN_FOR_WORKERS = 1000
_MAX_CHUNK = 64  # examples that a worker process transfers at a time


class TrainingBatches:
    """Infinite iterator of batches {name: (b, ...)}.

    A batch contains the arrays of `transform`, 'labels' (b,) int32 and the `columns`, with one row
    for each example. Then `row_transforms` add columns, in turn. Examples without images need no
    transform.

    Every epoch is shuffled anew, and random numbers of transforms depend on an example's position
    in the stream. Batch k is therefore the same after any start and for any number of workers. With
    `rows`, this process reads only those rows of each batch.

    `workers` processes decode images. With None these are all `cores` but two, and none for images
    in memory and small data sets, which a thread prepares. Threads would not scale beyond about six
    cores, since decoding a photograph blocks the GIL for a sixth of the time.

    `next` raises UserError for an unreadable image, unless `data.skip_unreadable` replaces its
    example by the next one (see EncodedImages).
    """

    def __init__(
        self,
        examples: Examples,
        batch_size: int,
        seed: int,
        transform: Transform | None,
        *,
        workers: int | None = None,
        cores: int | None = None,
        rows: slice | None = None,
        columns: Mapping[str, np.ndarray] | None = None,
        row_transforms: Sequence[RowTransform] = (),
    ) -> None:
        positions = grain.MapDataset.range(len(examples.labels)).seed(seed).shuffle().repeat()
        load = functools.partial(_example, examples, transform, columns or {}, row_transforms)
        own = range(batch_size)[rows or slice(None)]
        self._rows = _Rows(positions.random_map(load), own, batch_size)
        self.workers = _default_workers(examples, cores) if workers is None else workers
        self._open: list[Any] = []  # the iterator, empty once closed
        weakref.finalize(self, _close, self._open)
        self.seek(0)

    def seek(self, step: int) -> None:
        """Makes batch number `step` the next one."""
        self.close()
        # In chunks, workers prepare parts of the same batch and need less memory.
        own = len(self._rows.own)
        most = min(own, _MAX_CHUNK) if self.workers > 0 else own
        chunk = max(size for size in range(1, most + 1) if own % size == 0)
        rows = grain.MapDataset.source(self._rows)[step * own :]
        batches = rows.batch(chunk).to_iter_dataset(grain.ReadOptions(num_threads=0))
        if self.workers > 0:
            if not flags.FLAGS.is_parsed():  # Grain's processes inherit absl's flags
                flags.FLAGS(sys.argv[:1])
            for module in extensions.extension_modules():  # a worker cannot import them
                cloudpickle.register_pickle_by_value(module)
            options = grain.MultiprocessingOptions(self.workers, per_worker_buffer_size=2)
            batches = batches.mp_prefetch(options, _init_worker)
            batches = batches.batch(own // chunk, batch_fn=_join)
        prefetched = grain.experimental.ThreadPrefetchIterDataset(batches, prefetch_buffer_size=2)
        self._open.append(iter(prefetched))

    def shapes(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes and dtypes of a whole batch by name. Reads the first image."""
        size, example = self._rows.size, self._rows.stream[0]
        return {
            name: jax.ShapeDtypeStruct((size, *np.shape(value)), value.dtype)
            for name, value in example.items()
        }

    def close(self) -> None:
        """Ends the thread and the workers, like the end of the program."""
        _close(self._open)

    def __enter__(self) -> "TrainingBatches":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __next__(self) -> dict[str, Any]:
        return dict(next(self._open[0]))


@dataclasses.dataclass(frozen=True)
class _Rows:
    """The rows `own` of every batch of `size` in an infinite stream, row by row."""

    stream: Any
    own: range
    size: int

    def __len__(self) -> int:
        return len(self.stream) // self.size * len(self.own)

    def __getitem__(self, index: int) -> Mapping[str, np.ndarray]:
        step, row = divmod(index, len(self.own))
        example: Mapping[str, np.ndarray] = self.stream[step * self.size + self.own[row]]
        return example


def _example(
    examples: Examples,
    transform: Transform | None,
    columns: Mapping[str, np.ndarray],
    row_transforms: Sequence[RowTransform],
    index: int,
    rng: np.random.Generator,
) -> dict[str, np.ndarray]:
    """Arrays of an example, or of the next example if its image is unreadable."""
    arrays: Mapping[str, np.ndarray] = {}
    if transform is not None and isinstance(examples.images, EncodedImages):
        arrays, index = examples.images.load(index, lambda encoded: transform(encoded, rng))
    elif transform is not None and examples.images is not None:
        arrays = transform(examples.images[index], rng)
    own = {name: values[index] for name, values in columns.items()}
    row = {**arrays, **own, "labels": examples.labels[index]}
    for each in row_transforms:
        row |= each(row, rng)
    return {name: np.asarray(value) for name, value in row.items()}


def whole_image(data: ConfigDict) -> Transform:
    """Transform to {'images': (h, w, c)}, of a file by `prepare` or of an unchanged array.

    With `data.flip` images are mirrored left to right with probability 1/2.
    """
    return functools.partial(_whole_image, functools.partial(prepare, data=data), data.flip)


def _whole_image(
    read: Callable[[bytes], np.ndarray],
    flip: bool,
    image: bytes | np.ndarray,
    rng: np.random.Generator,
) -> dict[str, np.ndarray]:
    if isinstance(image, bytes):
        image = read(image)
    return {"images": image[:, ::-1] if flip and rng.random() < 0.5 else image}


def _default_workers(examples: Examples, cores: int | None) -> int:
    is_small = len(examples.labels) < MIN_FOR_WORKERS
    if is_small or not isinstance(examples.images, EncodedImages):
        return 0
    cores = cores or len(os.sched_getaffinity(0))
    return max(cores - 2, min(cores, 2))  # two cores remain for the trainer and its transfers


def _join(chunks: list[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """A batch of chunks; threads copy them, since one would be slower than many workers."""
    rows = len(chunks[0]["labels"])
    shapes = {name: (rows * len(chunks), *value.shape[1:]) for name, value in chunks[0].items()}
    batch = {name: np.empty(shape, chunks[0][name].dtype) for name, shape in shapes.items()}

    def copy(place: int) -> None:
        for name, value in chunks[place].items():
            batch[name][place * rows : (place + 1) * rows] = value

    list(decoding_threads().map(copy, range(len(chunks))))
    return batch


def _close(iterators: list[Any]) -> None:
    # Grain reports an error at the end of the program if another reference remains.
    while iterators:
        iterators.pop().close()


def _init_worker(index: int, count: int) -> None:
    """Ignores signals, because the trainer saves first, and exits when the trainer exits."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    trainer: Any = multiprocessing.parent_process()

    def end_with_parent() -> None:
        trainer.join()
        os._exit(0)

    threading.Thread(target=end_with_parent, daemon=True).start()
