"""Pictures of the method: zones of three digits a class in the plane, computed, not sketched.

    python benchmarks/method_picture.py --folder=docs

Writes method.png and the pictures of docs/how_it_works.md. Anchors are points of the plane. Those
of images and labels are trained by `zoning.alignment_loss` alone, without networks.
"""

from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib
import shared

matplotlib.use("agg")
import matplotlib.pyplot as plt
import numpy as np
import optax
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.offsetbox import AnnotationBbox, OffsetImage
from sklearn.datasets import load_digits

from lzn_jax import zoning

SOLVER = zoning.Euler(num_steps=50)
TRAINING = zoning.Euler(num_steps=20)
SPAN = 2.8  # half the side of each panel
CLASSES = (0, 1, 7)
COLOURS = ("tab:blue", "tab:orange", "tab:green", "0.6")  # of classes, and of context anchors
CLASS_OF = np.repeat(np.arange(3), 3)  # of nine images
KEY = jax.random.key(5)
ARROW = {"arrowstyle": "-|>", "shrinkA": 6, "shrinkB": 6, "linewidth": 1.5}


def digits() -> np.ndarray:
    images, labels = load_digits(return_X_y=True)
    return np.concatenate([images[labels == c][[0, 3, 8]] for c in CLASSES]).reshape(9, 8, 8)


def trained_anchors(num_updates: int = 400) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Anchors of images (9, 2) and labels (3, 2) before and after training the alignment."""
    keys = jax.random.split(KEY, 3)
    anchors = [jax.random.normal(keys[0], (9, 2)), jax.random.normal(keys[1], (3, 2))]
    optimizer = optax.adam(0.02)

    def loss(anchors, key):
        noise = 0.45 * jax.random.normal(key, (9, 2))
        latents = zoning.compute_latents(anchors[0], noise, solver=TRAINING)
        return zoning.alignment_loss(latents, anchors[1], jnp.array(CLASS_OF), solver=TRAINING)[0]

    @jax.jit
    def update(anchors, state, key):
        updates, state = optimizer.update(jax.grad(loss)(anchors, key), state)
        return optax.apply_updates(anchors, updates), state

    start, state = anchors, optimizer.init(anchors)
    for key in jax.random.split(keys[2], num_updates):
        anchors, state = update(anchors, state, key)
    # Zones stay as they are when all anchors move together.
    return [np.array(a - a.mean(0)) for a in start], [np.array(a - a.mean(0)) for a in anchors]


def panel(
    axes: Axes, title: str, anchors: np.ndarray | None = None, classes: Sequence[int] = ()
) -> None:
    """A panel with the zone of each anchor in its class's colour, borders in white."""
    axes.set(xlim=(-SPAN, SPAN), ylim=(-SPAN, SPAN), aspect="equal", xticks=[], yticks=[])
    axes.set_title(title, fontsize=11)
    if anchors is None:
        return
    span = np.linspace(-SPAN, SPAN, 400)
    grid = jnp.array(np.stack(np.meshgrid(span, span), axis=-1).reshape(-1, 2))
    zones = np.array(zoning.classify(grid, jnp.array(anchors), solver=SOLVER)).reshape(400, 400)
    colours = np.array([matplotlib.colors.to_rgba(COLOURS[c], 0.25) for c in classes])
    extent = (-SPAN, SPAN, -SPAN, SPAN)
    axes.imshow(colours[zones], origin="lower", extent=extent, interpolation="none", zorder=0)
    for zone in range(len(anchors)):
        axes.contour(span, span, zones == zone, [0.5], colors="white", linewidths=1.2, zorder=1)


def draw_anchors(axes: Axes, anchors: np.ndarray, classes: Sequence[int]) -> None:
    colours = [COLOURS[c] for c in classes]
    axes.scatter(*anchors.T, s=130, marker="*", c=colours, edgecolors="black", zorder=4)


def draw_image(axes: Axes, image: np.ndarray, at: Sequence[float], zoom: float = 2.2) -> None:
    """Draws a digit with a thin frame, its centre at a point of the panel."""
    picture = OffsetImage(image, zoom=zoom, cmap="gray_r", interpolation="nearest")
    frame = {"edgecolor": "0.4", "linewidth": 0.8}
    axes.add_artist(AnnotationBbox(picture, at, pad=0.1, bboxprops=frame, zorder=3))


def latents_of(anchors: np.ndarray, count: int, noise_scale: float = 1.0) -> np.ndarray:
    own = jnp.repeat(jnp.arange(len(anchors)), count)
    noise = noise_scale * jax.random.normal(KEY, (len(own), 2))
    latents = zoning.compute_latents(jnp.array(anchors), noise, own, solver=SOLVER)
    return np.array(latents).reshape(len(anchors), count, 2)


def draw_latents(axes: Axes, latents: np.ndarray, classes: Sequence[int], size: float = 5) -> None:
    for points, c in zip(latents, classes, strict=True):
        axes.scatter(*points.T, s=size, color=COLOURS[c], linewidths=0, zorder=2)


def draw_label_zones(axes: Axes, title: str, anchors: Sequence[np.ndarray]) -> None:
    """Label anchors with their names, their zones, and latents of images."""
    panel(axes, title, anchors[1], range(3))
    draw_latents(axes, latents_of(anchors[0], 60, 0.45), CLASS_OF)
    draw_anchors(axes, anchors[1], range(3))
    for name, anchor in zip(CLASSES, anchors[1], strict=True):
        axes.text(*np.add(anchor, (0.0, 0.3)), f'"{name}"', ha="center", fontsize=13, weight="bold")


