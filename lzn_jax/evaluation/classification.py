"""Accuracy of classification by zone (paper E.3).

Accuracy depends on the noise scale α of the latents, and on the anchors that cut the zones beside
an image's own anchor. These are the anchors of a batch of test images, as in the paper, or context
anchors.
"""

import functools
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from lzn_jax import plots, zoning
from lzn_jax.data import Examples, label_names
from lzn_jax.trained_model import TrainedModel


def measure(
    model: TrainedModel, train: Examples, test: Examples, workdir: Path
) -> dict[str, float]:
    """Accuracy of classification by zone from each other data type, and a figure of the zones.

    The accuracy of the first type is `test_accuracy`, with further accuracies by α, batch size and
    number of context anchors.
    """
    metrics: dict[str, float] = {}
    for source, target in model.translations:
        if target != model.class_type:
            continue
        data_type, name = model.space.types[source], f"{source}_to_{target}_accuracy"
        if source == model.main_type:
            metrics |= _of_first_type(model, test, workdir / "figures")
        elif len(rows := data_type.readable(test)):
            classes = model.classify(data_type.samples(test)[rows], source=source).classes
            metrics[name] = float(np.mean(classes == test.labels[rows]))
    return metrics


def _of_first_type(model: TrainedModel, test: Examples, folder: Path) -> dict[str, float]:
    source, config, space = model.main_type, model.config, model.space
    anchors = model.anchors(space.types[source].samples(test), source=source)
    no_context = np.zeros((0, anchors.shape[1]), np.float32)
    context = model.model.context.get(source)

    def accuracy_of(latents: np.ndarray | Array) -> float:
        return float(np.mean(model.classes(latents).classes == test.labels))

    metrics = {}
    if context is not None:
        metrics["test_accuracy"] = accuracy_of(model.draw_latents(anchors, 0.0))
        metrics[f"{source}_to_{model.class_type}_accuracy"] = metrics["test_accuracy"]
    metrics["test_accuracy_batch"] = accuracy_of(model.draw_latents(anchors, 0.0, among=no_context))
    # Batch and context sizes are measured at α = 0. Sizes that exceed the data are left out.
    sizes, scales = config.evaluation, config.evaluation.noise_scales
    curves = {
        "alpha": {scale: accuracy_of(model.draw_latents(anchors, scale)) for scale in scales},
        "batch": {
            size: accuracy_of(centres_in_batches(anchors, size, space.solver, seed=size))
            for size in sizes.batch_sizes
            if size <= len(anchors)
        },
        "context": {
            size: accuracy_of(_centres_in_context(anchors, context.anchors, size, space.solver))
            for size in sizes.context_sizes
            if context is not None and size <= len(context.anchors)
        },
    }
    if any(curves.values()):
        plots.classification(folder / "classification.png", *curves.values())
    for curve, points in curves.items():
        metrics |= {f"test_accuracy_{curve}_{x:.10g}": share for x, share in points.items()}
    latents = model.draw_latents(anchors, 0.0)
    if np.isfinite(latents).all():  # a diverged run is still evaluated
        classes = np.arange(config.data.num_classes, dtype=np.int32)
        plots.latent_zones(
            folder / "zones.png",
            anchors,
            latents,
            test.labels,
            model.encode(classes, jax.random.key(0), 0.0, source=model.class_type),
            title=f"Latent zones of the test {space.types[source].output}",
            class_names=label_names(config.data),
            classes_of=lambda points: model.classes(points).classes,
        )
    return metrics


def centres_in_batches(
    anchors: Float[np.ndarray, "n q"], size: int, solver: zoning.Solver, *, seed: int
) -> Float[Array, "n q"]:
    """Latents at α = 0 in zones cut by random batches of `size` <= n images.

    The last batch is filled up with images of the first batch, whose results are discarded.
    """
    count = len(anchors)
    order = np.random.default_rng(seed).permutation(count)  # files may be sorted by class
    batches = np.resize(order, (math.ceil(count / size), size))
    in_batches = np.asarray(_centres_of_batches(jnp.asarray(anchors[batches]), solver))
    centres = np.empty_like(anchors)
    centres[order] = in_batches.reshape(-1, anchors.shape[1])[:count]
    return jnp.asarray(centres)


@functools.partial(jax.jit, static_argnames="solver")
def _centres_of_batches(batches: Array, solver: zoning.Solver) -> Array:
    compute = functools.partial(zoning.compute_latents, solver=solver)
    return jax.vmap(compute)(batches, jnp.zeros_like(batches))


def _centres_in_context(
    anchors: np.ndarray, context: Array, size: int, solver: zoning.Solver
) -> Float[Array, "n q"]:
    """Latents at α = 0 in zones cut by the first `size` context anchors, whose order is random."""
    # Weights instead of a slice, so that all sizes share one compiled program.
    log_weights = jnp.where(jnp.arange(len(context)) < size, 0.0, -jnp.inf)
    return zoning.latents_in_context(
        anchors, context, jnp.zeros_like(anchors), solver=solver, log_weights=log_weights
    )
