"""The one style of all pictures."""

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
from matplotlib.ticker import FuncFormatter, MaxNLocator

from lzn_jax.run import reporting

DPI = 150
TEXT_SIZE = 10  # points, as the next two
TITLE_SIZE = 13
SMALL_SIZE = 9
_CREDIT_SIZE = 7
_PAD = 0.12  # inches

_credit: ContextVar[str] = ContextVar("credit", default="")


def new_figure(width: float, height: float, title: str | None = None) -> Figure:
    """An empty figure, in inches, whose parts make room for each other.

    It is wider than `width` where title or credit need that.
    """
    layout = ConstrainedLayoutEngine(w_pad=_PAD, h_pad=_PAD)
    width = max(width, heading_width(title or "") / DPI + 2 * _PAD)
    figure = Figure(figsize=(width, height), dpi=DPI, layout=layout)
    if title is not None:
        figure.suptitle(title, fontsize=TITLE_SIZE, fontweight="bold")
    return figure


@functools.cache
def text_extent(text: str, size: int, weight: str = "normal") -> tuple[int, int]:
    """Width and height of a text in pixels; size in points."""
    canvas = FigureCanvasAgg(Figure(dpi=DPI))
    artist = canvas.figure.text(0, 0, text, fontsize=size, fontweight=weight, parse_math=False)
    with _boxes_for_missing_glyphs():
        extent = artist.get_window_extent(canvas.get_renderer())
    return math.ceil(extent.width), math.ceil(extent.height)


def heading_width(title: str) -> int:
    """Pixels that a picture's title needs, or its credit, if that is longer."""
    credit_width = text_extent(_credit.get(), _CREDIT_SIZE)[0]
    return max(text_extent(title, TITLE_SIZE, "bold")[0], credit_width)


def label_name(label: int, class_names: Sequence[str] | None) -> str:
    """A label's class, its number where classes have no names."""
    return str(label) if class_names is None else class_names[label]


def class_name(label: int, class_names: Sequence[str] | None) -> str:
    """As `label_name`, but "class 3" where the name is a number, and nothing for labels below 0."""
    name = "" if label < 0 else label_name(label, class_names)
    return f"class {name}" if name.isdecimal() else name


def label_axes(axes: Axes, title: str, x_label: str, y_label: str) -> None:
    """Title, labels and grid of one plot."""
    axes.set_title(title, fontsize=11, fontweight="bold", loc="left")
    axes.set_xlabel(x_label, fontsize=TEXT_SIZE)
    axes.set_ylabel(y_label, fontsize=TEXT_SIZE)
    axes.tick_params(which="both", labelsize=SMALL_SIZE)
    axes.grid(True, color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def count_steps(axes: Axes) -> None:
    """Training steps on the x axis."""
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda step, _: f"{step:,.0f}"))


@contextmanager
def credited(text: str) -> Iterator[None]:
    """Pictures that are saved inside say so in small letters at the bottom."""
    token = _credit.set(text)
    try:
        yield
    finally:
        _credit.reset(token)


@contextmanager
def _boxes_for_missing_glyphs() -> Iterator[None]:
    """Texts of any script are drawn without a warning; what the font lacks is a box."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


def save(figure: Figure, path: str | os.PathLike[str]) -> Path:
    """Writes a PNG file, whole or not at all."""
    if credit := _credit.get():
        figure.text(0.5, 0, credit, ha="center", va="bottom", fontsize=_CREDIT_SIZE, color="0.4")
        if isinstance(layout := figure.get_layout_engine(), ConstrainedLayoutEngine):
            line = 0.18 / figure.get_figheight()  # inches
            layout.set(rect=(0, line, 1, 1 - line))
    buffer = io.BytesIO()
    with _boxes_for_missing_glyphs():
        figure.savefig(buffer, format="png", dpi=DPI, facecolor="white")
    reporting.write_bytes(path, buffer.getvalue())
    return Path(path)
