"""Sheets of images: samples, reconstructions, interpolations, predictions.

Sheets are laid out in pixels, so that every image pixel becomes a square of the same size.
"""

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt8
from matplotlib.figure import Figure

from lzn_jax.data import Images
from lzn_jax.plots.style import (
    BORDER,
    DPI,
    TEXT_SIZE,
    TITLE_SIZE,
    class_name,
    heading_width,
    label_name,
    save,
    text_extent,
)

_TILE = 96  # pixels; smaller images are enlarged to at least this
_GAP = 10  # pixels between images
_BORDER_WIDTH = 2  # pixels around an image, inside the gap
_MARGIN = 24  # pixels around a sheet
_MAX_CLASS_ROWS = 20
_PAIR_COLUMNS = 10
_MAX_PAIRS = 30
_MAX_PREDICTIONS = 60
_SHARE_LEFT = {"center": 0.5, "right": 1.0}  # share of a note's width at the left of its x


class _Tile(NamedTuple):
    """An RGB image and its upper left corner, in pixels from that of the first image."""

    x: int
    y: int
    pixels: np.ndarray


class _Note(NamedTuple):
    """A text centred vertically at y; x is its centre or its right end, as `align` requires."""

    x: int
    y: int
    text: str
    align: Literal["center", "right"]


def enlarged(images: UInt8[np.ndarray, "n h w c"], side: int = _TILE) -> np.ndarray:
    """RGB images enlarged by a whole factor to at least `side` pixels, by nearest neighbour."""
    factor = math.ceil(side / max(images.shape[1:3]))
    images = images.repeat(factor, axis=1).repeat(factor, axis=2)
    return np.broadcast_to(images, (*images.shape[:3], 3))


def _width(text: str) -> int:
    return text_extent(text, TEXT_SIZE)[0]


def _write_sheet(
    path: str | os.PathLike[str], tiles: Sequence[_Tile], notes: Sequence[_Note], title: str
) -> Path:
    """Writes tiles and notes below a title; the x of a note may be negative."""
    starts = [note.x - _SHARE_LEFT[note.align] * _width(note.text) for note in notes]
    ends = [start + _width(note.text) for start, note in zip(starts, notes, strict=True)]
    left = _MARGIN + math.ceil(max(0, -min(starts)))
    top = 2 * _MARGIN + text_extent(title, TITLE_SIZE, "bold")[1]
    right = math.ceil(max(*ends, *(tile.x + tile.pixels.shape[1] for tile in tiles)))
    bottom = max(
        *(tile.y + tile.pixels.shape[0] for tile in tiles), *(note.y + _MARGIN for note in notes)
    )
    width = max(left + right, heading_width(title) + _MARGIN) + _MARGIN
    height = top + bottom + _MARGIN
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI)
    border = ((_BORDER_WIDTH, _BORDER_WIDTH), (_BORDER_WIDTH, _BORDER_WIDTH), (0, 0))
    for tile in tiles:
        pixels = np.pad(tile.pixels, border, constant_values=round(255 * float(BORDER)))
        x, below = left + tile.x, height - top - tile.y - tile.pixels.shape[0]
        figure.figimage(pixels, x - _BORDER_WIDTH, below - _BORDER_WIDTH, origin="upper")
    for note in notes:
        figure.text(
            (left + note.x) / width,
            1 - (top + note.y) / height,
            note.text,
            fontsize=TEXT_SIZE,
            ha=note.align,
            va="center",
            parse_math=False,
        )
    figure.text(
        _MARGIN / width,
        1 - _MARGIN / height,
        title,
        fontsize=TITLE_SIZE,
        fontweight="bold",
        va="top",
        parse_math=False,
    )
    return save(figure, path)


