"""Projections of the latent space to two dimensions: anchors, latents, centres of zones."""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from jaxtyping import Float, Int
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Circle
from matplotlib.typing import ColorType

from lzn_jax.plots import style
from lzn_jax.plots.style import AnyPath

_MAX_NAMES = 20  # of classes
_GRID = 120  # points per side of the grid on which the zones of a plane are computed

_STROKE = functools.partial(patheffects.withStroke, foreground="white")
# Latents (m, q) -> their classes (m,).
ClassesOf = Callable[[np.ndarray], np.ndarray]


def latent_zones(
    path: AnyPath,
    anchors: Float[np.ndarray, "n q"],
    latents: Float[np.ndarray, "n q"],
    labels: Int[np.ndarray, " n"],
    label_latents: Float[np.ndarray, "c q"] | None = None,
    title: str = "Latent zones",
    zones_of: str = "label",
    class_names: Sequence[str] | None = None,
    classes_of: ClassesOf | None = None,
) -> Path:
    """Draws anchors of images at the left and latents at the right, coloured by class.

    Each panel is an orthogonal projection onto the plane that separates its classes best. The plane
    is fitted to the points shown. If points are few for the number of dimensions, classes look more
    separated than they are. Circles show one and two standard deviations of the prior N(0, I). Row
    k of `label_latents` is the centre of the zone of class k, drawn as a star. `zones_of` names its
    data type in the legend. `class_names` is indexed by label. More than 20 classes are coloured,
    but without names and stars. The background of the right panel shows the zones that the plane
    cuts through the origin, by `classes_of` of its points.
    """
    colors = _colors(labels)
    figure = style.new_figure(11.0, 5.4, title)
    left, right = figure.subplots(1, 2)
    _draw_points(left, "Anchors: outputs of the encoder", anchors, labels, class_names)
    heading = "Latents: anchors mapped by the flow"
    plane = _draw_points(right, heading, latents, labels, class_names)
    handles = [_draw_prior(right)]
    for label, color in colors.items() if len(colors) <= _MAX_NAMES else ():
        name = style.class_name(label, class_names)
        handles.append(Line2D([], [], marker="o", ls="", markersize=7, color=color, label=name))
    if label_latents is not None and 1 < len(colors) <= _MAX_NAMES:
        star: Any = dict(marker="*", ls="", markersize=15, markeredgecolor="black", zorder=8)
        for label, (x, y) in zip(colors, label_latents[list(colors)] @ plane, strict=True):
            right.plot(x, y, color=colors[label], **star)
        handles.append(Line2D([], [], color="0.8", label=f"centre of a\n{zones_of}'s zone", **star))
    caption = f"Each dot is one image, projected from {anchors.shape[1]} dimensions onto a plane."
    if classes_of is not None:
        span = 1.05 * max(2.0, np.abs(latents @ plane).max())
        _fill_zones(right, plane, span, classes_of, colors)
        caption += "\nBackground: the zones of classes at points of the plane itself."
    figure.supxlabel(caption, fontsize=style.TEXT_SIZE)
    figure.legend(
        handles=handles, loc="outside right center", frameon=False, fontsize=style.TEXT_SIZE
    )
    return style.save(figure, path)


def among_zones(
    latents: Float[np.ndarray, "n q"],
    labels: Int[np.ndarray, " n"],
    marked: Float[np.ndarray, "m q"],
    title: str,
    class_names: Sequence[str] | None = None,
) -> Figure:
    """Figure of latents of images, coloured by class, with crosses at the `marked` latents.

    The projection is as in `latent_zones`. `class_names` is indexed by label. A single class is not
    named. The background is transparent.
    """
    figure = style.new_figure(6.4, 6.0)
    axes = figure.subplots()
    plane = _draw_points(axes, title, latents, labels, class_names)
    _draw_prior(axes)
    x, y = (marked @ plane).T
    cross = axes.plot(x, y, "x", color="black", markersize=16, markeredgewidth=4, zorder=6)
    cross[0].set_path_effects([_STROKE(linewidth=7)])
    for ground in (figure.patch, axes.patch):
        ground.set_alpha(0)
    return figure


def _colors(labels: np.ndarray) -> dict[int, ColorType]:
    """Colours by class, from the palette or, for more than ten classes, a continuous map."""
    classes = np.unique(labels).tolist()
    many = mpl.colormaps["turbo"](np.linspace(0.02, 0.98, len(classes))).tolist()
    colors: Sequence[ColorType] = style.PALETTE if len(classes) <= 10 else list(map(tuple, many))
    return dict(zip(classes, colors, strict=False))


