"""Training batches through Grain, each a function of seed and step alone."""

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

# Image file's content, or pixels (h, w, c) uint8 of a set in memory -> what a batch stacks by name.
Transform = Callable[[bytes | np.ndarray, np.random.Generator], Mapping[str, np.ndarray]]

MAX_WORKERS = 16
MIN_FOR_WORKERS = 1000  # images; a worker takes seconds to start, and fewer are decoded in seconds
# What a worker process hands over at a time.
_MAX_CHUNK = 64
_UNREADABLE = "index if unreadable"


class TrainingBatches:
    """Endless batches: what `transform` returns, by name, 'labels' (b,) int32, and `columns`.

    Examples without images have no transform.

    The order is a new shuffle every epoch, and the transform's random numbers are those of an
    image's position in the stream. So batch k is the same whether one reads from the start or
    resumes at k, and whatever the number of workers. `columns` hold a row an example. With `rows`
    this process reads those rows of each batch alone; `shapes` are still those of whole batches.

    With `workers` 0 a thread prepares the batches, which is right for images in memory and for few.
    Other images are decoded by that many processes, None: as many as there are cores. Python's
    lock, held for a sixth of the time that a photograph takes, would stop threads at about six
    cores.

    Attributes:
      workers: processes that decode.

    Raises UserError from `next` when a batch holds unreadable images, unless
    `data.skip_unreadable` has them replaced (see EncodedImages).
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
        self._open: list[Any] = []  # the iterator, nothing once closed
        weakref.finalize(self, _close, self._open)
        self._shapes: dict[str, jax.ShapeDtypeStruct] = {}
        self.seek(0)

    def seek(self, step: int) -> None:
        """Makes batch number `step` the next one."""
        self.close()
        # Chunks keep workers on the same batch, and so their memory small.
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
        """Shapes and dtypes of a batch; reads its first image."""
        if not self._shapes:
            element = dict(self._stream[0])
            del element[_UNREADABLE]
            self._shapes = {
                name: jax.ShapeDtypeStruct((self._batch_size, *np.shape(value)), value.dtype)
                for name, value in element.items()
            }
        return self._shapes

    def close(self) -> None:
        """Ends the thread and the workers; so does the end of the program."""
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
    """Image by index -> transformed image, label, and the index itself if it is unreadable."""

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
        found = {name: values[used] for name, values in self.columns.items()}  # what fits the image
        return {**element, **found, "labels": self.examples.labels[index], _UNREADABLE: mark}


@dataclasses.dataclass(frozen=True)
class _Share:
    """Of each `whole` chunks of an endless stream the `own` ones from number `first` on."""

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
    """The transform {'images': (h, w, c)}: a file's as `prepare` gives them, an array as it is.

    With `flip` half of the images are mirrored left to right, as the random numbers say.
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
    """The transform of those that train on whole images."""
    return WholeImage(functools.partial(prepare, data=data), data.flip)


def _default_workers(examples: Examples) -> int:
    is_small = len(examples.labels) < MIN_FOR_WORKERS
    if is_small or not isinstance(examples.images, EncodedImages):
        return 0
    return min(len(os.sched_getaffinity(0)), MAX_WORKERS)


def _join(chunks: list[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.concatenate([chunk[name] for chunk in chunks]) for name in chunks[0]}


def _close(iterators: list[Any]) -> None:
    # The list gives up the only reference, or Grain complains at the end of the program.
    while iterators:
        iterators.pop().close()


def _parse_flags() -> None:
    # Grain's processes inherit absl's flags and fail where nothing has parsed them.
    if not flags.FLAGS.is_parsed():
        flags.FLAGS(sys.argv[:1])


def _init_worker(index: int, count: int) -> None:
    """A worker leaves signals to the trainer, which saves first, and ends when the trainer does."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)

    def end_with_parent() -> None:
        parent = multiprocessing.parent_process()
        assert parent is not None
        parent.join()
        os._exit(0)

    threading.Thread(target=end_with_parent, daemon=True).start()


def normalise(images: UInt8[Array, "b h w c"]) -> Float[Array, "b h w c"]:
    """Pixels 0 ... 255 as float32 in [-1, 1]."""
    return images.astype(jnp.float32) / 127.5 - 1


def to_uint8(images: Float[Array, "b h w c"]) -> UInt8[Array, "b h w c"]:
    """Images in [-1, 1] as pixels 0 ... 255, rounded to the nearest, clipped."""
    return jnp.round(jnp.clip((images + 1) * 127.5, 0, 255)).astype(jnp.uint8)
