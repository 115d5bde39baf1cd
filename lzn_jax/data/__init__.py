"""Data sets and their splits."""

import functools
import logging
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Shaped, UInt8
from ml_collections import ConfigDict, FrozenConfigDict

from lzn_jax import parts
from lzn_jax.data.pixels import CROP_TO_INK, FLIP, EncodedImages, evenly_spaced, is_light
from lzn_jax.errors import UserError
from lzn_jax.models import has_latents
from lzn_jax.parts import Field, flag

_log = logging.getLogger(__name__)


class Examples(NamedTuple):
    """Examples of one split, one per row.

    Attributes:
      images: `Images` (n, h, w, c) uint8, or None. Generated images are always an array.
      labels: (n,) int32.
      texts: (n,) strings, empty for an example without a text. None in a data set without texts.
      left_out: descriptions of texts and images that do not form a pair.
      image_ids: (n,) number of each example's image. None means one image per example.
      groups: (n,) numbers of groups that no split divides. None means that images are the groups.
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
        """(n,) numbers of the units that no split divides: groups, images or examples."""
        own = np.arange(len(self.labels))
        return next(each for each in (self.groups, self.image_ids, own) if each is not None)

    def at(self, rows: Int[np.ndarray, " m"]) -> "Examples":
        """The examples at these rows. Encoded images are not decoded."""

        def take(values: Any) -> Any:
            if isinstance(values, EncodedImages):
                return values.at(rows)
            return None if values is None else values[rows]

        names = ("images", "labels", "texts", "image_ids", "groups")
        more = {name: values[rows] for name, values in self.more.items()}
        return self._replace(more=more, **{name: take(getattr(self, name)) for name in names})


def decoded(examples: Examples, rows: Int[np.ndarray, " k"]) -> Examples:
    """The examples at these rows with their images decoded.

    With `data.skip_unreadable`, examples with unreadable images are left out. Otherwise they raise
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
    size: int, channels: int, classes: int, *, flip: bool, fills: bool = False, **sizes: Any
) -> dict[str, Field]:
    """Fields of a data set with fixed channels and classes. `sizes` limits the image size.

    `fills` states whether the object of an image fills the frame.
    """
    field = functools.partial(Field, int, from_data=True)
    return {
        "data.image_size": field("height and width in pixels", size, **sizes),
        "data.channels": field("image channels", channels, choices=(channels,)),
        "data.num_classes": field("number of classes", classes, choices=(classes,)),
        "data.flip": flag(FLIP, flip),
        "data.crop_to_ink": flag(CROP_TO_INK, fills),
    }


def load(data: ConfigDict, split: Literal["train", "validation", "test"]) -> Examples:
    """One split of the data set in a config's `data` group.

    The validation split consists of `data.validation` training examples, drawn with
    `data.validation_seed`. The training split excludes them. Raises UserError for a data set that
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
    """Like `load`, but lists texts and images that form no pair in `Examples.left_out`."""
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
    """Name of each class by label, or the label itself if the name is empty or unreadable."""
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

    None if backgrounds differ, if images are coloured, or if they cannot be read, which is logged.
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
    """Mask of about `count` examples out of n, stratified by label (or by text).

    Groups are never divided, so the last group may exceed `count`. The first example determines the
    class of a group. Only the `counted` rows count, such as the first row of each image. Raises
    UserError, which names the `field`, if no such row is left.
    """
    groups = np.arange(len(labels)) if groups is None else groups
    names, first, sizes = np.unique(groups[counted], return_index=True, return_counts=True)
    classes = labels[counted][first]
    # Systematic sampling by the position of a group in its shuffled class, as a share of the class.
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
    """Training examples, and the examples to evaluate: the validation split if there is one.

    Raises UserError for a data set that cannot be read or is too small for the config.
    """
    train = load(config.data, "train")
    measured = load(config.data, "validation" if config.data.validation else "test")
    check_context(config, len(train.labels), f"the training examples of {config.data.name}")
    return train, measured


def measured_set(data: ConfigDict) -> str:
    """Name of the evaluation examples: "validation" or "test"."""
    return "validation" if data["validation"] else "test"


def fit_context(config: ConfigDict) -> ConfigDict:
    """Limits the number of context anchors of a config to the number of training examples.

    Without a validation split, the config is returned unchanged. Raises UserError for a data set
    that cannot be read.
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
    """Context sizes above `count` by config group, except for texts, which may repeat."""
    groups = config.to_dict() if has_latents(config) else {}
    sizes = {n: g.get("context_size", 0) for n, g in groups.items() if isinstance(g, dict)}
    return {name: size for name, size in sizes.items() if size > count and name != "text"}
