"""Pictures for people, from arrays: image grids, training curves, the latent space in 2-D.

Each function writes one PNG file atomically and returns its path.
"""

import fnmatch
import io
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import matplotlib as mpl
import numpy as np
from jaxtyping import Float, Int, UInt8
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.patches import Circle
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter
from sklearn.covariance import ledoit_wolf

from lzn_jax import reporting
from lzn_jax.data import Images

_DPI = 150
_TEXT_SIZE = 10  # points, as the next two
_TITLE_SIZE = 13
_SMALL_SIZE = 9
_TILE = 96  # pixels; smaller images are enlarged to at least this
_GAP = 6  # pixels between images
_MARGIN = 24  # pixels round a sheet
_MAX_CLASS_ROWS = 20
_PAIR_COLUMNS = 10
_MAX_PAIRS = 30
_MAX_PREDICTIONS = 60
_SMOOTH_ABOVE = 50  # points of a curve
_MAX_CLASS_NAMES = 20


def _save(figure: Figure, path: str | os.PathLike[str]) -> Path:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DPI, facecolor="white")
    reporting.write_bytes(path, buffer.getvalue())
    return Path(path)


def _style(axes: Axes, title: str, x_label: str, y_label: str) -> None:
    axes.set_title(title, fontsize=11, fontweight="bold", loc="left")
    axes.set_xlabel(x_label, fontsize=_TEXT_SIZE)
    axes.set_ylabel(y_label, fontsize=_TEXT_SIZE)
    axes.tick_params(which="both", labelsize=_SMALL_SIZE)
    axes.grid(True, color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


# Image grids. Sheets are laid out in pixels, so that each image pixel is a square of the same
# size whatever the fonts do.


class _Tile(NamedTuple):
    """An RGB image with its upper left corner, in pixels from the sheet's upper left."""

    x: int
    y: int
    pixels: np.ndarray


class _Note(NamedTuple):
    """A text centred at height y, in pixels; `align` says which side of it x is."""

    x: int
    y: int
    text: str
    align: Literal["left", "center", "right"]


def _enlarged(images: np.ndarray) -> np.ndarray:
    """RGB images of at least `_TILE` pixels by nearest neighbour, in whole multiples."""
    factor = math.ceil(_TILE / max(images.shape[1:3]))
    images = images.repeat(factor, axis=1).repeat(factor, axis=2)
    return np.broadcast_to(images, (*images.shape[:3], 3))


def _text_extent(text: str, size: int, weight: str = "normal") -> tuple[int, int]:
    """Width and height of a text in pixels; size in points."""
    canvas = FigureCanvasAgg(Figure(dpi=_DPI))
    artist = canvas.figure.text(0, 0, text, fontsize=size, fontweight=weight, parse_math=False)
    extent = artist.get_window_extent(canvas.get_renderer())
    return math.ceil(extent.width), math.ceil(extent.height)


def _write_sheet(
    path: str | os.PathLike[str], tiles: Sequence[_Tile], notes: Sequence[_Note], title: str
) -> Path:
    """Draw tiles and notes below a title; notes with negative x stand in the left margin."""
    widths = [_text_extent(note.text, _TEXT_SIZE)[0] - note.x for note in notes if note.x < 0]
    title_width, title_height = _text_extent(title, _TITLE_SIZE, "bold")
    left = _MARGIN + max(widths, default=0)
    top = 2 * _MARGIN + title_height
    right = max(tile.x + tile.pixels.shape[1] for tile in tiles)
    bottom = max(
        *(tile.y + tile.pixels.shape[0] for tile in tiles), *(note.y + _MARGIN for note in notes)
    )
    width = max(left + right, title_width + _MARGIN) + _MARGIN
    height = top + bottom + _MARGIN
    figure = Figure(figsize=(width / _DPI, height / _DPI), dpi=_DPI)
    for tile in tiles:
        below = height - top - tile.y - tile.pixels.shape[0]
        figure.figimage(tile.pixels, left + tile.x, below, origin="upper")
    for note in notes:
        figure.text(
            (left + note.x) / width,
            1 - (top + note.y) / height,
            note.text,
            fontsize=_TEXT_SIZE,
            ha=note.align,
            va="center",
            parse_math=False,
        )
    figure.text(
        _MARGIN / width,
        1 - _MARGIN / height,
        title,
        fontsize=_TITLE_SIZE,
        fontweight="bold",
        va="top",
        parse_math=False,
    )
    return _save(figure, path)


def _class_name(label: int, class_names: Sequence[str] | None) -> str:
    if label < 0:
        return ""
    return f"class {label}" if class_names is None else class_names[label]


def sample_grid(
    path: str | os.PathLike[str],
    images: UInt8[np.ndarray, "n h w c"],
    labels: Int[np.ndarray, " n"],
    class_names: Sequence[str] | None = None,
    title: str | None = None,
    columns: int = 12,
) -> Path:
    """Images (1 or 3 channels) side by side, one row a class, the class at the left.

    At most `columns` images of a class and the 20 lowest classes are shown. A single class
    goes on over further rows, at most `columns`. A label below 0 is no class and has no name.
    """
    classes = np.unique(labels)[:_MAX_CLASS_ROWS]
    limit = columns if len(classes) > 1 else columns * columns
    tiles, notes = [], []
    for row, label in enumerate(classes.tolist()):
        pixels = _enlarged(images[np.flatnonzero(labels == label)[:limit]])
        row_height, column_width = pixels.shape[1] + _GAP, pixels.shape[2] + _GAP
        name = _class_name(label, class_names)
        notes.append(_Note(-12, row * row_height + pixels.shape[1] // 2, name, "right"))
        for place, tile in enumerate(pixels):
            down, across = divmod(place, columns)
            corner = (across * column_width, (row + down) * row_height)
            tiles.append(_Tile(*corner, tile))
    return _write_sheet(path, tiles, notes, title or "Images by class")


def reconstructions(
    path: str | os.PathLike[str],
    originals: Images,
    reconstructed: UInt8[np.ndarray, "n h w c"],
    errors: Float[np.ndarray, " n"],
    title: str | None = None,
) -> Path:
    """Real images (1 or 3 channels) above their reconstructions, the error under each pair.

    The first 30 are shown.
    """
    shown = slice(_MAX_PAIRS)
    upper, lower = _enlarged(originals[shown]), _enlarged(reconstructed[shown])
    height, width = upper.shape[1:3]
    text_height = 2 * _text_extent("0", _TEXT_SIZE)[1]
    block_height = 2 * (height + _GAP) + text_height + _MARGIN
    tiles, notes = [], []
    for index, error in enumerate(errors[shown]):
        down, across = divmod(index, _PAIR_COLUMNS)
        x, y = across * (width + _GAP), down * block_height
        text_y = y + 2 * (height + _GAP) + text_height // 2
        tiles.append(_Tile(x, y, upper[index]))
        tiles.append(_Tile(x, y + height + _GAP, lower[index]))
        notes.append(_Note(x + width // 2, text_y, f"{error:.2f}", "center"))
        if across == 0:
            notes.append(_Note(-12, y + height // 2, "real", "right"))
            notes.append(_Note(-12, y + height + _GAP + height // 2, "reconstructed", "right"))
            notes.append(_Note(-12, text_y, "l2 error", "right"))
    return _write_sheet(path, tiles, notes, title or "Real images and their reconstructions")


def interpolation(
    path: str | os.PathLike[str],
    ends: Images,
    images: UInt8[np.ndarray, "n h w c"],
    weights: Float[np.ndarray, " n"],
    title: str | None = None,
) -> Path:
    """Images on the way between two in a row, the weight of the second under each.

    The two `ends` themselves stand at the left and at the right.
    """
    strip = _enlarged(np.concatenate([ends[:1], images, ends[1:]]))
    height, width = strip.shape[1:3]
    text_y = height + _GAP + _text_extent("0", _TEXT_SIZE)[1]
    texts = ["real", *(f"{weight:.2g}" for weight in weights), "real"]
    tiles, notes = [], []
    for index, text in enumerate(texts):
        gaps = (index > 0) + (index == len(texts) - 1)  # a wide one beside each real image
        x = index * (width + _GAP) + gaps * _MARGIN
        tiles.append(_Tile(x, 0, strip[index]))
        notes.append(_Note(x + width // 2, text_y, text, "center"))
    return _write_sheet(path, tiles, notes, title or "From one image to another")


def predictions(
    path: str | os.PathLike[str],
    images: Images,
    classes: Int[np.ndarray, " n"],
    probabilities: Float[np.ndarray, " n"],
    labels: Int[np.ndarray, " n"] | None = None,
    title: str | None = None,
) -> Path:
    """Images with the class that was found for each, its probability, and the label if it differs.

    The first 60 are shown.
    """
    shown = slice(_MAX_PREDICTIONS)
    pixels = _enlarged(images[shown])
    height, width = pixels.shape[1:3]
    line = 3 * _text_extent("0", _TEXT_SIZE)[1] // 2
    tiles, notes = [], []
    for index, (found, probability) in enumerate(
        zip(classes[shown].tolist(), probabilities[shown].tolist(), strict=True)
    ):
        down, across = divmod(index, _PAIR_COLUMNS)
        x, y = across * (width + _GAP), down * (height + 2 * line + _MARGIN)
        tiles.append(_Tile(x, y, pixels[index]))
        texts = [f"{found}: {probability:.0%}"]
        if labels is not None and labels[index] != found:
            texts.append(f"is {labels[index]}")
        for place, text in enumerate(texts):
            text_y = y + height + place * line + line // 2 + _GAP
            notes.append(_Note(x + width // 2, text_y, text, "center"))
    return _write_sheet(path, tiles, notes, title or "Images and their classes")


# Curves.


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
    _style(axes, panel.title, "training step", panel.unit)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda step, _: f"{step:,.0f}"))
    if len(panel.patterns) > 1:
        axes.legend(
            loc="upper left",
            bbox_to_anchor=(0.0, -0.2),
            ncols=2,
            frameon=False,
            fontsize=_SMALL_SIZE,
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
    layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12)
    figure = Figure(figsize=(6.0 * columns, 3.6 * rows + 0.5), dpi=_DPI, layout=layout)
    figure.suptitle("Training curves", fontsize=_TITLE_SIZE, fontweight="bold")
    for place, (panel, series) in enumerate(panels):
        _draw_panel(figure.add_subplot(rows, columns, place + 1), panel, series)
    if not panels:
        figure.text(0.5, 0.5, "no metrics yet", ha="center", fontsize=_TEXT_SIZE)
    return _save(figure, path)


# Classification.


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
    _style(axes, panel.title, panel.x_label, "test accuracy")
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
    layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12)
    figure = Figure(figsize=(4.6 * len(shown), 4.0), dpi=_DPI, layout=layout)
    heading = "Accuracy of classification by zone"
    figure.suptitle(heading, fontsize=_TITLE_SIZE, fontweight="bold")
    for axes, panel in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown, strict=True):
        _draw_accuracies(axes, panel)
    return _save(figure, path)


# Latent space.


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
    axes: Axes, points: np.ndarray, labels: np.ndarray, colors: Mapping[int, Any]
) -> None:
    """The class at the mean of its points, aside where another class has its mean there."""
    centers = np.stack([points[labels == label].mean(axis=0) for label in colors])
    extent = max(axes.dataLim.width, axes.dataLim.height, 0.1)  # points may all coincide
    centers = _spread(centers, 0.05 * extent)
    axes.update_datalim(centers)
    axes.autoscale_view()
    for (x, y), (label, color) in zip(centers, colors.items(), strict=True):
        axes.text(
            x,
            y,
            str(label),
            color=color,
            fontsize=14,
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
            fontsize=_TEXT_SIZE,
            path_effects=[patheffects.withStroke(linewidth=4, foreground="white")],
            zorder=4.5,
        )


def _draw_zone_centers(axes: Axes, centers: np.ndarray, colors: Mapping[int, Any]) -> None:
    """A star with its class inside for each row of `centers` (c, 2) whose class is drawn."""
    for place, (label, color) in enumerate(colors.items()):
        x, y = centers[label]
        axes.plot(
            x,
            y,
            marker="*",
            markersize=25,
            color=color,
            markeredgecolor="black",
            zorder=6 + place,
        )
        axes.text(
            x,
            y,
            str(label),
            color="white",
            fontsize=_SMALL_SIZE,
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
    zone_centers: np.ndarray | None = None,
) -> None:
    points = _at_least_2d(points)
    plane, direction = _plane(points, labels)
    _draw_dots(axes, points @ plane, labels, colors)
    if len(colors) <= _MAX_CLASS_NAMES:
        if zone_centers is None:
            _write_class_names(axes, points @ plane, labels, colors)
        else:
            _draw_zone_centers(axes, _at_least_2d(zone_centers) @ plane, colors)
    _style(axes, title, f"{direction} 1", f"{direction} 2")
    axes.set_aspect("equal", adjustable="datalim")


def _add_legend(figure: Figure, colors: Mapping[int, Any], with_centers: bool) -> None:
    handles = [Line2D([], [], color="0.35", linestyle="--", label="Gaussian prior")]
    if len(colors) <= _MAX_CLASS_NAMES:
        for label, color in colors.items():
            dot = Line2D([], [], color=color, marker="o", markersize=7, linestyle="")
            dot.set_label(f"class {label}")
            handles.append(dot)
        if with_centers:
            star = Line2D([], [], color="0.8", marker="*", markersize=14, linestyle="")
            star.set(label="centre of a\nlabel's zone", markeredgecolor="black")
            handles.append(star)
    figure.legend(handles=handles, loc="outside right center", frameon=False, fontsize=_TEXT_SIZE)


def latent_zones(
    path: str | os.PathLike[str],
    anchors: Float[np.ndarray, "n q"],
    latents: Float[np.ndarray, "n q"],
    labels: Int[np.ndarray, " n"],
    label_latents: Float[np.ndarray, "c q"] | None = None,
    title: str | None = None,
) -> Path:
    """Anchors of images at the left, their latents at the right, coloured by class.

    Each panel is an orthogonal projection on the plane that separates its classes best. The plane
    is fit to the points it shows, so take many more points than dimensions: few look more apart
    than they are. The circles are one and two standard deviations of the prior N(0, I).
    `label_latents` holds the centre of each label's zone, row k that of class k; they are drawn
    as stars. More than 20 classes are told apart by colour alone, without names and stars.
    """
    colors = _class_colors(np.unique(labels))
    layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12)
    figure = Figure(figsize=(13.5, 6.6), dpi=_DPI, layout=layout)
    figure.suptitle(title or "Latent zones", fontsize=_TITLE_SIZE, fontweight="bold")
    left, right = figure.subplots(1, 2)
    _draw_space(left, "Anchors: what the encoder makes of images", anchors, labels, colors)
    _draw_prior(right)
    heading = "Latents: where the flow takes the anchors"
    _draw_space(right, heading, latents, labels, colors, label_latents)
    caption = f"Each dot is one image, projected from {anchors.shape[1]} dimensions onto a plane."
    figure.supxlabel(caption, fontsize=_TEXT_SIZE)
    _add_legend(figure, colors, with_centers=label_latents is not None)
    return _save(figure, path)
