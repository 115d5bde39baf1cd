"""Pairs of samples of two data types, side by side."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from lzn_jax.plots.style import SMALL_SIZE, new_figure, save

COLUMNS = 5
MAX_PAIRS = 20


def translations(
    path: str | os.PathLike[str], sources: Sequence[Any], targets: Sequence[Any], title: str
) -> Path:
    """Each source above what it became; images are arrays (h, w, c) uint8, others are written."""
    count = min(len(targets), MAX_PAIRS)
    rows = -(-count // COLUMNS)
    figure = new_figure(1.9 * COLUMNS, 2.9 * rows, title)
    grid = figure.subplots(2 * rows, COLUMNS, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for place in range(count):
        row, column = divmod(place, COLUMNS)
        show(grid[2 * row, column], sources[place])
        show(grid[2 * row + 1, column], targets[place])
    return save(figure, path)


def show(axes: Axes, sample: Any) -> None:
    """One sample: an image, or a label or text as words, a line every three of them."""
    axes.set_axis_off()
    if isinstance(sample, np.ndarray) and sample.ndim == 3:
        axes.imshow(np.broadcast_to(sample, (*sample.shape[:2], 3)), interpolation="nearest")
        return
    words = str(sample).split()
    lines = [" ".join(words[start : start + 3]) for start in range(0, len(words), 3)]
    axes.text(0.5, 0.5, "\n".join(lines), ha="center", va="center", fontsize=SMALL_SIZE)
