"""Curves of training metrics and of accuracies."""

import fnmatch
import math
import os
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from scipy.ndimage import median_filter

from lzn_jax.plots.style import (
    PALETTE,
    SMALL_SIZE,
    TEXT_SIZE,
    count_steps,
    label_axes,
    new_figure,
    save,
)

_SMOOTH_ABOVE = 50  # points of a curve
_LOG_ABOVE = 100.0  # largest value over smallest
# Least range of a y axis, so that noise does not look like a trend.
_MIN_RANGE = 0.25  # as a share of the largest value
_MIN_SHARE_RANGE = 0.2  # of accuracies


class _Panel(NamedTuple):
    """Title, y label, metrics and y scale of one panel of `curves`.

    The scale "log" is used only if the values span more than two decades.
    """

    title: str
    unit: str
    patterns: tuple[str, ...]
    scale: Literal["linear", "log", "percent"]


_PANELS = (
    _Panel("Losses", "loss", ("loss", "generation_loss", "alignment_loss"), "log"),
    _Panel(
        "Accuracy",
        "share correct",
        (
            "assignment_accuracy",
            "test_accuracy",
            "test_accuracy_batch",
            "sample_accuracy",
            "linear_probe_*",
            "knn_top1*",
        ),
        "percent",
    ),
    _Panel("Fréchet distance", "distance (lower is better)", ("fid", "sfid", "fd_*"), "log"),
    _Panel("Reconstruction error", "l2 per image", ("reconstruction_l2",), "log"),
    _Panel("Gradient norm", "global l2 norm", ("gradient_norm",), "log"),
    _Panel("Speed", "steps per second", ("steps_per_second",), "linear"),
)

_CURVE_LABELS = {
    "loss": "total",
    "generation_loss": "generation",
    "alignment_loss": "alignment",
    "assignment_accuracy": "assignment (training)",
    "test_accuracy": "test, context anchors",
    "test_accuracy_batch": "test, batch anchors",
    "sample_accuracy": "samples",
    "fid": "FID",
    "sfid": "sFID",
}


def _smoothed(values: np.ndarray) -> np.ndarray:
    """Centred running median over 1/25 of the points, reflected at the ends."""
    smoothed: np.ndarray = median_filter(values, 2 * (len(values) // 50) + 1)
    return smoothed


def _curve_label(name: str) -> str:
    return _CURVE_LABELS.get(name, name.replace("_", " "))


def _with_unit(panel: _Panel, value: float) -> str:
    return f"{value:.1%}" if panel.scale == "percent" else f"{value:.3g}"


def _draw_curve(axes: Axes, label: str, steps: np.ndarray, values: np.ndarray, color: str) -> None:
    if len(steps) > _SMOOTH_ABOVE:
        axes.plot(steps, values, color=color, alpha=0.25, linewidth=0.8)
        axes.plot(steps, _smoothed(values), color=color, linewidth=1.8, label=label)
    else:
        axes.plot(steps, values, color=color, marker="o", markersize=4, linewidth=1.5, label=label)


def _draw_panel(
    axes: Axes, panel: _Panel, series: Mapping[str, tuple[np.ndarray, np.ndarray]]
) -> None:
    for index, (name, (steps, values)) in enumerate(series.items()):
        label = _curve_label(name)
        if len(values) == 1:
            label += f" ({_with_unit(panel, values[0])})"
        _draw_curve(axes, label, steps, values, PALETTE[index % len(PALETTE)])
    everything = np.concatenate([values for _, values in series.values()])
    least, largest = everything.min(), everything.max()
    if panel.scale == "log" and least > 0 and largest > _LOG_ABOVE * least:
        axes.set_yscale("log")
    elif panel.scale == "percent":
        _show_shares(axes)
    else:
        _widen(axes, _MIN_RANGE * np.abs(everything).max())
    label_axes(axes, panel.title, "training step", panel.unit)
    count_steps(axes)
    if len(panel.patterns) > 1:
        longest = max(len(label) for label in axes.get_legend_handles_labels()[1])
        axes.legend(
            loc="upper left",
            bbox_to_anchor=(0.0, -0.2),
            ncols=2 if longest < 25 else 1,
            frameon=False,
            fontsize=SMALL_SIZE,
        )


def _widen(axes: Axes, least: float) -> None:
    """Extends the y range symmetrically to at least `least`."""
    low, high = axes.get_ylim()
    missing = max(0.0, least - (high - low)) / 2
    axes.set_ylim(low - missing, high + missing)


def _show_shares(axes: Axes) -> None:
    """Formats the y axis as percentages, in a range of at least 20 points within 0 to 100."""
    _widen(axes, _MIN_SHARE_RANGE)
    low, high = axes.get_ylim()
    excess = max(0.0, high - 1.02)
    axes.set_ylim(max(-0.02, low - excess), high - excess)
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))


def _write_single_values(figure: Figure, values: Sequence[str]) -> None:
    """Writes values that are too few for a panel: below the panels, or alone in the figure."""
    text = f"Measured once: {'; '.join(values)}" if values else "no metrics yet"
    text = textwrap.fill(text, int(11 * figure.get_figwidth()))
    if not figure.axes:
        figure.text(0.5, 0.5, text, ha="center", va="center", fontsize=TEXT_SIZE)
    elif values:
        lines = text.count("\n") + 1
        figure.set_figheight(figure.get_figheight() + 0.2 * lines)
        figure.supxlabel(text, fontsize=TEXT_SIZE)


