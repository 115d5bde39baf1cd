"""Features in two dimensions by t-SNE, as in the paper's D.4."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from sklearn.manifold import TSNE
from threadpoolctl import threadpool_limits

from lzn_jax.plots.style import TEXT_SIZE, class_name, new_figure, save

_MAX_POINTS = 2_000
MIN_POINTS = 3
_MAX_CLASSES = 20
_PERPLEXITY = 30.0
# Beyond ten classes colours come too close, so that the second ten have another marker as well.
_MARKERS = ("o", "^")


def tsne(
    path: str | os.PathLike[str],
    features: Float[np.ndarray, "n d"],
    labels: Int[np.ndarray, " n"],
    class_names: Sequence[str] | None = None,
    title: str | None = None,
    seed: int = 0,
) -> Path:
    """Features in two dimensions by t-SNE (van der Maaten and Hinton, 2008), coloured by class.

    The 20 lowest classes and at most 2,000 points are shown, as many of each class as there are,
    up to the same number. `class_names` is indexed by label; a label below 0 is no class.

    Raises:
        ValueError: fewer than three points.
    """
    rows = _choose(labels, seed)
    if len(rows) < MIN_POINTS:
        raise ValueError(f"t-SNE needs at least {MIN_POINTS} points, there are {len(rows)}")
    points = _embed(features[rows], seed)
    figure = new_figure(9.0, 7.2, title or "t-SNE of the features")
    axes = figure.subplots()
    _draw_classes(axes, points, labels[rows], class_names)
    caption = (
        f"Each mark is one of {len(rows):,} images, {features.shape[1]} features each; only"
        " neighbourhood has a meaning."
    )
    figure.supxlabel(caption, fontsize=TEXT_SIZE)
    return save(figure, path)


def _choose(labels: np.ndarray, seed: int) -> np.ndarray:
    """Rows to show: equal shares of the classes to show, in random order."""
    rng = np.random.default_rng(seed)
    classes = np.unique(labels)[:_MAX_CLASSES]
    share = _MAX_POINTS // max(len(classes), 1)
    chosen = [rng.permutation(np.flatnonzero(labels == label))[:share] for label in classes]
    return rng.permutation(np.concatenate(chosen)) if chosen else np.zeros(0, int)


def _embed(features: np.ndarray, seed: int) -> Float[np.ndarray, "n 2"]:
    # Principal components have no direction where all points coincide; t-SNE fails there.
    if np.ptp(features, axis=0).max() == 0:
        return np.zeros((len(features), 2))
    perplexity = min(_PERPLEXITY, (len(features) - 1) / 3)
    init = "pca" if features.shape[1] > 1 else "random"
    # One thread: those of OpenMP wait in a loop, which takes minutes where cores are busy.
    with threadpool_limits(1):
        return TSNE(perplexity=perplexity, init=init, random_state=seed).fit_transform(features)


def _draw_classes(
    axes: Axes, points: np.ndarray, labels: np.ndarray, class_names: Sequence[str] | None
) -> None:
    styles = _class_styles(np.unique(labels))
    for label, (color, marker) in styles.items():
        own = points[labels == label]
        axes.scatter(
            own[:, 0],
            own[:, 1],
            s=float(np.clip(24_000 / len(points), 9, 40)),
            color=color,
            marker=marker,
            alpha=0.8,
            linewidths=0.3,
            edgecolors="white",
        )
    handles = [
        Line2D(
            [],
            [],
            color=color,
            marker=marker,
            markersize=7,
            linestyle="",
            label=class_name(label, class_names),
        )
        for label, (color, marker) in styles.items()
        if label >= 0
    ]
    if handles:
        axes.legend(
            handles=handles,
            loc="center left",
            bbox_to_anchor=(1.0, 0.5),
            frameon=False,
            fontsize=TEXT_SIZE,
        )
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_aspect("equal", adjustable="datalim")
    axes.spines[:].set_color("0.8")


def _class_styles(classes: np.ndarray) -> dict[int, tuple[Any, str]]:
    colors = mpl.colormaps["tab10"]
    return {
        label: (colors(place % 10), _MARKERS[place // 10])
        for place, label in enumerate(classes.tolist())
    }
