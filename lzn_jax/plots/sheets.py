"""Sheets of samples: rows of images and texts with names and captions."""

import math
import textwrap
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt8
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from lzn_jax.data.pixels import Images
from lzn_jax.plots import style
from lzn_jax.plots.style import SMALL_SIZE, TEXT_SIZE, AnyPath, text_extent

MAX_PAIRS, MAX_RECONSTRUCTIONS, MAX_PREDICTIONS = 20, 30, 60
_MAX_CLASS_ROWS = 20
_LETTERS, _MAX_LINES = 18, 6  # heights of a line and a text
_BORDER = "0.75"  # of images, as white ones are invisible on a white page
_MADE = "In a box: output of the model"
_DRAWN = (1.6, 1.2)  # inches
# Pixels.
_TILE = 96  # least side of an image
_GAP = 10
_MARGIN = 24

Shown = Sequence[object] | np.ndarray  # images (n, h, w, c) uint8, or strings


class Cell(NamedTuple):
    """An image (h, w, c) uint8 or anything that `str` turns into text."""

    sample: object
    caption: str = ""  # below the sample
    is_boxed: bool = False  # as the sheet's key explains


class Row(NamedTuple):
    """Cells side by side, a name at their left, and a heading above.

    A heading, even if empty, separates the row from the row above it.
    """

    cells: Sequence[Cell]
    name: str = ""
    heading: str | None = None


def enlarged(images: UInt8[np.ndarray, "n h w c"], side: int = _TILE) -> np.ndarray:
    """RGB images enlarged by a whole factor to at least `side` pixels, by nearest neighbour."""
    factor = math.ceil(side / max(images.shape[1:3]))
    images = images.repeat(factor, axis=1).repeat(factor, axis=2)
    return np.broadcast_to(images, (*images.shape[:3], 3))


def drawn(
    draw: Callable[[object, Axes], object], samples: Iterable[object]
) -> UInt8[np.ndarray, "n h w 3"]:
    """Image of each sample, drawn by `draw(sample, axes)`."""
    canvas = FigureCanvasAgg(Figure(_DRAWN, style.DPI, layout="constrained"))
    images, (width, height) = [], canvas.get_width_height()
    for sample in samples:
        canvas.figure.clear()
        axes = canvas.figure.subplots()
        axes.tick_params(labelsize=style.TINY_SIZE)
        axes.set_prop_cycle(color=style.PALETTE)
        draw(sample, axes)
        with style.quiet():
            canvas.draw()
        images.append(np.array(canvas.buffer_rgba())[..., :3])
    return np.array(images, np.uint8).reshape(-1, height, width, 3)


def sheet(path: AnyPath, rows: Sequence[Row], title: str, key: str = "") -> Path:
    """Writes rows of cells of equal width below a title and a key, as large as necessary."""
    contents = [_content(each) for row in rows for cell in row.cells for each in cell[:2]]
    column = max(_size(content)[0] for content in contents)
    names = max(text_extent(row.name, TEXT_SIZE)[0] for row in rows)
    left = _MARGIN + names + (_GAP if names else 0)
    cells = max(len(row.cells) for row in rows) * (column + _GAP) - _GAP
    headings = [text_extent(row.heading or "", TEXT_SIZE, "bold")[0] for row in rows]
    widest = max(style.heading_width(title), text_extent(key, SMALL_SIZE)[0], *headings)
    width = max(_MARGIN + widest, left + cells) + _MARGIN
    figure = Figure(dpi=style.DPI)
    page = figure.add_axes((0, 0, 1, 1))
    page.axis("off")
    y = _MARGIN + _write(page, _MARGIN, title, style.TITLE_SIZE, weight="bold") + _GAP
    y += _write(page, y, key, SMALL_SIZE, color="0.35") + _GAP if key else 0
    for row in rows:
        if row.heading is not None:
            y += _GAP
            y += _write(page, y, row.heading, TEXT_SIZE, weight="bold") + _GAP
        y += _draw_row(page, row, left, y, column) + _GAP
    height = y - _GAP + _MARGIN
    # A unit of the axes is a pixel, so images keep their pixels.
    page.set(xlim=(0, width), ylim=(height, 0), aspect="auto")
    figure.set_size_inches(width / style.DPI, height / style.DPI)
    return style.save(figure, path)


