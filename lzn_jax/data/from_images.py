"""Config fields with values derived from a folder of images."""

import logging
import math
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from lzn_jax.configuration import schema_of, with_defaults
from lzn_jax.data import folder

MAX_OWN_SIDE = 64  # pixels; images of equal size keep it up to this side
SIDE = 32  # side of all other images
HOLDOUT = 10  # without a test folder, one in ten images is a test image

_OF_TRAINING = (
    *("training.batch_size", "training.queries", "latent.context_size"),
    *("evaluation.num_samples", "evaluation.context_sizes"),
)
_OF_TEST = ("evaluation.batch_sizes",)

_log = logging.getLogger(__name__)


def resolved(values: Mapping[str, Any], stated: Collection[str]) -> dict[str, Any]:
    """The values, where None is replaced by a value derived from the images.

    Numbers of images that are not in `stated` are limited to the images in the folder. One log line
    lists the changed fields. Values of other data sets are unchanged. Raises UserError for a
    missing or empty folder.
    """
    fields = schema_of(values)
    values = with_defaults(values, fields)
    if values["data.name"] != "image_folder" or values.get("data.path") is None:
        return values
    values["data.path"] = str(Path(values["data.path"]).expanduser().absolute())
    is_known = all(values[n] is not None for n, field in fields.items() if field.from_data)
    if is_known and not Path(values["data.path"]).is_dir():
        return values  # reported when it is read
    derived = {} if is_known else _from_files(values)
    derived |= _limited(values | derived, stated)
    if derived:
        named = ", ".join(
            f"{name.removeprefix('data.')}={value}" for name, value in derived.items()
        )
        _log.info("from the images in %s: %s", values["data.path"], named)
    return values | derived


def _from_files(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values for fields that are None, from class folders and file headers."""
    classes, side, is_grey = folder.survey(Path(values["data.path"]), values["data.class_name"])
    grid = math.lcm(*(_grid(values, network) for network in ("encoder", "decoder")))
    side = side if side is not None and side <= MAX_OWN_SIDE else SIDE
    derived = {
        "data.image_size": math.ceil(side / grid) * grid,
        "data.channels": 1 if is_grey else 3,
        "data.num_classes": classes,
    }
    return {name: value for name, value in derived.items() if values[name] is None}


def _grid(values: Mapping[str, Any], network: str) -> int:
    """Number of pixels by which a network requires an image's side to be divisible."""
    levels = len(values.get(f"{network}.channel_multipliers", (1,)))
    patch: int = values.get(f"{network}.patch_size", 1)
    return patch * 2 ** (levels - 1)


def _limited(values: Mapping[str, Any], stated: Collection[str]) -> dict[str, Any]:
    """A hold-out if there is no test folder, and limits for numbers above those of the folder."""
    is_held_out = values["data.holdout"] is not None
    limited = [name for name in (*_OF_TRAINING, *_OF_TEST) if name in values and name not in stated]
    if not limited and (is_held_out or folder.has_test_folder(values["data.path"])):
        return {}
    data = ConfigDict({n[5:]: v for n, v in values.items() if n.startswith("data.")})
    train, limits = folder.count(data, "train"), dict[str, Any]()
    if not is_held_out and not folder.has_test_folder(data.path) and train > 1:
        data.holdout = limits["data.holdout"] = max(train // HOLDOUT, 1)
    test = data.holdout or (train if data.holdout == 0 else folder.count(data, "test"))
    train -= data.holdout or 0
    if train <= 0:
        return {}  # reported when it is read
    for name in limited:
        most = train if name in _OF_TRAINING else test
        limits[name] = _at_most(values[name], most)
    if "training.batch_size" in limits:  # a multiple of the queries
        part = limits.get("training.queries", values.get("training.queries")) or 1
        limits["training.batch_size"] -= limits["training.batch_size"] % part
    return {name: value for name, value in limits.items() if value != values[name]}


def _at_most(value: Any, most: int) -> Any:
    """The value with `most` as its upper bound; for a tuple, the distinct bounded numbers."""
    if isinstance(value, tuple):
        return tuple(sorted({min(each, most) for each in value}))
    return None if value is None else min(value, most)
