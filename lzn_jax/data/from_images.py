"""Fields of a config whose values follow from a folder of images."""

import logging
import math
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from lzn_jax.configuration import schema_of, with_defaults
from lzn_jax.data import folder

MAX_OWN_SIDE = 64  # pixels; images of one size up to here keep it
SIDE = 32  # of all others
HOLDOUT = 10  # one image in so many is a test image where there is no test folder

_OF_TRAINING = (
    *("training.batch_size", "training.queries", "latent.context_size"),
    *("evaluation.num_samples", "evaluation.context_sizes"),
)
_OF_TEST = ("evaluation.batch_sizes",)

_log = logging.getLogger(__name__)


def resolved(values: Mapping[str, Any], stated: Collection[str]) -> dict[str, Any]:
    """The values, with those that follow from the images in place of None.

    Numbers of images that are not `stated` become at most what the folder holds. One log line names
    the fields. Values of other data sets do not change. Raises UserError for a folder that is
    missing or empty.
    """
    fields = schema_of(values)
    values = with_defaults(values, fields)
    if values["data.name"] != "image_folder" or values.get("data.path") is None:
        return values
    values["data.path"] = str(Path(values["data.path"]).expanduser().absolute())
    is_known = all(values[n] is not None for n, field in fields.items() if field.from_data)
    if is_known and not Path(values["data.path"]).is_dir():
        return values  # reported when it is read
    found = {} if is_known else _described(values)
    found |= _counted(values | found, stated)
    if found:
        named = ", ".join(f"{name.removeprefix('data.')}={value}" for name, value in found.items())
        _log.info("from the images in %s: %s", values["data.path"], named)
    return values | found


def _described(values: Mapping[str, Any]) -> dict[str, Any]:
    """Fields that are None, by class folders and headers of files."""
    classes, side, is_grey = folder.survey(Path(values["data.path"]), values["data.class_name"])
    grid = math.lcm(*(_grid(values, network) for network in ("encoder", "decoder")))
    side = side if side is not None and side <= MAX_OWN_SIDE else SIDE
    found = {
        "data.image_size": math.ceil(side / grid) * grid,
        "data.channels": 1 if is_grey else 3,
        "data.num_classes": classes,
    }
    return {name: value for name, value in found.items() if values[name] is None}


def _grid(values: Mapping[str, Any], network: str) -> int:
    """Divisor that a network needs of the side of an image."""
    levels = len(values.get(f"{network}.channel_multipliers", (1,)))
    patch: int = values.get(f"{network}.patch_size", 1)
    return patch * 2 ** (levels - 1)


def _counted(values: Mapping[str, Any], stated: Collection[str]) -> dict[str, Any]:
    """A hold-out where there is none, and numbers of images beyond those of the folder."""
    is_held_out = values["data.holdout"] is not None or values["data.captions"]
    limited = [name for name in (*_OF_TRAINING, *_OF_TEST) if name in values and name not in stated]
    if not limited and (is_held_out or folder.has_test_folder(values["data.path"])):
        return {}
    data = ConfigDict({n.removeprefix("data."): v for n, v in values.items() if "data." in n[:5]})
    train, found = folder.count(data, "train"), dict[str, Any]()
    if not is_held_out and not folder.has_test_folder(data.path) and train > 1:
        data.holdout = found["data.holdout"] = max(train // HOLDOUT, 1)
    test = data.holdout or (train if data.holdout == 0 else folder.count(data, "test"))
    train -= data.holdout or 0
    for name in limited:
        most = train if name in _OF_TRAINING else test
        found[name] = _at_most(values[name], most)
    if "training.batch_size" in found:  # a multiple of the queries
        part = found.get("training.queries", values.get("training.queries")) or 1
        found["training.batch_size"] -= found["training.batch_size"] % part
    return {name: value for name, value in found.items() if value != values[name]}


def _at_most(value: Any, most: int) -> Any:
    """A number, None or numbers, none above `most`."""
    if isinstance(value, tuple):
        return tuple(sorted({min(each, most) for each in value}))
    return None if value is None else min(value, most)
