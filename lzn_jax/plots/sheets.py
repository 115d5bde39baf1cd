"""Sheets of samples: grids, pairs and rows with captions."""

import math
import os
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch

from lzn_jax.data.pixels import Images
from lzn_jax.plots.style import (
    BORDER,
    DPI,
    PALETTE,
    SMALL_SIZE,
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


MAX_PAIRS = 20
_PAIRS_A_ROW = 5
_MAX_COLUMNS = 10
_MADE, _PARTNER = PALETTE[0], PALETTE[2]  # colours of boxes

# Lengths in inches.
_WIDE, _NARROW = 1.9, 1.05  # columns
_PAGE_MARGIN = 0.25  # also between bands
_CELL_GAP = 0.1  # between the cells of a row
_ARROW_GAP = 0.34  # between a cell and another that an arrow leads to
_LINE = 0.19  # of text


class _Cell(NamedTuple):
    """A sample and its place, from the upper left corner of the first cell.

    `box` is the colour of the box around it; without one, an image has a thin border.
    """

    sample: Any
    x: float
    y: float
    height: float
    box: str | None = None


class _Page(NamedTuple):
    """Cells of one width, arrows (x and y of both ends) and headings (y and text)."""

    width: float
    cells: list[_Cell]
    arrows: list[tuple[float, float, float, float]]
    headings: list[tuple[float, str]]


def translations(
    path: str | os.PathLike[str], sources: Any, targets: Any, title: str, made: bool = True
) -> Path:
    """The first 20 sources, each above its target.

    Samples are images (h, w, c) uint8 or anything that `str` turns into text. An arrow leads from
    each source to its target in a box, unless the targets are not `made` by a model.
    """
    page = _Page(_WIDE, [], [], [])
    _add_band(page, 0.0, sources, targets[:MAX_PAIRS], _PAIRS_A_ROW, made)
    return _write(path, page, title, "In a box: output of the model" if made else "")


def tasks(path: str | os.PathLike[str], rows: Sequence[tuple[str, Any, Any]]) -> Path:
    """A band for each task (title, sources, targets), as in `translations`.

    Sources are None for samples of the prior.
    """
    page, y = _Page(_NARROW, [], [], []), 0.0
    for title, sources, targets in rows:
        page.headings.append((y, title))
        y = _add_band(page, y + 1.5 * _LINE, sources, targets, _MAX_COLUMNS, made=True)
    has_sources = any(sources is not None for _, sources, _ in rows)
    title = "What the model translates" if has_sources else "What the model generates"
    return _write(path, page, title, "In a box: output of the model")


def retrieval(
    path: str | os.PathLike[str], rows: Sequence[tuple[Any, Sequence[Any], Sequence[bool]]]
) -> Path:
    """A row for each query: the query, the samples nearest to it, a box around its partner.

    A row holds the query, the samples, and whether each of them is the partner.
    """
    page, y = _Page(_NARROW, [], [], []), 0.0
    for query, nearest, is_partner in rows:
        height = _height([query, *nearest], _NARROW)
        page.cells.append(_Cell(query, 0.0, y, height))
        first = _NARROW + _ARROW_GAP - _CELL_GAP
        page.arrows.append((_NARROW - _CELL_GAP, y + height / 2, first, y + height / 2))
        for place, (sample, is_own) in enumerate(zip(nearest, is_partner, strict=True)):
            box = _PARTNER if is_own else None
            page.cells.append(_Cell(sample, first + place * _NARROW, y, height, box))
        y += height + 1.5 * _CELL_GAP
    key = "Left: query. Right: nearest first. In a box: its partner"
    return _write(path, page, "Nearest samples of the other data type", key)


def _add_band(page: _Page, y: float, sources: Any, targets: Any, columns: int, made: bool) -> float:
    """Adds sources above targets, over several rows if needed; returns the y below them."""
    for start in range(0, len(targets), columns):
        below = targets[start : start + columns]
        places = [place * page.width for place in range(len(below))]
        if sources is not None:
            above = sources[start : start + columns]
            height = _height(above, page.width)
            page.cells.extend(
                _Cell(sample, x, y, height) for sample, x in zip(above, places, strict=False)
            )
            y += height + (_ARROW_GAP if made else _CELL_GAP)
            if made:
                middles = [x + (page.width - _CELL_GAP) / 2 for x in places]
                page.arrows.extend((x, y - _ARROW_GAP, x, y) for x in middles)
        height = _height(below, page.width)
        box = _MADE if made else None
        page.cells.extend(
            _Cell(sample, x, y, height, box) for sample, x in zip(below, places, strict=True)
        )
        y += height + _PAGE_MARGIN
    return y


def _height(samples: Any, width: float) -> float:
    """Height of a row that holds these samples in columns of this width."""
    return max(
        0.75 * width if _is_image(sample) else _LINE * len(_wrapped(sample, width)) + _CELL_GAP
        for sample in samples
    )


def _write(path: str | os.PathLike[str], page: _Page, title: str, key: str) -> Path:
    """Writes a page below its title and a key, as large as it needs."""
    key_width = text_extent(key, SMALL_SIZE)[0] / DPI
    headings = [text_extent(text, TEXT_SIZE, "bold")[0] / DPI for _, text in page.headings]
    cells_width = max(cell.x for cell in page.cells) + page.width - _CELL_GAP
    width = (
        max(cells_width, heading_width(title) / DPI, key_width, *headings, 0.0) + 2 * _PAGE_MARGIN
    )
    top = _PAGE_MARGIN + 0.4 + (1.5 * _LINE if key else 0.0)
    height = top + max(cell.y + cell.height for cell in page.cells) + _PAGE_MARGIN
    figure = Figure(figsize=(width, height), dpi=DPI)

    def place(x: float, y: float) -> tuple[float, float]:
        return (_PAGE_MARGIN + x) / width, 1 - (top + y) / height

    heading: dict[str, Any] = {"va": "top", "parse_math": False}
    bold = heading | {"fontweight": "bold"}
    figure.text(*place(0.0, _PAGE_MARGIN - top), title, fontsize=TITLE_SIZE, **bold)
    figure.text(
        *place(0.0, _PAGE_MARGIN + 0.3 - top), key, fontsize=SMALL_SIZE, color="0.35", **heading
    )
    for y, text in page.headings:
        figure.text(*place(0.0, y), text, fontsize=TEXT_SIZE, **bold)
    for cell in page.cells:
        corner = place(cell.x, cell.y + cell.height)
        size = ((page.width - _CELL_GAP) / width, cell.height / height)
        _draw_sample(figure.add_axes((*corner, *size)), cell.sample, page.width, cell.box)
    for x0, y0, x1, y1 in page.arrows:
        arrow = FancyArrowPatch(
            place(x0, y0),
            place(x1, y1),
            transform=figure.transFigure,
            arrowstyle="-|>",
            mutation_scale=11,
            shrinkA=4,
            shrinkB=4,
            color="0.35",
        )
        figure.add_artist(arrow)
    return save(figure, path)


def _draw_sample(axes: Axes, sample: Any, width: float, box: str | None) -> None:
    """Draws an image, or a text in a size that fits into a column of this width."""
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set(color=box or BORDER, linewidth=1.8 if box else 0.8)
    if _is_image(sample):
        axes.imshow(np.broadcast_to(sample, (*sample.shape[:2], 3)), interpolation="nearest")
        return
    axes.spines[:].set_visible(box is not None)
    text = "\n".join(_wrapped(sample, width))
    needed = text_extent(text, SMALL_SIZE)[0] / DPI + 2 * _CELL_GAP
    size = SMALL_SIZE * min(1.0, width / needed)
    axes.text(0.5, 0.5, text, ha="center", va="center", fontsize=size, parse_math=False)


def _wrapped(sample: Any, width: float) -> list[str]:
    """Lines of a text for a column of this width."""
    return textwrap.wrap(str(sample), int(13.5 * width), max_lines=4)


def _is_image(sample: Any) -> bool:
    return isinstance(sample, np.ndarray) and sample.ndim == 3
