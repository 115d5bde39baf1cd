"""Samples of two data types side by side: translations, tasks and retrieval."""

import os
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch

from lzn_jax.plots.style import (
    BORDER,
    DPI,
    PALETTE,
    SMALL_SIZE,
    TEXT_SIZE,
    TITLE_SIZE,
    heading_width,
    save,
    text_extent,
)

MAX_PAIRS = 20
_PAIR_COLUMNS = 5
_MAX_COLUMNS = 8
_MADE, _PARTNER = PALETTE[0], PALETTE[2]  # colours of boxes

# Lengths in inches.
_WIDE, _NARROW = 1.9, 1.2  # columns
_MARGIN = 0.25  # also between bands
_GAP = 0.1  # between the cells of a row
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
    _add_band(page, 0.0, sources, targets[:MAX_PAIRS], _PAIR_COLUMNS, made)
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
        first = _NARROW + _ARROW_GAP - _GAP
        page.arrows.append((_NARROW - _GAP, y + height / 2, first, y + height / 2))
        for place, (sample, is_own) in enumerate(zip(nearest, is_partner, strict=True)):
            box = _PARTNER if is_own else None
            page.cells.append(_Cell(sample, first + place * _NARROW, y, height, box))
        y += height + 1.5 * _GAP
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
            y += height + (_ARROW_GAP if made else _GAP)
            if made:
                middles = [x + (page.width - _GAP) / 2 for x in places]
                page.arrows.extend((x, y - _ARROW_GAP, x, y) for x in middles)
        height = _height(below, page.width)
        box = _MADE if made else None
        page.cells.extend(
            _Cell(sample, x, y, height, box) for sample, x in zip(below, places, strict=True)
        )
        y += height + _MARGIN
    return y


def _height(samples: Sequence[Any], width: float) -> float:
    """Height of a row that holds these samples in columns of this width."""
    return max(
        0.75 * width if _is_image(sample) else _LINE * len(_wrapped(sample, width)) + _GAP
        for sample in samples
    )


def _write(path: str | os.PathLike[str], page: _Page, title: str, key: str) -> Path:
    """Writes a page below its title and a key, as large as it needs."""
    key_width = text_extent(key, SMALL_SIZE)[0] / DPI
    headings = [text_extent(text, TEXT_SIZE, "bold")[0] / DPI for _, text in page.headings]
    cells_width = max(cell.x for cell in page.cells) + page.width - _GAP
    width = max(cells_width, heading_width(title) / DPI, key_width, *headings, 0.0) + 2 * _MARGIN
    top = _MARGIN + 0.4 + (1.5 * _LINE if key else 0.0)
    height = top + max(cell.y + cell.height for cell in page.cells) + _MARGIN
    figure = Figure(figsize=(width, height), dpi=DPI)

    def place(x: float, y: float) -> tuple[float, float]:
        return (_MARGIN + x) / width, 1 - (top + y) / height

    heading: dict[str, Any] = {"va": "top", "parse_math": False}
    bold = heading | {"fontweight": "bold"}
    figure.text(*place(0.0, _MARGIN - top), title, fontsize=TITLE_SIZE, **bold)
    figure.text(*place(0.0, _MARGIN + 0.3 - top), key, fontsize=SMALL_SIZE, color="0.35", **heading)
    for y, text in page.headings:
        figure.text(*place(0.0, y), text, fontsize=TEXT_SIZE, **bold)
    for cell in page.cells:
        corner = place(cell.x, cell.y + cell.height)
        size = ((page.width - _GAP) / width, cell.height / height)
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
    needed = text_extent(text, SMALL_SIZE)[0] / DPI + 2 * _GAP
    size = SMALL_SIZE * min(1.0, width / needed)
    axes.text(0.5, 0.5, text, ha="center", va="center", fontsize=size, parse_math=False)


def _wrapped(sample: Any, width: float) -> list[str]:
    """Lines of a text for a column of this width."""
    return textwrap.wrap(str(sample), int(13.5 * width), max_lines=4)


def _is_image(sample: Any) -> bool:
    return isinstance(sample, np.ndarray) and sample.ndim == 3
