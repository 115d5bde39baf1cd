"""Projections of the latent space to two dimensions: anchors, latents, centres of zones."""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

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
from scipy.ndimage import gaussian_filter, zoom

from lzn_jax.plots import style
from lzn_jax.plots.style import AnyPath

_MAX_NAMES = 20  # of classes
_GRID, _FINER = 60, 2  # points per side at which classes are found; drawn points for each
_DRAWS, _SMOOTH = 4, 4.0  # draws from the prior at a point, standard deviation in points

_STROKE = functools.partial(patheffects.withStroke, foreground="white")
# Latents (m, q) -> their classes (m,).
ClassesOf = Callable[[np.ndarray], np.ndarray]


class ZoneMap(NamedTuple):
    """A plane through the origin of a latent space, and the zones that are projected onto it.

    Attributes:
      plane: two orthonormal directions.
      direction: kind of the directions.
      span: half of the side of the square that contains the points.
      classes: class at each point of a grid on the square, or None.
    """

    plane: Float[np.ndarray, "q 2"]
    direction: str
    span: float
    classes: Int[np.ndarray, "k k"] | None = None


def zone_map(
    latents: Float[np.ndarray, "n q"],
    labels: Int[np.ndarray, " n"],
    label_latents: Float[np.ndarray, "c q"] | None = None,
    classes_of: ClassesOf | None = None,
) -> ZoneMap:
    """Plane on which latents of images are shown, with the zones of classes by `classes_of`.

    Row k of `label_latents` is the centre of the zone of class k. The centres determine the plane,
    where they surround the origin in their order, so that no class covers another. Without them,
    the plane separates the classes of the latents best.
    """
    latents, plane = latents.astype(np.float64), None
    if label_latents is not None:
        plane, direction = _around(label_latents[np.unique(labels)]), "direction"
    if plane is None:
        plane, direction = _plane(latents, labels)
    span = 1.05 * max(2.0, np.abs(latents @ plane).max())
    classes = None if classes_of is None else _ground(plane, span, classes_of)
    return ZoneMap(plane, direction, span, classes)


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

    Each panel is an orthogonal projection onto a plane. Row k of `label_latents` is the centre of
    the zone of class k, drawn as a star. The plane of the latents is that of `zone_map`, and the
    means of the classes determine the plane of the anchors likewise. Without `label_latents` the
    planes separate the classes of the points shown best. If points are few for the number of
    dimensions, classes look more separated than they are. Circles show one and two standard
    deviations of the prior N(0, I). `zones_of` names the data type of the centres in the legend.
    `class_names` is indexed by label. More than 20 classes are coloured, but without names and
    stars. The background of the right panel shows where zones are projected, by `classes_of`.
    """
    colors, centres = _colors(labels), label_latents
    means = None
    if centres is not None:
        means = np.zeros((max(colors) + 1, anchors.shape[1]))
        means[list(colors)] = [anchors[labels == label].mean(axis=0) for label in colors]
    figure = style.new_figure(11.0, 5.4, title)
    left, right = figure.subplots(1, 2)
    seen, zones = zone_map(anchors, labels, means), zone_map(latents, labels, centres, classes_of)
    heading = "Anchors: outputs of the encoder"
    _draw_points(left, heading, anchors, labels, seen, class_names, means)
    heading = "Latents: anchors mapped by the flow"
    _draw_points(right, heading, latents, labels, zones, class_names, centres)
    handles = [_draw_prior(right)]
    for label, color in colors.items() if len(colors) <= _MAX_NAMES else ():
        name = style.class_name(label, class_names)
        handles.append(Line2D([], [], marker="o", ls="", markersize=7, color=color, label=name))
    if centres is not None and 1 < len(colors) <= _MAX_NAMES:
        star: Any = dict(marker="*", ls="", markersize=15, markeredgecolor="black", zorder=8)
        for label, color in colors.items():
            right.plot(*centres[label] @ zones.plane, color=color, **star)
        handles.append(Line2D([], [], color="0.8", label=f"centre of a\n{zones_of}'s zone", **star))
    caption = (
        f"Each dot is one image. Both panels are projections from {anchors.shape[1]} dimensions "
        "onto a plane:\nwhat overlaps here may be apart in other dimensions."
    )
    if classes_of is not None:
        _fill_zones(right, zones, colors)
        caption += " Background: the class whose zone is densest there."
    figure.supxlabel(caption, fontsize=style.TEXT_SIZE)
    figure.legend(
        handles=handles, loc="outside right center", frameon=False, fontsize=style.TEXT_SIZE
    )
    return style.save(figure, path)


def among_zones(
    latents: Float[np.ndarray, "n q"],
    labels: Int[np.ndarray, " n"],
    marked: Float[np.ndarray, "m q"],
    zones: ZoneMap,
    title: str,
    class_names: Sequence[str] | None = None,
) -> Figure:
    """Figure of latents of images on their zones, with crosses at the `marked` latents.

    `class_names` is indexed by label. A single class is not named. The background beside the zones
    is transparent.
    """
    figure = style.new_figure(6.4, 6.0)
    axes = figure.subplots()
    _draw_points(axes, title, latents, labels, zones, class_names)
    _fill_zones(axes, zones, _colors(labels))
    _draw_prior(axes)
    x, y = (marked @ zones.plane).T
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


def _around(centres: Float[np.ndarray, "c q"]) -> Float[np.ndarray, "q 2"] | None:
    """Orthonormal directions in which the centres of classes surround the origin in their order.

    The plane places the orthonormal vectors nearest to the centres (Löwdin, 1950) at equal angles.
    None for fewer than three classes and for dependent centres.
    """
    centres = centres.astype(np.float64)
    count = len(centres)
    left, sizes, right = np.linalg.svd(centres - centres.mean(axis=0), full_matrices=False)
    rank = count - 1
    if rank < 2 or len(sizes) < rank or sizes[rank - 1] < 1e-3 * sizes[0]:
        return None
    angles = 2 * np.pi * np.arange(count) / count
    circle = np.stack([np.cos(angles), np.sin(angles)], axis=1) * np.sqrt(2 / count)
    return (left[:, :rank] @ right[:rank]).T @ circle


def _ground(plane: np.ndarray, span: float, classes_of: ClassesOf) -> Int[np.ndarray, "k k"]:
    """The class whose zone is projected most densely, for each point of a grid on a plane.

    Densities are those of draws from the prior, smoothed. In many dimensions, the plane itself
    would miss the zones of most classes.
    """
    line = np.linspace(-span, span, _GRID)
    grid = np.stack(np.meshgrid(line, line), axis=-1).reshape(-1, 2)
    draws = np.random.default_rng(0).normal(size=(_DRAWS, len(grid), len(plane)))
    latents = grid @ plane.T + draws - draws @ plane @ plane.T
    found = classes_of(latents.reshape(-1, len(plane)).astype(np.float32))
    classes, places = np.unique(found, return_inverse=True)
    is_class = places.reshape(_DRAWS, _GRID, _GRID) == np.arange(len(classes))[:, None, None, None]
    shares = gaussian_filter(is_class.mean(axis=1), (0, _SMOOTH, _SMOOTH))
    prior = np.exp(-np.sum(grid**2, axis=1) / 2)
    sizes = shares.reshape(len(classes), -1) @ prior / prior.sum()
    least = 0.5 / len(classes)  # else smoothing would enlarge tiny zones
    densities = shares / np.maximum(sizes, least)[:, None, None]
    return classes[np.argmax(zoom(densities, (1, _FINER, _FINER), order=1), axis=0)]


def _draw_points(
    axes: Axes,
    title: str,
    points: np.ndarray,
    labels: np.ndarray,
    zones: ZoneMap,
    class_names: Sequence[str] | None,
    centres: np.ndarray | None = None,
) -> None:
    """Draws points, and the names of their classes at the centres or else at the means."""
    flat, colors = points @ zones.plane, _colors(labels)
    # In random order, so that no class covers the others.
    order = np.random.default_rng(0).permutation(len(points))
    dot_colors = [colors[label] for label in labels[order].tolist()]
    size = float(np.clip(16_000 / len(points), 5, 30))
    axes.scatter(flat[order, 0], flat[order, 1], s=size, c=dot_colors, alpha=0.55, linewidths=0)
    for label, color in colors.items() if 1 < len(colors) <= _MAX_NAMES else ():
        mean = flat[labels == label].mean(axis=0)
        place = mean if centres is None else centres[label] @ zones.plane
        name, radius = style.label_name(label, class_names), np.linalg.norm(place)
        x, y = 13 * place / radius if radius > 0 else (0, -13)
        axes.annotate(  # beside the star
            name, place, (x, y), textcoords="offset points",
            color=color, zorder=9,
            fontsize=14 if len(name) <= 2 else style.TEXT_SIZE, fontweight="bold",
            ha="center", va="center", parse_math=False, path_effects=[_STROKE(linewidth=3)],
        )  # fmt: skip
    style.label_axes(axes, title, f"{zones.direction} 1", f"{zones.direction} 2")
    axes.set_aspect("equal", adjustable="datalim")


def _draw_prior(axes: Axes) -> Line2D:
    """Draws one and two standard deviations of N(0, I). Returns the entry for the legend."""
    for radius in (1, 2):
        axes.add_patch(Circle((0, 0), radius, fill=False, color="0.35", ls="--", lw=1.2, zorder=4))
    return Line2D([], [], color="0.35", linestyle="--", label="Gaussian prior,\n1σ and 2σ")


def _fill_zones(axes: Axes, zones: ZoneMap, colors: dict[int, ColorType]) -> None:
    """Colours the plane by the classes whose zones are projected there, with white borders."""
    if zones.classes is None:
        return
    span, side = zones.span, len(zones.classes)
    line, picture = np.linspace(-span, span, side), np.ones((side, side, 4))
    for label, color in colors.items():
        is_class = zones.classes == label
        picture[is_class] = to_rgba(color, 0.25)
        if len(colors) <= _MAX_NAMES and 0 < np.mean(is_class) < 1:
            axes.contour(line, line, is_class, [0.5], colors="white", linewidths=1.2)
    axes.imshow(picture, origin="lower", extent=(-span, span, -span, span), zorder=0)
    axes.grid(False)
    axes.set_aspect("equal", adjustable="box")
