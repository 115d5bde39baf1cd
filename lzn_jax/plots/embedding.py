"""Features in two dimensions by t-SNE (paper D.4)."""

import itertools
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from sklearn.manifold import TSNE
from threadpoolctl import threadpool_limits

from lzn_jax.plots.style import PALETTE, TEXT_SIZE, class_name, new_figure, save

_MAX_POINTS = 2_000
MIN_POINTS = 3
_MAX_CLASSES = 20
_PERPLEXITY = 30.0
# More than ten colours are hard to distinguish, so the second ten classes have another marker.
_MARKERS = ("o", "^")


def tsne(
    path: str | os.PathLike[str],
    features: Float[np.ndarray, "n d"],
    labels: Int[np.ndarray, " n"],
    class_names: Sequence[str] | None = None,
    title: str | None = None,
    seed: int = 0,
) -> Path:
    """Scatter plot of features by t-SNE (van der Maaten and Hinton, 2008), coloured by class.

    At most 2,000 points of the 20 lowest classes are shown, with the same limit for each class.
    `class_names` is indexed by label; a label below 0 means an unknown class.

    Raises:
        ValueError: there are fewer than three points.
    """
    rows = _choose(labels, seed)
    if len(rows) < MIN_POINTS:
        raise ValueError(f"t-SNE needs at least {MIN_POINTS} points, got {len(rows)}")
    points = _embed(features[rows], seed)
    figure = new_figure(9.0, 7.2, title or "t-SNE of the features")
    axes = figure.subplots()
    _draw_classes(axes, points, labels[rows], class_names)
    caption = (
        f"Each mark is one of {len(rows):,} samples with {features.shape[1]} features; only"
        " distances between near marks are meaningful."
    )
    figure.supxlabel(caption, fontsize=TEXT_SIZE)
    return save(figure, path)


def _choose(labels: np.ndarray, seed: int) -> np.ndarray:
    """Rows to show, in random order, with the same limit for each class."""
    rng = np.random.default_rng(seed)
    classes = np.unique(labels)[:_MAX_CLASSES]
    share = _MAX_POINTS // max(len(classes), 1)
    chosen = [rng.permutation(np.flatnonzero(labels == label))[:share] for label in classes]
    return rng.permutation(np.concatenate(chosen)) if chosen else np.zeros(0, int)


def _embed(features: np.ndarray, seed: int) -> Float[np.ndarray, "n 2"]:
    # t-SNE starts from principal components, which are undefined if all points coincide.
    if np.ptp(features, axis=0).max() == 0:
        return np.zeros((len(features), 2))
    perplexity = min(_PERPLEXITY, (len(features) - 1) / 3)
    init = "pca" if features.shape[1] > 1 else "random"
    # OpenMP's threads wait actively, which takes minutes when other processes use the cores.
    with threadpool_limits(1):
        return TSNE(perplexity=perplexity, init=init, random_state=seed).fit_transform(features)


def _draw_classes(
    axes: Axes, points: np.ndarray, labels: np.ndarray, class_names: Sequence[str] | None
) -> None:
    looks = itertools.product(_MARKERS, PALETTE)
    styles = dict(zip(np.unique(labels).tolist(), looks, strict=False))
    for label, (marker, color) in styles.items():
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
        for label, (marker, color) in styles.items()
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
