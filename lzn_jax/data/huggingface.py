"""Data sets of the Hugging Face Hub and local copies, with random access to Arrow rows."""

import functools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from lzn_jax import parts
from lzn_jax.data import Examples
from lzn_jax.data.folder import FIELDS, examples_of, pairs_of
from lzn_jax.data.folder import facts as facts  # calls the functions below
from lzn_jax.data.pixels import Rows, UnreadableImageError
from lzn_jax.errors import UserError, explained, package
from lzn_jax.parts import word

_TEST_SPLITS = ("test", "validation")
_TYPES = {  # types of columns that are found, and of columns that may be named
    "image": ("Image", "Image"),
    "label": ("ClassLabel", "ClassLabel|u?int.*|bool|string"),
    "text": ("(list of )?string", "(list of )?string"),
}


def load(data: ConfigDict, split: str) -> Examples:
    """One split, its images decoded on access. Labels are 0 if there is one class.

    With `data.captions` each text of a row is an example. Raises UserError for a data set that
    cannot be opened, a missing split, a missing or ambiguous column, and unknown classes.
    """
    table, place = _table(data, split)
    images = _Images(table, _column(data, table, "image"), place)
    labels, pairs = np.zeros(len(table), np.int32), None
    if data.num_classes > 1:
        index = {name: label for label, name in enumerate(class_names(data))}
        names, column = _classes(data, table), table[_column(data, table, "label")]
        failure = f"{place} contains a label without a class in the training split"
        with explained(failure, "set data.test_split, data.holdout or data.label_column", KeyError):
            labels = np.array([index[names[value]] for value in column], np.int32)
    if data.captions:
        said = table[_column(data, table, "text")]
        texts = [[text or "" for text in (s if isinstance(s, list) else [s])] for s in said]
        pairs = pairs_of(texts, images.name)
    return examples_of(data, split, images, labels, pairs)


def class_names(data: ConfigDict) -> tuple[str, ...]:
    """Names of the training split's classes, or one empty name for a single class."""
    if data.num_classes == 1:
        return ("",)
    names = tuple(_classes(data, _table(data, "train")[0]).values()) or ("",)
    parts.require(
        data.num_classes in (None, len(names)),
        f"data.num_classes must be {len(names)} with the labels of {data.path}, or 1, got "
        f"{data.num_classes}: data.label_column names the column of labels",
    )
    return names


def has_test(data: ConfigDict) -> bool:
    """Whether a test split exists."""
    return data.test_split is not None or any(name in _splits(data) for name in _TEST_SPLITS)


def _table(data: ConfigDict, split: str) -> tuple[Any, str]:
    """Table of a split, and its description."""
    is_of_test, splits = split == "test" and data.holdout is None, _splits(data)
    field = "test_split" if is_of_test else "train_split"
    wanted = _TEST_SPLITS if data[field] is None else (data[field],)
    for name in wanted:
        if name in splits:
            return splits[name], f"{data.path}'s split {name}"
    raise UserError(
        f"{data.path} has no split {' or '.join(wanted)}: set data.{field} to one of "
        f"{', '.join(splits)}, or data.holdout to the number of training images to hold out"
    )


def _splits(data: ConfigDict) -> Mapping[str, Any]:
    """Tables by split. A table that was saved alone is the training split."""
    parts.require(
        "://" not in data.path,
        f"data.path must be a folder or OWNER/NAME on the Hub, got {data.path}: an address can "
        "only be streamed, and shuffling needs random access to rows",
    )
    library = package("datasets", "-e '.[hf]'")
    folder, remedy = Path(data.path).expanduser().absolute(), "correct data.path or data.subset"
    with explained(f"the data set {data.path} cannot be opened", f"{remedy}, or check the network"):
        if any((folder / name).is_file() for name in ("dataset_dict.json", "state.json")):
            found = library.load_from_disk(str(folder))
        elif folder.is_dir():
            found = library.load_dataset(str(folder), data.subset)
        else:
            found = _from_hub(data.path, data.subset)
    return found if isinstance(found, dict) else {data.train_split: found}


@functools.cache  # the Hub is asked once
def _from_hub(name: str, subset: str | None) -> Any:
    return package("datasets", "-e '.[hf]'").load_dataset(name, subset)


def _column(data: ConfigDict, table: Any, role: str) -> str:
    """The column of images, labels or texts, by its type and name, or "" without labels."""
    named, features = data[f"{role}_column"], table.features
    pattern = _TYPES[role][named is not None]
    found = [n for n in features if n == (named or n) and re.fullmatch(pattern, _type(features[n]))]
    if len(found) > 1 or (not found and (named or role != "label")):
        raise UserError(
            f"{data.path} must have one column of {role}s, found {len(found)}: set "
            f"data.{role}_column to one of {', '.join(found or features)}, got {named!r}"
        )
    return found[0] if found else ""


def _type(feature: Any) -> str:
    if inner := getattr(feature, "feature", None):
        return f"list of {_type(inner)}"
    kind = type(feature).__name__
    return feature.dtype.removeprefix("large_") if kind == "Value" else kind


def _classes(data: ConfigDict, table: Any) -> dict[Any, str]:
    """Names of classes by value of the label column, sorted unless the column names them."""
    column = _column(data, table, "label")
    if names := getattr(table.features.get(column), "names", None):
        return dict(enumerate(names))
    return {value: str(value) for value in sorted({*table[column]} - {None})} if column else {}


class _Images(Rows):
    """Image files in a column of a table."""

    def __init__(self, table: Any, column: str, place: str) -> None:
        super().__init__(np.arange(len(table)))
        undecoded = type(table.features[column])(decode=False)
        self._files = table.select_columns([column]).cast_column(column, undecoded)
        self._column, self._place = column, place

    def read(self, index: int) -> bytes:
        """Content of the image file, from the table or from a path."""
        file = self._files[int(self._rows[index])][self._column] or {}
        content, path = file.get("bytes"), file.get("path")
        try:
            return Path(path).read_bytes() if content is None and path else content or b""
        except OSError as error:
            raise UnreadableImageError(str(error.strerror)) from error

    def name(self, index: int) -> str:
        """Number, data set and split of the row."""
        return f"row {self._rows[index]} of {self._place}"


parts.add(
    "data",
    "huggingface",
    "lzn_jax.data.huggingface",
    FIELDS
    | {
        "data.path": word("OWNER/NAME on the Hub, or folder of Parquet, Arrow or save_to_disk"),
        "data.subset": word("subset (configuration) of the data set, None = the only one", None),
        "data.train_split": word("split of training images", "train"),
        "data.test_split": word("split of test images, None = test, or else validation", None),
        "data.image_column": word("column of images, None = the only one of type Image", None),
        "data.label_column": word("column of labels, None = the only ClassLabel", None),
        "data.text_column": word("column of texts, None = the only one of strings", None),
    },
)
