"""The latent space in two dimensions: anchors, latents and the zones of classes."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from jaxtyping import Float, Int
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Circle
from sklearn.covariance import ledoit_wolf

from lzn_jax.plots.style import (
    SMALL_SIZE,
    TEXT_SIZE,
    class_name,
    label_axes,
    label_name,
    new_figure,
    save,
)

_MAX_CLASS_NAMES = 20
_SHORT = 2  # characters of a name that fits into a star


def _discriminant_plane(points: np.ndarray, labels: np.ndarray) -> np.ndarray | None:
    """Orthonormal basis (q, 2) of Fisher's two best directions; None where there are not two.

    The covariance within classes is shrunk (Ledoit and Wolf, 2004): with many dimensions and few
    points the plain one separates any labels, even random ones.
    """
    classes, index, counts = np.unique(labels, return_inverse=True, return_counts=True)
    means = np.stack([points[index == place].mean(axis=0) for place in range(len(classes))])
    variances, axes = np.linalg.eigh(ledoit_wolf(points - means[index], assume_centered=True)[0])
    if len(classes) < 3 or variances[0] <= 0:
        return None
    whitening = axes / np.sqrt(variances)
    between = np.sqrt(counts)[:, None] * ((means - points.mean(axis=0)) @ whitening)
    return np.linalg.qr(whitening @ np.linalg.svd(between)[2][:2].T)[0]


def _plane(points: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, str]:
    """Two orthonormal directions (q, 2) that separate the classes, and what they are.

    Orthonormal, so that a standard Gaussian stays one in the picture. Principal components where
    the classes do not give two directions.
    """
    if points.shape[1] == 2:
        return np.eye(2), "latent dimension"
    plane = _discriminant_plane(points, labels)
    if plane is not None:
        return plane, "class-separating direction"
    centred = points - points.mean(axis=0)
    return np.linalg.eigh(centred.T @ centred)[1][:, :-3:-1], "principal direction"


def _class_colors(classes: np.ndarray) -> dict[int, Any]:
    if len(classes) <= 10:
        colors = mpl.colormaps["tab10"](np.arange(len(classes)))
    else:
        colors = mpl.colormaps["turbo"](np.linspace(0.02, 0.98, len(classes)))
    return dict(zip(classes.tolist(), colors, strict=True))


def _at_least_2d(points: np.ndarray) -> np.ndarray:
    missing = max(0, 2 - points.shape[1])
    return np.pad(np.asarray(points, np.float64), ((0, 0), (0, missing)))


def _spread(positions: np.ndarray, distance: float) -> np.ndarray:
    """Positions (c, 2) moved apart until no two are much nearer than `distance`."""
    # Equal positions have no direction to part in; noise gives them one.
    noise = np.random.default_rng(0).normal(size=positions.shape)
    positions = positions + 1e-3 * distance * noise
    for _ in range(200):
        gaps = positions[:, None] - positions[None]
        lengths = np.linalg.norm(gaps, axis=-1) + np.diag(np.full(len(positions), np.inf))
        pushes = np.maximum(distance - lengths, 0) / (2 * lengths)
        positions = positions + (pushes[..., None] * gaps).sum(axis=1)
    return positions


def _draw_dots(
    axes: Axes, points: np.ndarray, labels: np.ndarray, colors: Mapping[int, Any]
) -> None:
    order = np.random.default_rng(0).permutation(len(points))  # no class on top of the others
    axes.scatter(
        points[order, 0],
        points[order, 1],
        s=float(np.clip(16_000 / len(points), 5, 30)),
        c=[colors[label] for label in labels[order].tolist()],
        alpha=0.55,
        linewidths=0,
    )


def _write_class_names(
    axes: Axes,
    points: np.ndarray,
    labels: np.ndarray,
    colors: Mapping[int, Any],
    class_names: Sequence[str] | None,
) -> None:
    """The class at the mean of its points, aside where another class has its mean there."""
    centres = np.stack([points[labels == label].mean(axis=0) for label in colors])
    extent = max(axes.dataLim.width, axes.dataLim.height, 0.1)  # points may all coincide
    centres = _spread(centres, 0.05 * extent)
    axes.update_datalim(centres)
    axes.autoscale_view()
    for (x, y), (label, color) in zip(centres, colors.items(), strict=True):
        name = label_name(label, class_names)
        axes.text(
            x,
            y,
            name,
            color=color,
            fontsize=14 if len(name) <= _SHORT else TEXT_SIZE,
            parse_math=False,
            fontweight="bold",
            path_effects=[patheffects.withStroke(linewidth=3, foreground="white")],
            ha="center",
            va="center",
            zorder=5,
        )


def _draw_prior(axes: Axes) -> None:
    """Circles of one and two standard deviations of N(0, I)."""
    for radius in (1, 2):
        axes.add_patch(Circle((0, 0), radius, fill=False, color="0.35", ls="--", lw=1.2, zorder=4))
        axes.text(
            0,
            radius,
            f"{radius}σ",
            ha="center",
            va="center",
            fontsize=TEXT_SIZE,
            path_effects=[patheffects.withStroke(linewidth=4, foreground="white")],
            zorder=4.5,
        )


def _draw_zone_centres(
    axes: Axes, centres: np.ndarray, colors: Mapping[int, Any], class_names: Sequence[str] | None
) -> None:
    """A star for each row of `centres` (c, 2) whose class is drawn, its name inside or below."""
    for place, (label, color) in enumerate(colors.items()):
        x, y = centres[label]
        name = label_name(label, class_names)
        axes.plot(
            x,
            y,
            marker="*",
            markersize=25,
            color=color,
            markeredgecolor="black",
            zorder=6 + place,
        )
        axes.annotate(
            name,
            (x, y),
            (0, 0 if len(name) <= _SHORT else -18),
            textcoords="offset points",
            color="white",
            fontsize=SMALL_SIZE,
            parse_math=False,
            fontweight="bold",
            path_effects=[patheffects.withStroke(linewidth=1.5, foreground="black")],
            ha="center",
            va="center_baseline",
            zorder=6 + place,
        )


def _draw_space(
    axes: Axes,
    title: str,
    points: np.ndarray,
    labels: np.ndarray,
    colors: Mapping[int, Any],
    class_names: Sequence[str] | None,
    zone_centres: np.ndarray | None = None,
) -> np.ndarray:
    """Draws points and their classes; returns the plane (q, 2) that they are projected on."""
    points = _at_least_2d(points)
    plane, direction = _plane(points, labels)
    _draw_dots(axes, points @ plane, labels, colors)
    if 1 < len(colors) <= _MAX_CLASS_NAMES:
        if zone_centres is None:
            _write_class_names(axes, points @ plane, labels, colors, class_names)
        else:
            _draw_zone_centres(axes, _at_least_2d(zone_centres) @ plane, colors, class_names)
    label_axes(axes, title, f"{direction} 1", f"{direction} 2")
    axes.set_aspect("equal", adjustable="datalim")
    return plane


def _add_legend(
    figure: Figure,
    colors: Mapping[int, Any],
    class_names: Sequence[str] | None,
    zones_of: str | None,
) -> None:
    handles = [Line2D([], [], color="0.35", linestyle="--", label="Gaussian prior")]
    if len(colors) <= _MAX_CLASS_NAMES:
        for label, color in colors.items():
            dot = Line2D([], [], color=color, marker="o", markersize=7, linestyle="")
            dot.set_label(class_name(label, class_names))
            handles.append(dot)
        if zones_of is not None:
            star = Line2D([], [], color="0.8", marker="*", markersize=14, linestyle="")
            star.set(label=f"centre of a\n{zones_of}'s zone", markeredgecolor="black")
            handles.append(star)
    figure.legend(handles=handles, loc="outside right center", frameon=False, fontsize=TEXT_SIZE)


def latent_zones(
    path: str | os.PathLike[str],
    anchors: Float[np.ndarray, "n q"],
    latents: Float[np.ndarray, "n q"],
    labels: Int[np.ndarray, " n"],
    label_latents: Float[np.ndarray, "c q"] | None = None,
    title: str | None = None,
    zones_of: str = "label",
    class_names: Sequence[str] | None = None,
) -> Path:
    """Anchors of images at the left, their latents at the right, coloured by class.

    Each panel is an orthogonal projection on the plane that separates its classes best. The plane
    is fit to the points it shows, so take many more points than dimensions: few look more apart
    than they are. The circles are one and two standard deviations of the prior N(0, I).
    `label_latents` holds the centre of each label's zone, or of what else `zones_of` says, row k
    that of class k; they are drawn as stars. `class_names` is indexed by label. More than 20
    classes are told apart by colour alone, without names and stars.
    """
    colors = _class_colors(np.unique(labels))
    figure = new_figure(13.5, 6.6, title or "Latent zones")
    left, right = figure.subplots(1, 2)
    heading = "Anchors: what the encoder makes of images"
    _draw_space(left, heading, anchors, labels, colors, class_names)
    _draw_prior(right)
    heading = "Latents: where the flow takes the anchors"
    _draw_space(right, heading, latents, labels, colors, class_names, label_latents)
    caption = f"Each dot is one image, projected from {anchors.shape[1]} dimensions onto a plane."
    figure.supxlabel(caption, fontsize=TEXT_SIZE)
    _add_legend(figure, colors, class_names, zones_of if label_latents is not None else None)
    return save(figure, path)


def among_zones(
    latents: Float[np.ndarray, "n q"],
    labels: Int[np.ndarray, " n"],
    found: Float[np.ndarray, "m q"],
    title: str,
    class_names: Sequence[str] | None = None,
) -> Figure:
    """A figure of where `found` lie, crosses, among latents of images, coloured by class.

    Projected as in `latent_zones`. `class_names` is indexed by label. One class is not named.
    """
    figure = new_figure(6.4, 6.0)
    axes = figure.subplots()
    colors = _class_colors(np.unique(labels))
    plane = _draw_space(axes, title, latents, labels, colors, class_names)
    _draw_prior(axes)
    x, y = (_at_least_2d(found) @ plane).T
    halo = [patheffects.withStroke(linewidth=7, foreground="white")]
    axes.plot(x, y, "x", color="black", ms=16, mew=4, zorder=7, path_effects=halo)
    return figure
