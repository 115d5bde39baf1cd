"""Features in two dimensions by t-SNE (paper D.4)."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from threadpoolctl import threadpool_limits

from lzn_jax.plots import style
from lzn_jax.plots.style import AnyPath

MIN_POINTS, _MAX_POINTS = 3, 2_000
_MAX_CLASSES = 20
_PERPLEXITY = 30.0


def tsne(
    path: AnyPath,
    features: Float[np.ndarray, "n d"],
    labels: Int[np.ndarray, " n"],
    class_names: Sequence[str] | None = None,
    title: str = "t-SNE of the features",
    seed: int = 0,
) -> Path:
    """Draws features by t-SNE (van der Maaten and Hinton, 2008), coloured by class.

    At most 2,000 points of the 20 lowest classes are shown, with the same limit for each class.
    `class_names` is indexed by label. A label below 0 means an unknown class. There must be at
    least MIN_POINTS points.
    """
    rng, classes = np.random.default_rng(seed), np.unique(labels)[:_MAX_CLASSES].tolist()
    share = _MAX_POINTS // max(len(classes), 1)
    chosen = [rng.permutation(np.flatnonzero(labels == label))[:share] for label in classes]
    rows = rng.permutation([row for each in chosen for row in each])
    points, labels = _embed(features[rows], seed), labels[rows]
    figure = style.new_figure(9.0, 7.2, title)
    axes = figure.subplots()
    # More than ten colours are hard to distinguish, so the second ten classes use another marker.
    looks = itertools.product(("o", "^"), style.PALETTE)
    size = float(np.clip(24_000 / len(rows), 9, 40))
    for label, (marker, color) in zip(classes, looks, strict=False):
        x, y = points[labels == label].T
        axes.scatter(
            x, y, s=size, color=color, marker=marker, alpha=0.8, edgecolors="white",
            linewidths=0.3, label=style.class_name(label, class_names),
        )  # fmt: skip
    if axes.get_legend_handles_labels()[1]:
        place: Any = dict(loc="center left", bbox_to_anchor=(1.0, 0.5))
        axes.legend(**place, frameon=False, fontsize=style.TEXT_SIZE)
    axes.set(xticks=[], yticks=[])
    axes.set_aspect("equal", adjustable="datalim")
    axes.spines[:].set_color("0.8")
    caption = (
        f"Each mark is one of {len(rows):,} samples with {features.shape[1]} features; only"
        " distances between near marks are meaningful."
    )
    figure.supxlabel(caption, fontsize=style.TEXT_SIZE)
    return style.save(figure, path)


def _embed(features: np.ndarray, seed: int) -> Float[np.ndarray, "n 2"]:
    from sklearn.manifold import TSNE  # here, as it takes a second

    # t-SNE starts from principal components, which are undefined if all points coincide.
    if np.ptp(features, axis=0).max() == 0:
        return np.zeros((len(features), 2))
    perplexity = min(_PERPLEXITY, (len(features) - 1) / 3)
    init = "pca" if features.shape[1] > 1 else "random"
    # OpenMP's threads wait actively, which takes minutes when other processes use the cores.
    with threadpool_limits(1):
        return TSNE(perplexity=perplexity, init=init, random_state=seed).fit_transform(features)
