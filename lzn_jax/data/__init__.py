"""Data sets, and the order in which training reads them."""

import dataclasses
import functools
import logging
import multiprocessing
import os
import signal
import sys
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import cloudpickle
import grain
import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from jaxtyping import Array, Bool, Float, Int, Shaped, UInt8
from ml_collections import ConfigDict, FrozenConfigDict

from lzn_jax import extensions, parts
from lzn_jax.data.pixels import FLIP, EncodedImages, evenly_spaced, is_light, prepare
from lzn_jax.errors import UserError
from lzn_jax.models import has_latents
from lzn_jax.parts import Field, flag

_log = logging.getLogger(__name__)


class Examples(NamedTuple):
    """Examples of one split, one in each row.

    Attributes:
      images: `Images` (n, h, w, c) uint8, or None; generated images are always an array.
      labels: (n,) int32.
      texts: (n,) strings, empty for an example without a text; None in a data set without texts.
      left_out: descriptions of texts and images that do not form a pair.
      image_ids: (n,) number of each example's image; None: every example has its own image.
      groups: (n,) numbers of groups that no split divides; None: images are the groups.
      more: additional columns (n, ...) by name, for example of a user's data type.
    """

    images: Any
    labels: Int[np.ndarray, " n"]
    texts: np.ndarray | None = None
    left_out: tuple[str, ...] = ()
    image_ids: np.ndarray | None = None
    groups: np.ndarray | None = None
    more: Mapping[str, np.ndarray] = MappingProxyType({})

    @property
    def units(self) -> Int[np.ndarray, " n"]:
        """(n,) numbers of what no split divides: groups, or else images, or else examples."""
        own = np.arange(len(self.labels))
        return next(each for each in (self.groups, self.image_ids, own) if each is not None)

    def at(self, rows: Int[np.ndarray, " m"]) -> "Examples":
        """The examples at these rows; encoded images are not decoded."""

        def take(values: Any) -> Any:
            if isinstance(values, EncodedImages):
                return values.at(rows)
            return None if values is None else values[rows]

        names = ("images", "labels", "texts", "image_ids", "groups")
        more = {name: values[rows] for name, values in self.more.items()}
        return self._replace(more=more, **{name: take(getattr(self, name)) for name in names})


def decoded(examples: Examples, rows: Int[np.ndarray, " k"]) -> Examples:
    """The examples at these rows with their images decoded.

    With `data.skip_unreadable` examples with unreadable images are left out; otherwise they raise
    UnreadableImageError.
    """
    if not isinstance(examples.images, EncodedImages):
        return examples.at(rows)
    images, used = examples.images.read(rows)
    is_own = used == rows
    return examples.at(rows[is_own])._replace(images=images[is_own])


def normalise(images: UInt8[Array, "b h w c"]) -> Float[Array, "b h w c"]:
    """Pixels 0 ... 255 converted to float32 in [-1, 1]."""
    return images.astype(jnp.float32) / 127.5 - 1


def to_uint8(images: Float[Array, "b h w c"]) -> UInt8[Array, "b h w c"]:
    """Images in [-1, 1] converted to pixels 0 ... 255, rounded to nearest and clipped."""
    return jnp.round(jnp.clip((images + 1) * 127.5, 0, 255)).astype(jnp.uint8)


def fixed_images(
    size: int, channels: int, classes: int, *, flip: bool, **sizes: Any
) -> dict[str, Field]:
    """Fields of a data set with fixed channels and classes; `sizes` limits the image size."""
    field = functools.partial(Field, int, from_data=True)
    return {
        "data.image_size": field("height and width in pixels", size, **sizes),
        "data.channels": field("image channels", channels, choices=(channels,)),
        "data.num_classes": field("number of classes", classes, choices=(classes,)),
        "data.flip": flag(FLIP, flip),
    }


def load(data: ConfigDict, split: Literal["train", "validation", "test"]) -> Examples:
    """One split of the data set in a config's `data` group.

    The validation split consists of `data.validation` training examples, drawn with
    `data.validation_seed`; the training split excludes them. Raises UserError for a data set that
    cannot be read, for an empty validation split and, without `data.skip_unreadable`, for texts or
    images that do not form a pair.
    """
    count = data.get("validation", 0)
    if split == "validation" and count == 0:
        raise UserError("there is no validation split: set data.validation to its size")
    examples = load_pairs_alone(data, "test" if split == "test" else "train")
    if examples.left_out and not data.skip_unreadable:
        raise UserError(
            f"{len(examples.left_out)} texts or images form no pair, the first is "
            f"{examples.left_out[0]}; --mode=check_data lists more, "
            "--config.data.skip_unreadable=True continues without them"
        )
    if split == "test" or count == 0:
        return examples
    is_apart = set_apart(examples.labels, examples.units, count, data.validation_seed)
    return examples.at(np.flatnonzero(is_apart == (split == "validation")))


