"""The one style of all pictures."""

import io
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FuncFormatter, MaxNLocator

from lzn_jax.run import reporting

DPI = 150
TEXT_SIZE = 10  # points, as the next two
TITLE_SIZE = 13
SMALL_SIZE = 9

_credit: ContextVar[str] = ContextVar("credit", default="")


def new_figure(width: float, height: float, title: str | None = None) -> Figure:
    """An empty figure, in inches, whose parts make room for each other."""
    layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12)
    figure = Figure(figsize=(width, height), dpi=DPI, layout=layout)
    if title is not None:
        figure.suptitle(title, fontsize=TITLE_SIZE, fontweight="bold")
    return figure


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


def save(figure: Figure, path: str | os.PathLike[str]) -> Path:
    """Writes a PNG file, whole or not at all."""
    if credit := _credit.get():
        figure.text(0.5, 0, credit, ha="center", va="bottom", fontsize=7, color="0.4")
        if isinstance(layout := figure.get_layout_engine(), ConstrainedLayoutEngine):
            line = 0.18 / figure.get_figheight()  # inches
            layout.set(rect=(0, line, 1, 1 - line))
    buffer = io.BytesIO()
    with warnings.catch_warnings():  # texts of any script; what the font lacks is a box
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(buffer, format="png", dpi=DPI, facecolor="white")
    reporting.write_bytes(path, buffer.getvalue())
    return Path(path)
