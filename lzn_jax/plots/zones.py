"""Projections of the latent space to two dimensions: anchors, latents, centres of zones."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Circle
from sklearn.covariance import ledoit_wolf

from lzn_jax.plots.style import (
    DPI,
    TEXT_SIZE,
    class_colors,
    class_name,
    label_axes,
    label_name,
    new_figure,
    save,
    text_extent,
)

_MAX_CLASS_NAMES = 20
_LARGE_SIZE = 14  # points, for names of at most two characters
_PANEL = 3.5  # inches, roughly
_GRID = 120  # points per side, where the zones of a plane are computed

# Latents (m, q) -> their classes (m,).
ClassesOf = Callable[[np.ndarray], np.ndarray]


def _discriminant_plane(points: np.ndarray, labels: np.ndarray) -> np.ndarray | None:
    """Orthonormal basis (q, 2) of the two best directions of Fisher's discriminant analysis.

    Returns None for fewer than three classes or collapsed points. The covariance within classes is
    shrunk (Ledoit and Wolf, 2004), because without shrinkage even random labels look separated
    when there are many dimensions and few points.
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
    """Two orthonormal directions (q, 2) that separate the classes, and their kind.

    They are orthonormal so that the projection of a standard Gaussian is one too. Principal
    components replace them if discriminant analysis has no two directions.
    """
    if points.shape[1] == 2:
        return np.eye(2), "latent dimension"
    plane = _discriminant_plane(points, labels)
    if plane is not None:
        return plane, "class-separating direction"
    centred = points - points.mean(axis=0)
    return np.linalg.eigh(centred.T @ centred)[1][:, :-3:-1], "principal direction"


def _at_least_2d(points: np.ndarray) -> np.ndarray:
    missing = max(0, 2 - points.shape[1])
    return np.pad(np.asarray(points, np.float64), ((0, 0), (0, missing)))


def _moved_apart(
    positions: np.ndarray, obstacles: np.ndarray, distance: float
) -> Float[np.ndarray, "c 2"]:
    """Positions (c, 2) moved until about `distance` apart from each other and from obstacles."""
    # Equal positions need noise, as the direction between them is undefined.
    noise = np.random.default_rng(0).normal(size=positions.shape)
    positions = positions + 1e-3 * distance * noise
    for _ in range(200):
        gaps = positions[:, None] - np.concatenate([positions, obstacles])
        lengths = np.linalg.norm(gaps, axis=-1)
        np.fill_diagonal(lengths, np.inf)
        pushes = np.maximum(distance - lengths, 0) / (2 * lengths)
        positions = positions + (pushes[..., None] * gaps).sum(axis=1)
    return positions