def load_pairs_alone(data: ConfigDict, split: Literal["train", "test"]) -> Examples:
    """As `load`, but texts and images that form no pair are no error; see `Examples.left_out`."""
    with parts.mistakes(f"data {data.name!r}"):
        examples = parts.get("data", data.name).load(data, split)
    if not isinstance(examples, Examples):
        raise UserError(f"data {data.name!r} must load lzn_jax.data.Examples, got {examples!r}")
    columns = {"images": examples.images, "texts": examples.texts, **examples.more}
    for name, values in columns.items():
        if values is not None and len(values) != len(examples.labels):
            raise UserError(
                f"data {data.name!r} has {len(values)} {name} and {len(examples.labels)} labels"
            )
    return examples


def class_names(data: ConfigDict) -> tuple[str, ...]:
    """Names of the data set's classes by label, empty for a class without a name.

    Raises UserError for a data set that cannot be read.
    """
    return tuple(parts.get("data", data.name).class_names(data))


def label_names(data: ConfigDict) -> list[str]:
    """Name of each class by label, or the label itself if there is no name or it is unreadable."""
    try:
        names = class_names(data)
    except UserError:
        names = ("",) * data.num_classes
    # Names of folders may be invalid Unicode.
    written = (name.encode(errors="replace").decode() for name in names)
    return [name or str(label) for label, name in enumerate(written)]


def attribution(data: ConfigDict) -> str:
    """Attribution required by the data set's licence, or an empty string."""
    return str(getattr(parts.get("data", data.name), "ATTRIBUTION", ""))


def licence(data: ConfigDict) -> str:
    """Licence of the data set in words, or an empty string if it is not known."""
    return str(getattr(parts.get("data", data.name), "LICENCE", attribution(data)))


def background(data: ConfigDict) -> bool | None:
    """Whether the background of the training images is light.

    None if it differs, if images have colours, or if they cannot be read, which is logged.
    """
    if data.channels != 1 or data.get("invert_input") is not None:
        return None
    try:
        images = load(data, "train").images
        return is_light(images[evenly_spaced(min(len(images), 1000), len(images))])
    except UserError as error:
        _log.warning("no image is inverted, as training images cannot be read: %s", error)
        return None


def set_apart(
    labels: Shaped[np.ndarray, " n"],
    groups: Int[np.ndarray, " n"] | None,
    count: int,
    seed: int,
    field: str = "data.validation",
    counted: Any = slice(None),
) -> Bool[np.ndarray, " n"]:
    """Mask of about `count` examples out of n, stratified by class, or by text for texts as labels.

    Groups are never divided: the part exceeds `count` if its last group does. The class of a group
    is that of its first example. Only the `counted` rows count, such as the first of each image.
    Raises UserError, naming the `field`, if none of them is left.
    """
    groups = np.arange(len(labels)) if groups is None else groups
    names, first, sizes = np.unique(groups[counted], return_index=True, return_counts=True)
    classes = labels[counted][first]
    # Systematic sampling: the position of a group in its shuffled class, as a share of the class.
    rng, place = np.random.default_rng(seed), np.empty(len(names))
    ends = np.cumsum(np.unique(classes, return_counts=True)[1])
    for members in np.split(np.argsort(classes, kind="stable"), ends[:-1]):
        rows = rng.permutation(members)
        before = np.cumsum(sizes[rows]) - sizes[rows]
        place[rows] = (before + rng.random()) / sizes[rows].sum()
    order = np.argsort(place, kind="stable")
    chosen = np.zeros(len(names), bool)
    chosen[order] = np.cumsum(sizes[order]) - sizes[order] < count
    if chosen.all():
        raise UserError(f"{field} must leave some of {sizes.sum()} training examples, got {count}")
    return np.isin(groups, names[chosen])


def load_data(config: ConfigDict) -> tuple[Examples, Examples]:
    """Training and evaluation examples; the latter are the validation split if there is one.

    Raises UserError for a data set that cannot be read or is too small for the config.
    """
    train = load(config.data, "train")
    measured = load(config.data, "validation" if config.data.validation else "test")
    check_context(config, len(train.labels), f"the training examples of {config.data.name}")
    return train, measured


