"""Curves: training metrics by step, accuracies by what is on the x axis."""

import fnmatch
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from lzn_jax.plots.style import (
    SMALL_SIZE,
    TEXT_SIZE,
    count_steps,
    label_axes,
    new_figure,
    save,
)

_SMOOTH_ABOVE = 50  # points of a curve


class _Panel(NamedTuple):
    """One small plot: the metrics that match `patterns` against the step."""

    title: str
    unit: str
    patterns: tuple[str, ...]
    scale: Literal["linear", "log", "percent"]  # "log" only where values span over a decade


_PANELS = (
    _Panel("Losses", "loss", ("loss", "generation_loss", "alignment_loss"), "log"),
    _Panel(
        "Accuracies",
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
    """Centred running mean over 1/25 of the points; the window is cut off at the ends."""
    window = np.ones(2 * (len(values) // 50) + 1)
    total = np.convolve(values, window, mode="same")
    return total / np.convolve(np.ones_like(values), window, mode="same")


def _draw_curve(axes: Axes, name: str, steps: np.ndarray, values: np.ndarray, color: str) -> None:
    label = _CURVE_LABELS.get(name, name.replace("_", " "))
    if len(steps) > _SMOOTH_ABOVE:
        axes.plot(steps, values, color=color, alpha=0.25, linewidth=0.8)
        axes.plot(steps, _smoothed(values), color=color, linewidth=1.8, label=label)
    else:
        axes.plot(steps, values, color=color, marker="o", markersize=4, linewidth=1.5, label=label)


def _draw_panel(
    axes: Axes, panel: _Panel, series: Mapping[str, tuple[np.ndarray, np.ndarray]]
) -> None:
    for index, (name, (steps, values)) in enumerate(series.items()):
        _draw_curve(axes, name, steps, values, f"C{index}")
    everything = np.concatenate([values for _, values in series.values()])
    if panel.scale == "log" and everything.min() > 0 and everything.max() > 10 * everything.min():
        axes.set_yscale("log")
    if panel.scale == "percent":
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    label_axes(axes, panel.title, "training step", panel.unit)
    count_steps(axes)
    if len(panel.patterns) > 1:
        axes.legend(
            loc="upper left",
            bbox_to_anchor=(0.0, -0.2),
            ncols=2,
            frameon=False,
            fontsize=SMALL_SIZE,
        )


def curves(
    path: str | os.PathLike[str], metrics: Mapping[str, tuple[np.ndarray, np.ndarray]]
) -> Path:
    """Metrics (steps and values by name) against the step, related ones in one panel.

    More than 50 points are drawn faint with their running mean on top. Non-finite values are
    left out, and so are metrics that no panel shows.
    """
    finite = {
        name: (steps[np.isfinite(values)], values[np.isfinite(values)])
        for name, (steps, values) in metrics.items()
        if np.isfinite(values).any()
    }
    panels = []
    for panel in _PANELS:
        names = [name for pattern in panel.patterns for name in fnmatch.filter(finite, pattern)]
        if names:
            panels.append((panel, {name: finite[name] for name in names}))
    columns = min(2, max(1, len(panels)))
    rows = max(1, math.ceil(len(panels) / columns))
    figure = new_figure(6.0 * columns, 3.6 * rows + 0.5, "Training curves")
    for place, (panel, series) in enumerate(panels):
        _draw_panel(figure.add_subplot(rows, columns, place + 1), panel, series)
    if not panels:
        figure.text(0.5, 0.5, "no metrics yet", ha="center", fontsize=TEXT_SIZE)
    return save(figure, path)


class _AccuracyPanel(NamedTuple):
    """Accuracy by what is on the x axis: a number, or a size, which has a log scale."""

    title: str
    x_label: str
    is_size: bool
    accuracies: Mapping[Any, float]


def _draw_accuracies(axes: Axes, panel: _AccuracyPanel) -> None:
    places = sorted(panel.accuracies)
    values = [panel.accuracies[place] for place in places]
    axes.plot(places, values, color="C0", marker="o", markersize=4, linewidth=1.8)
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
    """Accuracies in [0, 1] against the noise scale, the batch size and the context's size.

    An empty one has no panel; one at least must hold something.
    """
    panels = [
        _AccuracyPanel("Noise of the latents", "noise scale α", False, alpha),
        _AccuracyPanel("Anchors of a batch", "images in a batch (α = 0)", True, batch),
        _AccuracyPanel("Context anchors", "anchors in the bank (α = 0)", True, context),
    ]
    shown = [panel for panel in panels if panel.accuracies]
    figure = new_figure(4.6 * len(shown), 4.0, "Accuracy of classification by zone")
    for axes, panel in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown, strict=True):
        _draw_accuracies(axes, panel)
    return save(figure, path)


def accuracy_curves(
    path: str | os.PathLike[str],
    curves: Mapping[str, tuple[Int[np.ndarray, " steps"], Float[np.ndarray, "seeds steps"]]],
    title: str | None = None,
) -> Path:
    """Accuracies in [0, 1] against the training step, by name: the mean over seeds of each curve.

    A curve is its steps and one row of accuracies a seed, NaN where a seed has none; the band is
    from the lowest to the highest seed.
    """
    figure = new_figure(7.5, 4.8)
    axes = figure.subplots()
    for index, (name, (steps, accuracies)) in enumerate(curves.items()):
        _draw_accuracy(axes, name, steps, accuracies, f"C{index}")
    label_axes(axes, title or "Accuracy over training", "training step", "accuracy")
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
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