def sample_grid(
    path: str | os.PathLike[str],
    images: UInt8[np.ndarray, "n h w c"],
    labels: Int[np.ndarray, " n"],
    class_names: Sequence[str] | None = None,
    title: str | None = None,
    columns: int = 12,
) -> Path:
    """Images (1 or 3 channels) in one row per class, with the class's name at the left.

    At most `columns` images of each of the 20 lowest classes are shown. Images of a single class
    fill several rows, at most `columns`. A label below 0 means an unknown class, without a name.
    """
    classes = np.unique(labels)[:_MAX_CLASS_ROWS]
    limit = columns if len(classes) > 1 else columns * columns
    tiles, notes = [], []
    for row, label in enumerate(classes.tolist()):
        pixels = enlarged(images[np.flatnonzero(labels == label)[:limit]])
        row_height, column_width = pixels.shape[1] + _GAP, pixels.shape[2] + _GAP
        name = class_name(label, class_names)
        notes.append(_Note(-12, row * row_height + pixels.shape[1] // 2, name, "right"))
        for place, tile in enumerate(pixels):
            down, across = divmod(place, columns)
            corner = (across * column_width, (row + down) * row_height)
            tiles.append(_Tile(*corner, tile))
    return _write_sheet(path, tiles, notes, title or "Images by class")


def reconstructions(
    path: str | os.PathLike[str],
    originals: Images,
    reconstructed: UInt8[np.ndarray, "n h w c"],
    errors: Float[np.ndarray, " n"],
    title: str | None = None,
) -> Path:
    """The first 30 real images (1 or 3 channels), their reconstructions and errors below them."""
    shown = slice(_MAX_PAIRS)
    upper, lower = enlarged(originals[shown]), enlarged(reconstructed[shown])
    height, width = upper.shape[1:3]
    text_height = 2 * text_extent("0", TEXT_SIZE)[1]
    block_height = 2 * (height + _GAP) + text_height + _MARGIN
    tiles, notes = [], []
    for index, error in enumerate(errors[shown]):
        down, across = divmod(index, _PAIR_COLUMNS)
        x, y = across * (width + _GAP), down * block_height
        text_y = y + 2 * (height + _GAP) + text_height // 2
        tiles.append(_Tile(x, y, upper[index]))
        tiles.append(_Tile(x, y + height + _GAP, lower[index]))
        notes.append(_Note(x + width // 2, text_y, f"{error:.2f}", "center"))
        if across == 0:
            notes.append(_Note(-12, y + height // 2, "real", "right"))
            notes.append(_Note(-12, y + height + _GAP + height // 2, "reconstructed", "right"))
            notes.append(_Note(-12, text_y, "l2 error", "right"))
    return _write_sheet(path, tiles, notes, title or "Real images and their reconstructions")


def interpolation(
    path: str | os.PathLike[str],
    ends: Images,
    images: UInt8[np.ndarray, "n h w c"],
    weights: Float[np.ndarray, " n"],
    title: str | None = None,
) -> Path:
    """A row of interpolated images between the two real images `ends`.

    The text below each image is the weight of the second real image.
    """
    strip = enlarged(np.concatenate([ends[:1], images, ends[1:]]))
    height, width = strip.shape[1:3]
    text_y = height + _GAP + text_extent("0", TEXT_SIZE)[1]
    texts = ["real", *(f"{weight:.2g}" for weight in weights), "real"]
    tiles, notes = [], []
    for index, text in enumerate(texts):
        gaps = (index > 0) + (index == len(texts) - 1)  # wider gaps beside real images
        x = index * (width + _GAP) + gaps * _MARGIN
        tiles.append(_Tile(x, 0, strip[index]))
        notes.append(_Note(x + width // 2, text_y, text, "center"))
    return _write_sheet(path, tiles, notes, title or "From one image to another")


def predictions(
    path: str | os.PathLike[str],
    images: Images,
    classes: Int[np.ndarray, " n"],
    probabilities: Float[np.ndarray, " n"],
    labels: Int[np.ndarray, " n"] | None = None,
    title: str | None = None,
    class_names: Sequence[str] | None = None,
) -> Path:
    """The first 60 images with predicted classes, probabilities, and labels that differ.

    `class_names` is indexed by label.
    """
    shown = slice(_MAX_PREDICTIONS)
    pixels = enlarged(images[shown])
    height, width = pixels.shape[1:3]
    line = 3 * text_extent("0", TEXT_SIZE)[1] // 2
    texts = []
    pairs = zip(classes[shown].tolist(), probabilities[shown].tolist(), strict=True)
    for index, (predicted, probability) in enumerate(pairs):
        texts.append([f"{label_name(predicted, class_names)}: {probability:.0%}"])
        if labels is not None and labels[index] != predicted:
            texts[index].append(f"is {label_name(int(labels[index]), class_names)}")
    column = max(width, *(_width(text) for lines in texts for text in lines)) + _GAP
    tiles, notes = [], []
    for index, lines in enumerate(texts):
        down, across = divmod(index, _PAIR_COLUMNS)
        x, y = across * column, down * (height + 2 * line + _MARGIN)
        tiles.append(_Tile(x, y, pixels[index]))
        for place, text in enumerate(lines):
            text_y = y + height + place * line + line // 2 + _GAP
            notes.append(_Note(x + width // 2, text_y, text, "center"))
    return _write_sheet(path, tiles, notes, title or "Images and their predicted classes")