def measured_set(data: ConfigDict | Mapping[str, Any]) -> str:
    """Name of the evaluation examples: "validation", or `data.test_set`, or "test"."""
    name: str = "validation" if data["validation"] else data.get("test_set", "test")
    return name


def fit_context(config: ConfigDict) -> ConfigDict:
    """The config with at most as many context anchors as training examples.

    Without a validation split the config is unchanged. Raises UserError for a data set that cannot
    be read.
    """
    if not config.data.validation:
        return config
    count, fitted = len(load(config.data, "train").labels), ConfigDict(config)
    for group in _too_large(config, count):
        _log.info("%s.context_size is %d, the size of the training split", group, count)
        fitted[group].context_size = count
    return FrozenConfigDict(fitted)


def check_context(config: ConfigDict, count: int, examples: str) -> None:
    """Raises UserError if `count` examples are too few for the config's context anchors."""
    for group, size in _too_large(config, count).items():
        raise UserError(f"{group}.context_size must be at most {count}, {examples}, got {size}")


def _too_large(config: ConfigDict, count: int) -> dict[str, int]:
    """Context sizes above `count` by config group, except texts: few of them are distinct."""
    groups = config.to_dict() if has_latents(config) else {}
    sizes = {n: g.get("context_size", 0) for n, g in groups.items() if isinstance(g, dict)}
    return {name: size for name, size in sizes.items() if size > count and name != "text"}


# Maps an image file's content, or pixels (h, w, c) uint8, to the arrays of an example by name.
Transform = Callable[[bytes | np.ndarray, np.random.Generator], Mapping[str, np.ndarray]]

# Maps the columns of an example to columns to add or replace.
RowTransform = Callable[[Mapping[str, np.ndarray], np.random.Generator], Mapping[str, np.ndarray]]

MAX_WORKERS = 16
# Fewer images are decoded in seconds, the time that a worker takes to start.
MIN_FOR_WORKERS = 1000
_MAX_CHUNK = 64  # examples that a worker process transfers at a time


class TrainingBatches:
    """Infinite iterator of batches {name: (b, ...)}.

    A batch contains the arrays of `transform`, 'labels' (b,) int32 and the `columns`, which have
    one row for each example; then `row_transforms` add columns, in turn. Examples without images
    need no transform.

    The order is a new shuffle every epoch, and random numbers of transforms depend on an example's
    position in the stream. So batch k is the same when reading from the start or resuming at k, and
    for any number of workers. With `rows` this process only reads those rows of each batch.

    `workers` processes decode images, with None one for each core, and none for images in memory
    and small data sets, which a thread prepares. Threads would not scale beyond about six cores,
    because decoding a photograph holds the GIL for a sixth of the time.

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
        rows: slice | None = None,
        columns: Mapping[str, np.ndarray] | None = None,
        row_transforms: Sequence[RowTransform] = (),
    ) -> None:
        positions = grain.MapDataset.range(len(examples.labels)).seed(seed).shuffle().repeat()
        load = functools.partial(_example, examples, transform, columns or {}, row_transforms)
        own = range(batch_size)[rows or slice(None)]
        self._rows = _Rows(positions.random_map(load), own, batch_size)
        self.workers = _default_workers(examples) if workers is None else workers
        self._open: list[Any] = []  # the iterator; empty once closed
        weakref.finalize(self, _close, self._open)
        self.seek(0)

    def seek(self, step: int) -> None:
        """Makes batch number `step` the next one."""
        self.close()
        # With chunks, workers prepare parts of the same batch and need less memory.
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
        """Shapes and dtypes of a whole batch, by name; reads the first image."""
        size, example = self._rows.size, self._rows.stream[0]
        return {
            name: jax.ShapeDtypeStruct((size, *np.shape(value)), value.dtype)
            for name, value in example.items()
        }

    def close(self) -> None:
        """Ends the thread and the workers, as does the end of the program."""
        _close(self._open)

    def __enter__(self) -> "TrainingBatches":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __next__(self) -> dict[str, Any]:
        return dict(next(self._open[0]))


@dataclasses.dataclass(frozen=True)
class _Rows:
    """The rows `own` of every batch of `size` in an infinite stream, one after the other."""

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
    """Arrays of an example, or those of the next example if its image is unreadable."""
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
    """Transform to {'images': (h, w, c)}: a file after `prepare`, or an array as it is.

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


def _init_worker(index: int, count: int) -> None:
    """Ignores signals, because the trainer saves first, and exits when the trainer exits."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    trainer: Any = multiprocessing.parent_process()

    def end_with_parent() -> None:
        trainer.join()
        os._exit(0)

    threading.Thread(target=end_with_parent, daemon=True).start()
