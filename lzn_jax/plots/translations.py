"""Pairs of samples of two data types, side by side."""

import os
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from lzn_jax.plots.style import DPI, SMALL_SIZE, TEXT_SIZE, new_figure, save, text_extent

COLUMNS = 5
MAX_PAIRS = 20
_WIDE, _NARROW = 1.9, 1.25  # inches of a column


def translations(path: str | os.PathLike[str], sources: Any, targets: Any, title: str) -> Path:
    """Each source above what it became; images are arrays (h, w, c) uint8, others are written."""
    count = min(len(targets), MAX_PAIRS)
    rows = -(-count // COLUMNS)
    figure = new_figure(_WIDE * COLUMNS, 2.9 * rows, title)
    grid = figure.subplots(2 * rows, COLUMNS, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for place in range(count):
        row, column = divmod(place, COLUMNS)
        show(grid[2 * row, column], sources[place], _WIDE)
        show(grid[2 * row + 1, column], targets[place], _WIDE)
    return save(figure, path)


def tasks(path: str | os.PathLike[str], rows: Sequence[tuple[str, Any, Any]]) -> Path:
    """A band for each task, (title, sources, targets): sources above targets, or None alone."""
    columns = max(len(targets) for _, _, targets in rows)
    lines = [
        (title if place == 0 else "", samples)
        for title, *sides in rows
        for place, samples in enumerate(side for side in sides if side is not None)
    ]
    heights = [1.2 if _is_image(samples[0]) else 0.75 for _, samples in lines]
    figure = new_figure(_NARROW * columns, sum(heights) + 0.6, "What the model translates")
    ratios = {"height_ratios": heights}
    grid = figure.subplots(len(lines), columns, squeeze=False, gridspec_kw=ratios)
    for line, (title, samples) in zip(grid, lines, strict=True):
        line[0].set_title(title, fontsize=TEXT_SIZE, fontweight="bold", loc="left")
        for place, axes in enumerate(line):
            show(axes, samples[place] if place < len(samples) else "", _NARROW)
    return save(figure, path)


def retrieval(
    path: str | os.PathLike[str], rows: Sequence[tuple[Any, Sequence[Any], Sequence[bool]]]
) -> Path:
    """A row for each query, at the left, what is found by it, and a frame round its own partner."""
    columns = 1 + max(len(found) for _, found, _ in rows)
    figure = new_figure(
        _NARROW * columns, 1.0 * len(rows) + 0.6, "What is nearest to another's latent"
    )
    grid = figure.subplots(len(rows), columns, squeeze=False)
    for line, (query, found, is_own) in zip(grid, rows, strict=True):
        for axes, sample, framed in zip(line, [query, *found], [False, *is_own], strict=False):
            show(axes, sample, _NARROW)
            if framed:
                frame = Rectangle((0, 0), 1, 1, transform=axes.transAxes, fill=False)
                frame.set(edgecolor="#009e73", linewidth=3, clip_on=False)
                axes.add_artist(frame)
        for axes in line[1 + len(found) :]:
            axes.set_axis_off()
    return save(figure, path)


def show(axes: Axes, sample: Any, width: float) -> None:
    """One sample: an image, or a label or text in lines of at most `width` inches."""
    axes.set_axis_off()
    if _is_image(sample):
        axes.imshow(np.broadcast_to(sample, (*sample.shape[:2], 3)), interpolation="nearest")
        return
    text = textwrap.fill(str(sample), 16, max_lines=4)
    needed = 1.05 * text_extent(text, SMALL_SIZE)[0] / DPI  # inches, with some room
    size = SMALL_SIZE * width / max(needed, width)
    words = axes.text(0.5, 0.5, text, ha="center", va="center", fontsize=size, parse_math=False)
    words.set_in_layout(False)  # a long word may reach to the next column


def _is_image(sample: Any) -> bool:
    return isinstance(sample, np.ndarray) and sample.ndim == 3
