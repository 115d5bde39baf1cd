"""Training batches read with Grain; each batch depends only on seed and step."""

import dataclasses
import functools
import math
import multiprocessing
import os
import signal
import sys
import threading
import weakref
from collections.abc import Callable, Mapping
from typing import Any

import cloudpickle
import grain
import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from jaxtyping import Array, Float, UInt8
from ml_collections import ConfigDict

from lzn_jax import parts
from lzn_jax.data.decoding import prepare
from lzn_jax.data.examples import EncodedImages, Examples

# Maps an image file's content, or pixels (h, w, c) uint8, to the arrays of an example by name.
Transform = Callable[[bytes | np.ndarray, np.random.Generator], Mapping[str, np.ndarray]]

MAX_WORKERS = 16
# Fewer images are decoded in seconds, the time that a worker takes to start.
MIN_FOR_WORKERS = 1000
_MAX_CHUNK = 64  # examples that a worker process transfers at a time
_UNREADABLE = "index if unreadable"


class TrainingBatches:
    """Infinite iterator of batches {name: (b, ...)}.

    A batch has the arrays of `transform`, 'labels' (b,) int32 and the `columns`, which have one row
    for each example. Examples without images need no transform.

    The order is a new shuffle every epoch, and the transform's random numbers depend on an image's
    position in the stream. So batch k is the same when reading from the start or resuming at k, and
    for any number of workers. With `rows` this process only reads those rows of each batch, but
    `shapes` are those of whole batches.

    With `workers` 0 a thread prepares the batches, which suits images in memory and small data
    sets. Otherwise that many processes decode images, with None one for each core. Threads would
    not scale beyond about six cores, because decoding a photograph holds the GIL for a sixth of the
    time.

    Attributes:
      workers: number of decoding processes.

    `next` raises UserError for a batch with unreadable images, unless `data.skip_unreadable`
    replaces them (see EncodedImages).
    """

    def __init__(
        self,
        examples: Examples,
        batch_size: int,
        seed: int,
        transform: Transform | None,
        *,
        workers: int | None = None,
        rows: slice | None = None,
        columns: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        positions = grain.MapDataset.range(len(examples.labels)).seed(seed).shuffle().repeat()
        self._stream = positions.random_map(_Load(examples, transform, columns or {}))
        self._images, self._batch_size = examples.images, batch_size
        self.workers = _default_workers(examples) if workers is None else workers
        self._rows = range(batch_size)[rows or slice(None)]
        self._open: list[Any] = []  # the iterator; empty once closed
        weakref.finalize(self, _close, self._open)
        self._shapes: dict[str, jax.ShapeDtypeStruct] = {}
        self.seek(0)

    def seek(self, step: int) -> None:
        """Makes batch number `step` the next one."""
        self.close()
        # With chunks, workers prepare parts of the same batch and need less memory.
        whole, own = self._batch_size, len(self._rows)
        chunk = math.gcd(whole, own, self._rows.start)
        if self.workers > 0:
            chunk = max(n for n in range(1, _MAX_CHUNK + 1) if chunk % n == 0)
        rest = self._stream[step * whole :].batch(chunk)
        share = _Share(rest, self._rows.start // chunk, own // chunk, whole // chunk)
        chunks = grain.MapDataset.source(share).to_iter_dataset(grain.ReadOptions(num_threads=0))
        if self.workers > 0:
            _parse_flags()
            for module in parts.extension_modules():  # a worker cannot import them
                cloudpickle.register_pickle_by_value(module)
            options = grain.MultiprocessingOptions(self.workers, per_worker_buffer_size=2)
            chunks = chunks.mp_prefetch(options, _init_worker)
        batches = chunks.batch(own // chunk, batch_fn=_join)
        prefetched = grain.experimental.ThreadPrefetchIterDataset(batches, prefetch_buffer_size=2)
        self._open.append(iter(prefetched))

    def shapes(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes and dtypes of a batch, by name; reads the first image."""
        if not self._shapes:
            element = dict(self._stream[0])
            del element[_UNREADABLE]
            self._shapes = {
                name: jax.ShapeDtypeStruct((self._batch_size, *np.shape(value)), value.dtype)
                for name, value in element.items()
            }
        return self._shapes

    def close(self) -> None:
        """Ends the thread and the workers, as does the end of the program."""
        _close(self._open)

    def __enter__(self) -> "TrainingBatches":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __next__(self) -> dict[str, Any]:
        batch = dict(next(self._open[0]))
        marks = batch.pop(_UNREADABLE)
        if isinstance(self._images, EncodedImages):
            self._images.allow(marks[marks >= 0].tolist())
        return batch


@dataclasses.dataclass(frozen=True)
class _Load:
    """Maps an index to the example's arrays and, if its image is unreadable, the index, else -1."""

    examples: Examples
    transform: Transform | None
    columns: Mapping[str, np.ndarray]

    def __call__(self, index: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        images, used = self.examples.images, index
        element: Mapping[str, np.ndarray] = {}
        if self.transform is None or images is None:
            pass
        elif isinstance(images, EncodedImages):
            transform = self.transform
            element, used = images.load(index, lambda encoded: transform(encoded, rng))
        else:
            element = self.transform(images[index], rng)
        mark = np.int64(-1 if used == index else index)
        # A substitute has the same label but its own columns.
        columns = {name: values[used] for name, values in self.columns.items()}
        return {**element, **columns, "labels": self.examples.labels[index], _UNREADABLE: mark}


@dataclasses.dataclass(frozen=True)
class _Share:
    """Chunks `first` to `first + own` of every `whole` chunks of an infinite stream."""

    chunks: Any
    first: int
    own: int
    whole: int

    def __len__(self) -> int:
        return len(self.chunks) // self.whole * self.own

    def __getitem__(self, index: int) -> Mapping[str, np.ndarray]:
        batch, number = divmod(index, self.own)
        chunk: Mapping[str, np.ndarray] = self.chunks[batch * self.whole + self.first + number]
        return chunk


@dataclasses.dataclass(frozen=True)
class WholeImage:
    """Transform to {'images': (h, w, c)}: a file after `prepare`, or an unchanged array.

    With `flip` images are mirrored left to right with probability 1/2.
    """

    prepare: Callable[[bytes], np.ndarray]
    flip: bool

    def __call__(
        self, image: bytes | np.ndarray, rng: np.random.Generator
    ) -> dict[str, np.ndarray]:
        if isinstance(image, bytes):
            image = self.prepare(image)
        return {"images": image[:, ::-1] if self.flip and rng.random() < 0.5 else image}


def whole_image(data: ConfigDict) -> WholeImage:
    """Transform for training on whole images."""
    return WholeImage(functools.partial(prepare, data=data), data.flip)


def _default_workers(examples: Examples) -> int:
    is_small = len(examples.labels) < MIN_FOR_WORKERS
    if is_small or not isinstance(examples.images, EncodedImages):
        return 0
    return min(len(os.sched_getaffinity(0)), MAX_WORKERS)


def _join(chunks: list[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.concatenate([chunk[name] for chunk in chunks]) for name in chunks[0]}


def _close(iterators: list[Any]) -> None:
    # Grain reports an error at the end of the program if another reference remains.
    while iterators:
        iterators.pop().close()


def _parse_flags() -> None:
    # Grain's processes inherit absl's flags and fail if the flags are not parsed.
    if not flags.FLAGS.is_parsed():
        flags.FLAGS(sys.argv[:1])


def _init_worker(index: int, count: int) -> None:
    """Ignores signals, because the trainer saves first, and exits when the trainer exits."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)

    def end_with_parent() -> None:
        parent = multiprocessing.parent_process()
        assert parent is not None
        parent.join()
        os._exit(0)

    threading.Thread(target=end_with_parent, daemon=True).start()


def normalise(images: UInt8[Array, "b h w c"]) -> Float[Array, "b h w c"]:
    """Pixels 0 ... 255 converted to float32 in [-1, 1]."""
    return images.astype(jnp.float32) / 127.5 - 1


def to_uint8(images: Float[Array, "b h w c"]) -> UInt8[Array, "b h w c"]:
    """Images in [-1, 1] converted to pixels 0 ... 255, rounded to nearest and clipped."""
    return jnp.round(jnp.clip((images + 1) * 127.5, 0, 255)).astype(jnp.uint8)
