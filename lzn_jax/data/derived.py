"""Config fields that follow from the images of a data set, and tests that are held out of it."""

import dataclasses
import logging
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from ml_collections import ConfigDict

from lzn_jax.configuration import nest
from lzn_jax.data import Examples, set_apart
from lzn_jax.data.pixels import ENCODED_FIELDS
from lzn_jax.errors import UserError
from lzn_jax.parts import Field, count_or_0

MAX_HEADERS = 1000  # images read to find sizes and colours
GREY_MODES = frozenset({"1", "L", "LA", "I", "F", "I;16", "I;16L", "I;16B", "I;16N"})  # Pillow's
MAX_OWN_SIDE = 64  # pixels; images of equal size keep it up to this side
SIDE = 32  # side of all other images
HOLDOUT = 10  # without a test split, one in ten images is a test image

_FROM_IMAGES = ("data.image_size", "data.channels", "data.num_classes")
FIELDS = (
    ENCODED_FIELDS
    | {
        n: dataclasses.replace(ENCODED_FIELDS[n], default=None, from_data=True)
        for n in _FROM_IMAGES
    }
    | {
        "data.holdout": count_or_0(
            "training images held out for tests, 0 = test on all of them, None = use a test split",
            None,
        ),
        "data.holdout_seed": Field(int, "seed of the hold-out", 0, minimum=0, below=2**32),
    }
)
_OF_TRAINING = (
    *("training.batch_size", "training.queries", "latent.context_size"),
    *("evaluation.num_samples", "evaluation.context_sizes"),
)
_OF_TEST = ("evaluation.batch_sizes",)

Header = tuple[tuple[int, int], str]  # width and height of an image, and Pillow's mode
_log = logging.getLogger(__name__)


@runtime_checkable
class Source(Protocol):
    """Images from which fields follow; each member is used only if a field needs it."""

    name: str  # in the log
    has_test: bool  # whether there is a test split

    def num_classes(self) -> int:
        """Number of classes, 1 without any."""

    def count(self, data: ConfigDict, split: str) -> int:
        """Number of images in a split, training and held-out images together."""

    def headers(self, most: int) -> Iterable[Header]:
        """Sizes and modes of at most `most` training images."""


def is_known(values: Mapping[str, Any]) -> bool:
    """Whether no field is None that follows from the images."""
    return all(values[name] is not None for name in _FROM_IMAGES)


def completed(values: Mapping[str, Any], stated: Collection[str], source: Source) -> dict[str, Any]:
    """The values, where None is replaced by a value derived from the images.

    Numbers of images that are not in `stated` are limited to those that there are. One log line
    lists the changed fields.
    """
    derived = {} if is_known(values) else _from_images(values, source)
    derived |= _limits({**values, **derived}, stated, source)
    changed = [f"{n.removeprefix('data.')}={v}" for n, v in derived.items() if v != values[n]]
    if changed:
        _log.info("from %s: %s", source.name, ", ".join(changed))
    return {**values, **derived}


def _from_images(values: Mapping[str, Any], source: Source) -> dict[str, Any]:
    """Values for fields that are None, from classes and at most 1000 images."""
    sizes, modes = set(), set()
    for size, mode in source.headers(MAX_HEADERS):
        sizes.add(size)
        modes.add(mode)
    side = min(sizes.pop()) if len(sizes) == 1 else SIDE
    networks = [(values.get(f"{n}.patch_size", 1), values.get(f"{n}.channel_multipliers", (1,)))
                for n in ("encoder", "decoder")]  # fmt: skip
    grid = math.lcm(*(patch * 2 ** (len(levels) - 1) for patch, levels in networks))
    derived = {
        "data.image_size": math.ceil((side if side <= MAX_OWN_SIDE else SIDE) / grid) * grid,
        "data.channels": 1 if modes and modes <= GREY_MODES else 3,
        "data.num_classes": source.num_classes(),
    }
    return {name: value for name, value in derived.items() if values[name] is None}


def _limits(values: Mapping[str, Any], stated: Collection[str], source: Source) -> dict[str, Any]:
    """A hold-out if there is no test split, and numbers of images that there are."""
    data, limits = ConfigDict(nest(values)["data"]), dict[str, Any]()
    has_test = data.holdout is not None or source.has_test
    names = [name for name in (*_OF_TRAINING, *_OF_TEST) if name in values and name not in stated]
    if has_test and not names:
        return {}
    train = source.count(data, "train")
    if not has_test and train > 1:
        data.holdout = limits["data.holdout"] = max(train // HOLDOUT, 1)
    test = data.holdout or source.count(data, "test")
    train = max(train - (data.holdout or 0), 1)  # too large a hold-out is reported when it is read
    for name in names:
        value, most = values[name], train if name in _OF_TRAINING else test
        if isinstance(value, tuple):
            limits[name] = tuple(sorted({min(each, most) for each in value}))
        elif value is not None:
            limits[name] = min(value, most)
    if "training.batch_size" in limits:  # a multiple of the queries
        queries = limits.get("training.queries", values.get("training.queries")) or 1
        limits["training.batch_size"] -= limits["training.batch_size"] % queries
    return limits


def held_out(
    examples: Examples, data: ConfigDict, split: str, class_names: Sequence[str]
) -> Examples:
    """The part of a data set without a test split that `data.holdout` makes one split.

    With 0 or None it contains all examples. Held-out images are drawn with `data.holdout_seed`,
    stratified by class or by their first text, and with all of their texts. Raises UserError for a
    hold-out that leaves no training images of a class.
    """
    if not data.holdout:
        return examples
    count, labels, texts = len(examples.labels), examples.labels, examples.texts
    ids = np.arange(count) if examples.image_ids is None else examples.image_ids
    images, first = np.unique(ids, return_index=True)
    strata = labels[first] if texts is None else texts[first]
    seed = data.get("holdout_seed", 0)
    is_test = set_apart(strata, None, data.holdout, seed, "data.holdout")
    if len(missing := np.setdiff1d(labels[first], labels[first[~is_test]])):
        raise UserError(
            f"data.holdout={data.holdout} leaves no training image of the class "
            f"{class_names[missing[0]]}: lower it, or change data.holdout_seed"
        )
    return examples.at(np.flatnonzero(np.isin(ids, images[is_test == (split == "test")])))
