"""Pairs of samples of two data types, side by side."""

import os
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from lzn_jax.plots.style import SMALL_SIZE, new_figure, save

COLUMNS = 5
MAX_PAIRS = 20


def translations(path: str | os.PathLike[str], sources: Any, targets: Any, title: str) -> Path:
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
    text = textwrap.fill(str(sample), 16, max_lines=4)
    words = axes.text(0.5, 0.5, text, ha="center", va="center", fontsize=SMALL_SIZE)
    words.set_in_layout(False)  # a long word may reach into the next column
