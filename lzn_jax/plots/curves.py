"""Curves of training metrics and of accuracies."""

import fnmatch
import itertools
import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, PercentFormatter
from scipy.ndimage import median_filter

from lzn_jax.plots import style
from lzn_jax.plots.style import AnyPath

_SMOOTH_ABOVE = 50  # number of points of a curve
_LOG_ABOVE = 100.0  # ratio of largest to smallest value

# Title, y label and metrics of each panel of `curves`.
_PANELS = (
    ("Losses", "loss", ("loss", "generation_loss", "alignment_loss")),
    (
        "Accuracy",
        "share correct",
        ("assignment_accuracy", "test_accuracy", "test_accuracy_batch", "sample_accuracy",
         "linear_probe_*", "knn_top1*"),
    ),
    ("Fréchet distance", "distance (lower is better)", ("fid", "sfid", "fd_*")),
    ("Reconstruction error", "l2 per image", ("reconstruction_l2",)),
    ("Gradient norm", "global l2 norm", ("gradient_norm",)),
    ("Speed", "steps per second", ("steps_per_second",)),
)  # fmt: skip


class _Panel(NamedTuple):
    """Curves by name, as x and y. An empty name is left out of the legend. Shares are in [0, 1]."""

    title: str
    x_label: str
    y_label: str
    curves: Mapping[str, tuple[np.ndarray, np.ndarray]]
    are_shares: bool = False
    is_log_x: bool = False


def curves(path: AnyPath, metrics: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> Path:
    """Draws the values of metrics against the step. Related metrics share a panel.

    `metrics` maps names to steps and values. Curves of more than 50 points are drawn faint with
    their running median on top. A single value is a dashed line with the value in the legend, or
    part of the caption if its panel contains no curve. Non-finite values and metrics without a
    panel are left out.
    """
    finite = {
        name: (steps[np.isfinite(values)], values[np.isfinite(values)])
        for name, (steps, values) in metrics.items()
        if np.isfinite(values).any()
    }
    panels, once = [], []
    for title, y_label, patterns in _PANELS:
        names = [name for pattern in patterns for name in fnmatch.filter(finite, pattern)]
        series = {n.replace("_", " ") * (len(patterns) > 1): finite[n] for n in names}
        panel = _Panel(title, "training step", y_label, series, title == "Accuracy")
        if any(len(steps) > 1 for steps, _ in series.values()):
            panels.append(panel)
        else:
            once += [
                f"{name or title.lower()} {_in_words(panel, y[0])} at step {steps[0]:,}"
                for name, (steps, y) in series.items()
            ]
    caption = f"Measured once: {', '.join(once)}." if once else ""
    return _draw(path, "Training curves", panels, columns=2, caption=caption)


def classification(
    path: AnyPath,
    alpha: Mapping[float, float],
    batch: Mapping[int, float],
    context: Mapping[int, float],
) -> Path:
    """Draws accuracies in [0, 1] against noise scale, batch size and number of anchors.

    A panel is drawn for each mapping that is not empty.
    """
    panels = []
    for title, x_label, accuracies, is_size in (
        ("Noise of the latents", "noise scale α", alpha, False),
        ("Anchors of a batch", "images in a batch (α = 0)", batch, True),
        ("Context anchors", "number of context anchors (α = 0)", context, True),
    ):
        points = np.array(sorted(accuracies.items())).reshape(-1, 2)
        series = {"": (points[:, 0], points[:, 1])} if accuracies else {}
        panels.append(_Panel(title, x_label, "test accuracy", series, True, is_size))
    return _draw(path, "Classification by zone", panels, columns=3)


def _draw(
    path: AnyPath, title: str, panels: Sequence[_Panel], columns: int, caption: str = ""
) -> Path:
    """Draws the panels with curves, and a caption below."""
    drawn = [panel for panel in panels if panel.curves]
    columns = min(columns, max(1, len(drawn)))
    rows = math.ceil(len(drawn) / columns)
    title = title if drawn or caption else f"{title}: no metrics yet"
    figure = style.new_figure(4.6 * columns, 3.6 * rows + 0.6, title)
    for place, panel in enumerate(drawn):
        _draw_panel(figure.add_subplot(rows, columns, place + 1), panel)
    if caption:
        figure.supxlabel("\n".join(textwrap.wrap(caption, 50 * columns)), fontsize=style.TEXT_SIZE)
    return style.save(figure, path)


def _in_words(panel: _Panel, value: float) -> str:
    return f"{value:.1%}" if panel.are_shares else f"{value:.3g}"


def _draw_panel(axes: Axes, panel: _Panel) -> None:
    has_curve = any(len(x) > 1 for x, _ in panel.curves.values())
    for (name, (x, y)), color in zip(panel.curves.items(), itertools.cycle(style.PALETTE)):
        value = _in_words(panel, y[0])
        label = name if len(y) > 1 else f"{name} ({value})" if name else value
        marker = "o"
        if len(x) > _SMOOTH_ABOVE:
            axes.plot(x, y, color=color, alpha=0.25, linewidth=0.8)
            y, marker = median_filter(y, 2 * (len(y) // 50) + 1), ""
        if has_curve and len(y) == 1:
            axes.axhline(y[0], label=label, color=color, linestyle="--", linewidth=1.2)
            continue
        line: dict[str, Any] = {
            "color": color,
            "marker": marker,
            "markersize": 4,
            "linewidth": 1.6,
        }
        axes.plot(x, y, label=label, **line)
    style.label_axes(axes, panel.title, panel.x_label, panel.y_label)
    _scale(axes, panel)
    if labels := axes.get_legend_handles_labels()[1]:
        columns = 2 if max(map(len, labels)) < 25 else 1
        look: Any = dict(frameon=False, fontsize=style.SMALL_SIZE, ncols=columns)
        axes.legend(loc="upper left", bbox_to_anchor=(0.0, -0.2), **look)


def _scale(axes: Axes, panel: _Panel) -> None:
    """Sets the ranges and ticks of both axes."""
    places = next(iter(panel.curves.values()))[0]
    if panel.is_log_x:
        axes.set_xscale("log")
        axes.set_xticks(places, [f"{place:,g}" for place in places])
        axes.minorticks_off()
    else:
        ticks: Any = dict(steps=[1, 2, 5, 10], integer=places.dtype.kind == "i", min_n_ticks=1)
        axes.xaxis.set_major_locator(MaxNLocator(6, **ticks))
        axes.xaxis.set_major_formatter("{x:,.10g}")
    values = np.concatenate([y for _, y in panel.curves.values()])
    if panel.are_shares:
        axes.set_ylim(-0.02, 1.02)
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    elif 0 < _LOG_ABOVE * values.min() < values.max():
        axes.set_yscale("log")
    else:  # includes 0, so that noise does not look like a trend
        axes.set_ylim(min(0.0, axes.get_ylim()[0]), None)
