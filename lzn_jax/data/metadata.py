"""Metadata files with the texts of a folder's images, in the format of Hugging Face's ImageFolder.

    metadata.jsonl    {"file_name": "cat/1.png", "text": "a cat that sleeps"}
    metadata.csv      file_name,text
                      cat/1.png,a cat that sleeps

Each row contains one text. Names are relative to the file's folder, which is the folder of the
images or one of its parents.
"""

import csv
import posixpath
from collections.abc import Iterator
from pathlib import Path

from lzn_jax.configuration import UserError, parse_json

FILES = ("metadata.jsonl", "metadata.csv")


def find(folder: Path, root: Path) -> Path:
    """Metadata file of the images in `folder`: the nearest in it and its parents up to `root`.

    Raises UserError if there is none, or if one folder contains two.
    """
    for place in (folder, *folder.parents):
        files = [place / name for name in FILES if (place / name).is_file()]
        if len(files) == 2:
            raise UserError(f"{place} holds both {' and '.join(FILES)}: remove one of them")
        if files:
            return files[0]
        if place == root:
            break
    raise UserError(
        f"{folder} has no {' or '.join(FILES)} with file_name and text: write one, or set "
        "data.captions to False"
    )


def read(path: Path) -> Iterator[tuple[int, str, str]]:
    """(line number, name, text) of each row; raises UserError naming a malformed line."""
    rows = _jsonl(path) if path.suffix == ".jsonl" else _csv(path)
    for line, values in rows:
        name, text = values.get("file_name"), values.get("text")
        if not isinstance(name, str) or not isinstance(text, str):
            raise _error(path, line, "must have file_name and text, both of them strings")
        yield line, posixpath.normpath(name), text


def _jsonl(path: Path) -> Iterator[tuple[int, dict]]:
    for number, line in _lines(path):
        try:
            values = parse_json(line) if line.strip() else None
        except ValueError as error:
            raise _error(path, number, "is not valid JSON") from error
        if isinstance(values, dict):
            yield number, values
        elif line.strip():
            raise _error(path, number, 'must have the form {"file_name": "1.png", "text": "a cat"}')


def _csv(path: Path) -> Iterator[tuple[int, dict]]:
    reader = csv.DictReader((line for _, line in _lines(path)), strict=True)
    try:
        if not {"file_name", "text"} <= set(reader.fieldnames or ()):
            raise _error(path, 1, "must name the columns file_name and text")
        for values in reader:
            if None in values:  # fields beyond those in the first line
                raise _error(path, reader.line_num, "has too many fields: put texts in quotes")
            yield reader.line_num, values
    except csv.Error as error:
        raise _error(path, reader.reader.line_num, f"is not valid CSV: {error}") from error


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Numbers and contents of lines, with line ends and without a byte order mark."""
    number = 0
    try:
        with open(path, "rb") as file:
            for number, line in enumerate(file, 1):
                yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise _error(path, number, "is not encoded in UTF-8") from error


def _error(path: Path, line: int, fault: str) -> UserError:
    return UserError(f"line {line} of {path} {fault}")