def draw_translation(axes: Axes, images: np.ndarray, anchors: Sequence[np.ndarray]) -> None:
    """An image classified and an image generated, through latents in the zones of labels."""
    panel(axes, "5  translate: through a latent, both ways", anchors[1], range(3))
    draw_anchors(axes, anchors[1], range(3))
    latents = latents_of(anchors[0], 2, 0.9)
    for index, label, place, names in (
        (6, 2, (-2.1, -1.8), ("encode", "decode")),
        (0, 0, (-1.6, 2.2), ("decode", "encode")),
    ):
        latent, label_anchor = latents[index, 0], anchors[1][label]
        draw_image(axes, images[index], place, zoom=3)
        axes.scatter(*latent, s=40, color=COLOURS[label], edgecolors="black", zorder=5)
        axes.text(*np.add(label_anchor, (-0.45, -0.1)), f'"{CLASSES[label]}"', weight="bold")
        ways = [(place, latent), (latent, label_anchor)]
        for (start, end), name in zip(ways, names, strict=True):
            ends = (start, end) if names[0] == "encode" else (end, start)
            axes.annotate("", ends[1], ends[0], arrowprops=ARROW, zorder=4)
            middle = (np.array(start) + end) / 2
            axes.text(*np.add(middle, (0.12, -0.15)), name, fontsize=9, zorder=5)


def draw_tasks(axes: Axes, image: np.ndarray) -> None:
    axes.set(xlim=(0, 10), ylim=(0, 8.2), xticks=[], yticks=[])
    axes.set_title("6  tasks: any source, any target", fontsize=11)
    tasks = (
        ("prior", "image", "generation"),
        ("label", "image", "generation of a class"),
        ("text", "image", "text to image"),
        ("image", "label", "classification"),
        ("image", "text", "captioning"),
        ("text", "label", "text classification"),
        ("label", "text", "text of a class"),
        ("prior", "text", "text generation"),
    )
    words = {"prior": "prior", "label": '"7"', "text": "a bold\nseven"}
    for row, (source, target, name) in enumerate(tasks):
        y = 7.6 - row
        for x, data_type in ((1.0, source), (3.9, target)):
            if data_type == "image":
                draw_image(axes, image, (x, y), zoom=3)
            else:
                axes.text(x, y, words[data_type], ha="center", va="center", fontsize=9)
        axes.annotate("", (3.2, y), (1.7, y), arrowprops=ARROW | {"color": "tab:purple"})
        axes.text(5.1, y, name, va="center", fontsize=10)


def draw_method(anchors: Sequence[np.ndarray]) -> Figure:
    images = digits()
    figure, ((a, b, c), (d, e, f)) = plt.subplots(2, 3, figsize=(12, 8.4), layout="constrained")
    panel(a, "1  the prior: one Gaussian for all data types")
    a.scatter(*np.array(jax.random.normal(KEY, (1500, 2))).T, s=5, c="0.55", linewidths=0)
    panel(b, "2  anchors of images cut it into zones", anchors[0], CLASS_OF)
    draw_anchors(b, anchors[0], CLASS_OF)
    for image, anchor in zip(images, anchors[0], strict=True):
        draw_image(b, image, np.add(anchor, (0.0, 0.42)))
    panel(c, "3  latents: random points of each zone", anchors[0], CLASS_OF)
    draw_latents(c, latents_of(anchors[0], 150), CLASS_OF)
    draw_label_zones(d, "4  zones of labels, aligned with those of images", anchors)
    draw_translation(e, images, anchors)
    draw_tasks(f, images[7])
    return figure


def draw_noise_scale(anchors: Sequence[np.ndarray]) -> Figure:
    figure, panels = plt.subplots(1, 3, figsize=(12, 4.3), layout="constrained")
    titles = "α = 0: the centre of each zone", "α = 0.45", "α = 1: the whole zone"
    for axes, title, noise_scale in zip(panels, titles, (0.0, 0.45, 1.0), strict=True):
        panel(axes, title, anchors[0], CLASS_OF)
        draw_latents(axes, latents_of(anchors[0], 100, noise_scale), CLASS_OF, size=8)
    return figure


def draw_alignment(before: Sequence[np.ndarray], after: Sequence[np.ndarray]) -> Figure:
    """Zones of labels with latents of images, before and after training."""
    figure, panels = plt.subplots(1, 2, figsize=(8.4, 4.5), layout="constrained")
    for axes, title, anchors in zip(panels, ("before", "after"), (before, after), strict=True):
        draw_label_zones(
            axes, f"{title} training: latents of images in the zones of labels", anchors
        )
        axes.title.set_fontsize(9.5)
    return figure


def draw_context(anchors: Sequence[np.ndarray]) -> Figure:
    image, own = digits()[6], anchors[0][6:7]
    context = np.delete(anchors[0], 6, axis=0)
    figure, panels = plt.subplots(1, 2, figsize=(8.4, 4.5), layout="constrained")
    titles = "one image alone: its zone is the whole space", "among context anchors: its own zone"
    for axes, title, others in zip(panels, titles, (context[:0], context), strict=True):
        grey = [3] * len(others)
        panel(axes, title, np.concatenate([own, others]), [2, *grey])
        draw_anchors(axes, others, grey)
        draw_latents(axes, latents_of(np.concatenate([own, others]), 300)[:1], [2])
        draw_anchors(axes, own, [2])
        draw_image(axes, image, np.add(own[0], (0.0, 0.42)))
    return figure


def main() -> None:
    parser = shared.parser(__doc__)
    parser.add_argument("--folder", type=Path, default=Path("docs"))
    folder = parser.parse_args().folder
    before, after = trained_anchors()
    for name, figure in {
        "method": draw_method(after),
        "noise_scale": draw_noise_scale(after),
        "alignment": draw_alignment(before, after),
        "context": draw_context(after),
    }.items():
        figure.savefig(folder / f"{name}.png", dpi=100)


if __name__ == "__main__":
    main()