def _draw_dots(
    axes: Axes, points: np.ndarray, labels: np.ndarray, colors: Mapping[int, Any]
) -> None:
    # In random order, so that no class covers the others.
    order = np.random.default_rng(0).permutation(len(points))
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
    places: np.ndarray,
    obstacles: np.ndarray,
    colors: Mapping[int, Any],
    class_names: Sequence[str] | None,
) -> None:
    """Writes the names of classes near their places (c, 2), not on obstacles (m, 2)."""
    extent = max(axes.dataLim.width, axes.dataLim.height, 0.1)  # points may all coincide
    names = [label_name(label, class_names) for label in colors]
    sizes = [_LARGE_SIZE if len(name) <= 2 else TEXT_SIZE for name in names]
    texts = [text_extent(*each, "bold") for each in zip(names, sizes, strict=True)]
    box = np.max(texts, axis=0) / DPI / _PANEL * extent
    box = np.clip(1.1 * box, 0.05 * extent, 0.25 * extent)
    places = _moved_apart(places / box, obstacles / box, 1.0) * box
    axes.update_datalim(places)
    axes.autoscale_view()
    for (x, y), name, size, color in zip(places, names, sizes, colors.values(), strict=True):
        axes.text(
            x,
            y,
            name,
            color=color,
            fontsize=size,
            parse_math=False,
            fontweight="bold",
            path_effects=[patheffects.withStroke(linewidth=3, foreground="white")],
            ha="center",
            va="center",
            zorder=7,
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


def _fill_zones(
    axes: Axes, plane: np.ndarray, span: float, classes_of: ClassesOf, colors: Mapping[int, Any]
) -> None:
    """Colours the points of a plane (q, 2) within `span` by class, with white borders."""
    line = np.linspace(-span, span, _GRID)
    grid = np.stack(np.meshgrid(line, line), axis=-1).reshape(-1, 2)
    zones = classes_of((grid @ plane.T).astype(np.float32)).reshape(_GRID, _GRID)
    picture = np.ones((_GRID, _GRID, 4))
    for label, color in colors.items():
        picture[zones == label] = to_rgba(color, 0.25)
        if len(colors) <= _MAX_CLASS_NAMES and 0 < np.mean(zones == label) < 1:
            axes.contour(line, line, zones == label, [0.5], colors="white", linewidths=1.2)
    axes.imshow(picture, origin="lower", extent=(-span, span, -span, span), zorder=0)
    axes.grid(False)


def _draw_space(
    axes: Axes,
    title: str,
    points: np.ndarray,
    labels: np.ndarray,
    colors: Mapping[int, Any],
    class_names: Sequence[str] | None,
    zone_centres: np.ndarray | None = None,
    prior: bool = True,
    marked: np.ndarray | None = None,
    classes_of: ClassesOf | None = None,
) -> None:
    """Draws points, the names of their classes, stars at centres of zones (c, q), and the prior.

    The latents `marked` (m, q) have crosses, beside which the names are written. The background
    has the colours of the classes of the plane's points.
    """
    dimension, points = points.shape[1], _at_least_2d(points)
    plane, direction = _plane(points, labels)
    flat = points @ plane
    _draw_dots(axes, flat, labels, colors)
    obstacles = np.zeros((0, 2))
    if prior:
        _draw_prior(axes)
        obstacles = np.array([[0.0, 1.0], [0.0, 2.0]])  # texts
    if marked is not None:
        crosses = _at_least_2d(marked) @ plane
        axes.plot(
            *crosses.T, "x", color="black", ms=16, mew=4, zorder=8,
            path_effects=[patheffects.withStroke(linewidth=7, foreground="white")],
        )  # fmt: skip
        arm = 0.03 * max(axes.dataLim.width, axes.dataLim.height)
        corners = arm * np.array([[0, 0], [-1, -1], [-1, 1], [1, -1], [1, 1]])
        covered = crosses[:, None] + corners
        obstacles = np.concatenate([obstacles, covered.reshape(-1, 2)])
    if 1 < len(colors) <= _MAX_CLASS_NAMES:
        if zone_centres is None:
            places = np.stack([flat[labels == label].mean(axis=0) for label in colors])
        else:
            stars = _at_least_2d(zone_centres)[list(colors)] @ plane
            for (x, y), color in zip(stars, colors.values(), strict=True):
                axes.plot(x, y, "*", ms=15, color=color, mec="black", zorder=6)
            obstacles = np.concatenate([obstacles, stars])
            places = stars - [0.0, 0.05 * np.ptp(flat, axis=0).max()]
        _write_class_names(axes, places, obstacles, colors, class_names)
    label_axes(axes, title, f"{direction} 1", f"{direction} 2")
    if classes_of is not None:
        _fill_zones(axes, plane[:dimension], 1.05 * np.abs(flat).max(), classes_of, colors)
    axes.set_aspect("equal", adjustable="datalim" if classes_of is None else "box")


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
    classes_of: ClassesOf | None = None,
) -> Path:
    """Anchors of images at the left and their latents at the right, coloured by class.

    Each panel is an orthogonal projection onto the plane that separates its classes best. The plane
    is fitted to the points shown; with few points for the number of dimensions, classes look more
    separated than they are. Circles show one and two standard deviations of the prior N(0, I).
    Row k of `label_latents` is the centre of the zone of class k, drawn as a star; `zones_of` names
    its data type in the legend. `class_names` is indexed by label. More than 20 classes have
    colours but no names and stars. The background of the right panel shows the zones that the plane
    cuts through the origin, by `classes_of` of its points.
    """
    colors = class_colors(np.unique(labels))
    figure = new_figure(11.0, 5.4, title or "Latent zones")
    left, right = figure.subplots(1, 2)
    heading = "Anchors: outputs of the encoder"
    _draw_space(left, heading, anchors, labels, colors, class_names, prior=False)
    heading = "Latents: anchors mapped by the flow"
    _draw_space(
        right, heading, latents, labels, colors, class_names, label_latents, classes_of=classes_of
    )
    caption = f"Each dot is one image, projected from {anchors.shape[1]} dimensions onto a plane."
    if classes_of is not None:
        caption += "\nBackground: the zones of classes at points of the plane itself."
    figure.supxlabel(caption, fontsize=TEXT_SIZE)
    _add_legend(figure, colors, class_names, zones_of if label_latents is not None else None)
    return save(figure, path)


def among_zones(
    latents: Float[np.ndarray, "n q"],
    labels: Int[np.ndarray, " n"],
    marked: Float[np.ndarray, "m q"],
    title: str,
    class_names: Sequence[str] | None = None,
) -> Figure:
    """Figure of latents of images, coloured by class, with crosses at the `marked` latents.

    The projection is that of `latent_zones`. `class_names` is indexed by label; a single class
    has no name. The background is transparent.
    """
    figure = new_figure(6.4, 6.0)
    axes = figure.subplots()
    colors = class_colors(np.unique(labels))
    _draw_space(axes, title, latents, labels, colors, class_names, marked=marked)
    for ground in (figure.patch, axes.patch):
        ground.set_alpha(0)
    return figure