def _plane(points: np.ndarray, labels: np.ndarray) -> tuple[Float[np.ndarray, "q 2"], str]:
    """Two orthonormal directions that separate the classes, and their kind.

    They are orthonormal, so that a standard Gaussian stays standard under projection. Principal
    components replace them if discriminant analysis finds fewer than two directions.
    """
    from sklearn.covariance import ledoit_wolf  # here, as it takes a second

    if points.shape[1] <= 2:
        return np.eye(points.shape[1], 2), "latent dimension"
    centred = points - points.mean(axis=0)
    classes, index, counts = np.unique(labels, return_inverse=True, return_counts=True)
    if len(classes) > 2:
        means = np.stack([centred[labels == label].mean(axis=0) for label in classes])
        # Shrunk, since even random labels would look separated if there are few points.
        within = ledoit_wolf(centred - means[index], assume_centered=True)[0]
        variances, axes = np.linalg.eigh(within)
        if variances[0] > 0:
            whitening = axes / np.sqrt(variances)
            between = np.sqrt(counts)[:, None] * (means @ whitening)
            plane = np.linalg.qr(whitening @ np.linalg.svd(between)[2][:2].T)[0]
            return plane, "class-separating direction"
    return np.linalg.eigh(centred.T @ centred)[1][:, :-3:-1], "principal direction"


def _draw_points(
    axes: Axes,
    title: str,
    points: np.ndarray,
    labels: np.ndarray,
    class_names: Sequence[str] | None,
) -> Float[np.ndarray, "q 2"]:
    """Draws points and the names of their classes at the means. Returns the plane."""
    points = points.astype(np.float64)
    plane, direction = _plane(points, labels)
    flat, colors = points @ plane, _colors(labels)
    # In random order, so that no class covers the others.
    order = np.random.default_rng(0).permutation(len(points))
    dot_colors = [colors[label] for label in labels[order].tolist()]
    size = float(np.clip(16_000 / len(points), 5, 30))
    axes.scatter(flat[order, 0], flat[order, 1], s=size, c=dot_colors, alpha=0.55, linewidths=0)
    for label, color in colors.items() if 1 < len(colors) <= _MAX_NAMES else ():
        name, place = style.label_name(label, class_names), flat[labels == label].mean(axis=0)
        axes.annotate(  # below the mean, since the centre of the zone is near the mean
            name, place, (0, -13), textcoords="offset points", color=color, zorder=9,
            fontsize=14 if len(name) <= 2 else style.TEXT_SIZE, fontweight="bold",
            ha="center", va="center", parse_math=False, path_effects=[_STROKE(linewidth=3)],
        )  # fmt: skip
    style.label_axes(axes, title, f"{direction} 1", f"{direction} 2")
    axes.set_aspect("equal", adjustable="datalim")
    return plane


def _draw_prior(axes: Axes) -> Line2D:
    """Draws one and two standard deviations of N(0, I). Returns the entry for the legend."""
    for radius in (1, 2):
        axes.add_patch(Circle((0, 0), radius, fill=False, color="0.35", ls="--", lw=1.2, zorder=4))
    return Line2D([], [], color="0.35", linestyle="--", label="Gaussian prior,\n1σ and 2σ")


def _fill_zones(
    axes: Axes, plane: np.ndarray, span: float, classes_of: ClassesOf, colors: dict[int, ColorType]
) -> None:
    """Colours the points of a plane (q, 2) within `span` by class, with white borders."""
    line = np.linspace(-span, span, _GRID)
    grid = np.stack(np.meshgrid(line, line), axis=-1).reshape(-1, 2)
    zones = classes_of((grid @ plane.T).astype(np.float32)).reshape(_GRID, _GRID)
    picture = np.ones((_GRID, _GRID, 4))
    for label, color in colors.items():
        picture[zones == label] = to_rgba(color, 0.25)
        if len(colors) <= _MAX_NAMES and 0 < np.mean(zones == label) < 1:
            axes.contour(line, line, zones == label, [0.5], colors="white", linewidths=1.2)
    axes.imshow(picture, origin="lower", extent=(-span, span, -span, span), zorder=0)
    axes.grid(False)
    axes.set_aspect("equal", adjustable="box")