def curves(
    path: str | os.PathLike[str], metrics: Mapping[str, tuple[np.ndarray, np.ndarray]]
) -> Path:
    """Metrics, steps and values by name, against the step; related metrics share a panel.

    Curves of more than 50 points are drawn faint with their running median on top. Non-finite
    values and metrics without a panel are left out. A panel without two points of the same metric
    becomes a line of text.
    """
    finite = {
        name: (steps[np.isfinite(values)], values[np.isfinite(values)])
        for name, (steps, values) in metrics.items()
        if np.isfinite(values).any()
    }
    panels, single = [], []
    for panel in _PANELS:
        names = [name for pattern in panel.patterns for name in fnmatch.filter(finite, pattern)]
        series = {name: finite[name] for name in names}
        if any(len(steps) > 1 for steps, _ in series.values()):
            panels.append((panel, series))
        elif series:
            shown = {_curve_label(n): _with_unit(panel, v[0]) for n, (_, v) in series.items()}
            named = len(panel.patterns) > 1
            texts = [f"{label} {value}" if named else value for label, value in shown.items()]
            single.append(f"{panel.title}: {', '.join(texts)}")
    columns = min(2, max(1, len(panels)))
    rows = max(1, math.ceil(len(panels) / columns))
    figure = new_figure(4.9 * columns, 3.6 * rows + 0.5, "Training curves")
    for place, (panel, series) in enumerate(panels):
        _draw_panel(figure.add_subplot(rows, columns, place + 1), panel, series)
    _write_single_values(figure, single)
    return save(figure, path)


class _AccuracyPanel(NamedTuple):
    """Accuracies by the value on the x axis, which has a log scale for sizes."""

    title: str
    x_label: str
    is_size: bool
    accuracies: Mapping[Any, float]


def _draw_accuracies(axes: Axes, panel: _AccuracyPanel) -> None:
    places = sorted(panel.accuracies)
    values = [panel.accuracies[place] for place in places]
    axes.plot(places, values, color=PALETTE[0], marker="o", markersize=4, linewidth=1.8)
    label_axes(axes, panel.title, panel.x_label, "test accuracy")
    axes.set_ylim(0.0, 1.02)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    if panel.is_size:
        axes.set_xscale("log")
        axes.set_xticks(places, [f"{place:,}" for place in places])
        axes.minorticks_off()


def classification(
    path: str | os.PathLike[str],
    alpha: Mapping[float, float],
    batch: Mapping[int, float],
    context: Mapping[int, float],
) -> Path:
    """Accuracies in [0, 1] against the noise scale, the batch size and the number of anchors.

    A panel is drawn for each mapping with two entries or more; a single entry becomes text.
    """
    panels = [
        _AccuracyPanel("Noise of the latents", "noise scale α", False, alpha),
        _AccuracyPanel("Anchors of a batch", "images in a batch (α = 0)", True, batch),
        _AccuracyPanel("Context anchors", "number of context anchors (α = 0)", True, context),
    ]
    shown = [panel for panel in panels if len(panel.accuracies) > 1]
    figure = new_figure(3.6 * max(1, len(shown)), 3.6, "Classification by zone")
    for place, panel in enumerate(shown):
        _draw_accuracies(figure.add_subplot(1, len(shown), place + 1), panel)
    single = [
        f"{accuracy:.1%} for " + (f"{x:,} {panel.x_label}" if panel.is_size else f"α = {x:g}")
        for panel in panels
        if len(panel.accuracies) == 1
        for x, accuracy in panel.accuracies.items()
    ]
    _write_single_values(figure, single)
    return save(figure, path)


def accuracy_curves(
    path: str | os.PathLike[str],
    curves: Mapping[str, tuple[Int[np.ndarray, " steps"], Float[np.ndarray, "seeds steps"]]],
    title: str | None = None,
) -> Path:
    """Mean accuracy over seeds against the training step, with a band from lowest to highest.

    `curves` holds steps and accuracies in [0, 1] by name; missing accuracies are NaN.
    """
    figure = new_figure(7.5, 4.8)
    axes = figure.subplots()
    for index, (name, (steps, accuracies)) in enumerate(curves.items()):
        _draw_accuracy(axes, name, steps, accuracies, PALETTE[index % len(PALETTE)])
    _show_shares(axes)
    label_axes(axes, title or "Accuracy over training", "training step", "accuracy")
    count_steps(axes)
    if curves:
        axes.legend(frameon=False, fontsize=TEXT_SIZE)
    return save(figure, path)


def _draw_accuracy(
    axes: Axes, name: str, steps: np.ndarray, accuracies: np.ndarray, color: str
) -> None:
    known = np.isfinite(accuracies).any(axis=0)
    steps, accuracies = steps[known], accuracies[:, known]
    mean = np.nanmean(accuracies, axis=0)
    count = len(accuracies)
    label = f"{name} (mean and range of {count} seeds)" if count > 1 else name
    axes.plot(steps, mean, color=color, marker="o", markersize=4, linewidth=1.8, label=label)
    if count > 1:
        low, high = np.nanmin(accuracies, axis=0), np.nanmax(accuracies, axis=0)
        axes.fill_between(steps, low, high, color=color, alpha=0.2, linewidth=0)