def _content(sample: object) -> Any:
    """An enlarged image, or a text in lines."""
    if isinstance(sample, np.ndarray) and sample.ndim == 3:
        return enlarged(sample[None])[0]
    lines = [part for line in str(sample).split("\n") for part in textwrap.wrap(line, _LETTERS)]
    return "\n".join(lines[:_MAX_LINES]) + "…" * (len(lines) > _MAX_LINES)


def _size(content: np.ndarray | str) -> tuple[int, int]:
    """Width and height in pixels, including the margin of texts."""
    if isinstance(content, str):
        width, height = text_extent(content, SMALL_SIZE)
        return width + 2 * _GAP, height + _GAP
    return content.shape[1], content.shape[0]


def _write(page: Axes, y: int, text: str, size: int, **look: Any) -> int:
    """Writes a line below y. Returns its height."""
    page.text(_MARGIN, y, text, fontsize=size, va="top", parse_math=False, **look)
    return text_extent(text, size)[1]


def _draw_row(page: Axes, row: Row, left: int, y: int, column: int) -> int:
    """Draws cells and the row's name below y. Returns the height."""
    contents = [_content(cell.sample) for cell in row.cells]
    height = max(_size(content)[1] for content in contents)
    middle = y + height // 2
    look: dict[str, Any] = {"va": "center", "parse_math": False}
    page.text(left - _GAP, middle, row.name, fontsize=TEXT_SIZE, ha="right", **look)
    look |= {"ha": "center", "fontsize": SMALL_SIZE}
    for place, (cell, content) in enumerate(zip(row.cells, contents, strict=True)):
        centre = left + place * (column + _GAP) + column // 2
        color, line = (style.PALETTE[0], 4) if cell.is_boxed else (_BORDER, 2)
        if isinstance(content, str):
            page.text(centre, middle, content, **look)
            frame = (centre - column // 2, y), column, height
        else:
            width, tall = _size(content)
            x, top, pad = centre - width // 2, middle - tall // 2, line // 2
            extent = (x, x + width, top + tall, top)
            page.imshow(content, extent=extent, interpolation="nearest")
            frame = (x - pad, top - pad), width + line, tall + line
        if cell.is_boxed or not isinstance(content, str):
            points = line * 72 / style.DPI
            page.add_patch(Rectangle(*frame, fill=False, color=color, linewidth=points))
        page.text(centre, y + height + _GAP // 2, _content(cell.caption), **look | {"va": "top"})
    captions = [_size(_content(cell.caption))[1] for cell in row.cells if cell.caption]
    return height + max(captions, default=0)


def _blocks(*rows: Row, columns: int = 10) -> list[Row]:
    """Breaks rows after `columns` cells. The rest follows below, without names and headings."""
    blocks = [row._replace(cells=row.cells[:columns]) for row in rows]
    for start in range(columns, len(rows[0].cells), columns):
        rest = [Row(row.cells[start : start + columns]) for row in rows]
        blocks += [rest[0]._replace(heading="" if rest[1:] else None), *rest[1:]]
    return blocks


def sample_grid(
    path: AnyPath,
    images: UInt8[np.ndarray, "n h w c"],
    labels: Int[np.ndarray, " n"],
    class_names: Sequence[str] | None = None,
    title: str = "Images by class",
    columns: int = 12,
) -> Path:
    """Draws images (1 or 3 channels) in a row per class, with its name at the left.

    At most `columns` images of each of the 20 lowest classes are shown. Images of a single class
    fill several rows, at most `columns`. A label below 0 means an unknown class, without a name.
    """
    classes, rows = np.unique(labels)[:_MAX_CLASS_ROWS], []
    limit = columns if len(classes) > 1 else columns * columns
    for label in classes.tolist():
        cells = [Cell(image) for image in images[np.flatnonzero(labels == label)[:limit]]]
        rows += _blocks(Row(cells, style.class_name(label, class_names)), columns=columns)
    return sheet(path, rows, title)


def reconstructions(
    path: AnyPath,
    originals: Images,
    reconstructed: UInt8[np.ndarray, "n h w c"],
    errors: Float[np.ndarray, " n"],
    title: str = "Real images and their reconstructions",
) -> Path:
    """Draws the first 30 real images (1 or 3 channels) above reconstructions and errors."""
    real = [Cell(image) for image in originals[:MAX_RECONSTRUCTIONS]]
    pairs = zip(real, reconstructed, errors, strict=False)
    again = [Cell(image, f"{error:.2f}") for _, image, error in pairs]
    rows = _blocks(Row(real, "real"), Row(again, "reconstructed"))
    return sheet(path, rows, title, "Below each pair: l2 error")


def interpolation(
    path: AnyPath,
    ends: Images,
    images: UInt8[np.ndarray, "n h w c"],
    weights: Float[np.ndarray, " n"],
    title: str = "From one image to another",
) -> Path:
    """Draws a row of interpolated images between the two real images `ends`.

    The text below each image is the weight of the second real image.
    """
    between = [Cell(image, f"{w:.2g}") for image, w in zip(images, weights, strict=True)]
    row = Row([Cell(ends[0], "real"), *between, Cell(ends[1], "real")])
    return sheet(path, [row], title, "Below each image: weight of the second real image")


def predictions(
    path: AnyPath,
    images: Images,
    classes: Int[np.ndarray, " n"],
    probabilities: Float[np.ndarray, " n"],
    labels: Int[np.ndarray, " n"] | None = None,
    title: str = "Images and their predicted classes",
    class_names: Sequence[str] | None = None,
) -> Path:
    """Draws the first 60 images with predicted classes, probabilities, and differing labels.

    `class_names` is indexed by label.
    """
    cells = []
    for index, image in enumerate(images[:MAX_PREDICTIONS]):
        predicted = int(classes[index])
        caption = f"{style.label_name(predicted, class_names)}: {probabilities[index]:.0%}"
        if labels is not None and labels[index] != predicted:
            caption += f"\nis {style.label_name(int(labels[index]), class_names)}"
        cells.append(Cell(image, caption))
    return sheet(path, _blocks(Row(cells)), title)


def translations(
    path: AnyPath,
    sources: Shown,
    targets: Shown,
    title: str,
    made: bool = True,
) -> Path:
    """Draws the first 20 sources, each above its target. Targets `made` by a model are boxed.

    Samples are images (h, w, c) uint8 or anything that `str` turns into text.
    """
    rows = _pairs(sources[:MAX_PAIRS], targets[:MAX_PAIRS], made)
    return sheet(path, _blocks(*rows, columns=5), title, _MADE if made else "")


def _pairs(sources: Shown | None, targets: Shown, made: bool = True) -> list[Row]:
    below = Row([Cell(sample, is_boxed=made) for sample in targets])
    return [below] if sources is None else [Row([Cell(sample) for sample in sources]), below]


def tasks(path: AnyPath, rows: Sequence[tuple[str, Shown | None, Shown]]) -> Path:
    """Draws a band for each task (title, sources, targets), like `translations`.

    Sources are None for samples of the prior.
    """
    bands = []
    for task, sources, targets in rows:
        first, *second = _pairs(sources, targets)
        bands += _blocks(first._replace(heading=task), *second)
    has_sources = any(sources is not None for _, sources, _ in rows)
    title = "What the model translates" if has_sources else "What the model generates"
    return sheet(path, bands, title, _MADE)


def retrieval(path: AnyPath, rows: Sequence[tuple[object, Shown, Sequence[bool]]]) -> Path:
    """A row for each query: the query, the samples nearest to it, a box around its partner.

    A row contains the query, the samples, and whether each sample is the partner.
    """
    shown = []
    for query, nearest, is_partner in rows:
        found = [Cell(each, "", own) for each, own in zip(nearest, is_partner, strict=True)]
        shown.append(Row([Cell(query), Cell("→"), *found]))
    key = "Left: query. Right: nearest first. In a box: its partner"
    return sheet(path, shown, "Nearest samples of the other data type", key)
