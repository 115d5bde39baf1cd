"""Style of all pictures: palette, text sizes, layout and saving."""

import functools
import io
import math
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from lzn_jax import files

AnyPath = str | os.PathLike[str]
DPI = 150
TINY_SIZE, SMALL_SIZE, TEXT_SIZE, TITLE_SIZE = 7, 9, 10, 13  # points
# Colours of Okabe and Ito, which colour-blind readers can distinguish, and four more.
PALETTE = (
    *("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00"),
    *("#56b4e9", "#6a3d9a", "#8c564b", "#7f7f7f", "#a8a800"),
)
_PAD = 0.12  # inches

_credit: ContextVar[str] = ContextVar("credit", default="")
# Characters that are missing in the font are drawn as boxes, without a warning.
quiet = functools.partial(warnings.catch_warnings, action="ignore", category=UserWarning)


def new_figure(width: float, height: float, title: str = "") -> Figure:
    """Empty figure of `width` inches, or wider if the title or the credit needs it."""
    width = max(width, heading_width(title) / DPI + 2 * _PAD)
    layout = ConstrainedLayoutEngine(w_pad=_PAD, h_pad=_PAD)
    figure = Figure(figsize=(width, height), dpi=DPI, layout=layout)
    if title:
        figure.suptitle(title, fontsize=TITLE_SIZE, fontweight="bold")
    return figure


@functools.cache
def text_extent(text: str, size: int, weight: str = "normal") -> tuple[int, int]:
    """Width and height of a text in pixels, for a size in points."""
    canvas = FigureCanvasAgg(Figure(dpi=DPI))
    artist = canvas.figure.text(0, 0, text, fontsize=size, fontweight=weight, parse_math=False)
    with quiet():
        extent = artist.get_window_extent(canvas.get_renderer())
    return math.ceil(extent.width), math.ceil(extent.height)


def heading_width(title: str) -> int:
    """Width in pixels of a picture's title or of its credit, whichever is wider."""
    credit_width = text_extent(_credit.get(), TINY_SIZE)[0]
    return max(text_extent(title, TITLE_SIZE, "bold")[0], credit_width)


def label_name(label: int, class_names: Sequence[str] | None) -> str:
    """Name of a label's class, or the label's number if classes are unnamed."""
    return str(label) if class_names is None else class_names[label]


def class_name(label: int, class_names: Sequence[str] | None) -> str:
    """Like `label_name`, but "class 3" if the name is a number, and "" for labels below 0."""
    name = "" if label < 0 else label_name(label, class_names)
    return f"class {name}" if name.isdecimal() else name


def label_axes(axes: Axes, title: str, x_label: str, y_label: str) -> None:
    """Sets the title, the axis labels and the grid of one panel."""
    axes.set_title(title, fontsize=11, fontweight="bold", loc="left")
    axes.set_xlabel(x_label, fontsize=TEXT_SIZE)
    axes.set_ylabel(y_label, fontsize=TEXT_SIZE)
    axes.tick_params(which="both", labelsize=SMALL_SIZE)
    axes.grid(True, color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


@contextmanager
def credited(text: str) -> Iterator[None]:
    """Adds a credit in small letters to the bottom of pictures saved in this context."""
    token = _credit.set(text)
    try:
        yield
    finally:
        _credit.reset(token)


def save(figure: Figure, path: AnyPath) -> Path:
    """Writes a PNG file atomically."""
    if credit := _credit.get():
        figure.text(0.5, 0, credit, ha="center", va="bottom", fontsize=TINY_SIZE, color="0.4")
        if isinstance(layout := figure.get_layout_engine(), ConstrainedLayoutEngine):
            line = 0.18 / figure.get_figheight()  # inches
            layout.set(rect=(0, line, 1, 1 - line))
    buffer = io.BytesIO()
    with quiet():
        figure.savefig(buffer, format="png", dpi=DPI, facecolor="white")
    files.write_bytes(path, buffer.getvalue())
    return Path(path)
