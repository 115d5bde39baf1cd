"""Accuracy of classification by zone, against what the zones are cut with (paper E.3).

What a test can choose: the noise scale α of the latents, and the anchors that an image's own one
stands among, which are a batch of test images (as in the paper) or a bank of context anchors.
"""

import functools
import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from lzn_jax import zoning
from lzn_jax.latent_space import LatentSpace


class Curves(NamedTuple):
    """Accuracies in [0, 1] by noise scale, batch size and number of context anchors."""

    alpha: dict[float, float]
    batch: dict[int, float]
    context: dict[int, float]

    def named(self) -> dict[str, float]:
        """As metrics: test_accuracy_alpha_0.2, test_accuracy_batch_36, ..."""
        return {
            f"test_accuracy_{curve}_{x:.10g}": accuracy
            for curve, points in self._asdict().items()
            for x, accuracy in points.items()
        }


def accuracy_curves(
    space: LatentSpace,
    context: Mapping[str, Array],
    anchors: Float[np.ndarray, "n q"],
    accuracy_of: Callable[[np.ndarray | Array], float],
) -> Curves:
    """Accuracies at the scales and sizes that the config's evaluation lists.

    `accuracy_of` takes latents (n, q) of the images whose anchors are given. Batches and banks are
    tried at α = 0; a size that there are not enough images or context anchors for is left out.
    """
    evaluation = space.config.evaluation
    bank = context.get("anchors", jnp.zeros((0, anchors.shape[1])))
    return Curves(
        alpha={
            scale: accuracy_of(space.latents(context, anchors, scale))
            for scale in evaluation.noise_scales
        },
        batch={
            size: accuracy_of(centres_in_batches(anchors, size, space.solver, seed=size))
            for size in evaluation.batch_sizes
            if size <= len(anchors)
        },
        context={
            size: accuracy_of(_centres_in_bank(anchors, bank, size, space.solver))
            for size in evaluation.context_sizes
            if size <= len(bank)
        },
    )


def centres_in_batches(
    anchors: Float[np.ndarray, "n q"], size: int, solver: zoning.Solver, *, seed: int
) -> Float[Array, "n q"]:
    """Latents at α = 0 of images that know only their own batch, of `size` <= n random images.

    The last batch is filled up with images of the first, whose results are not used.
    """
    count = len(anchors)
    order = np.random.default_rng(seed).permutation(count)  # files may come sorted by class
    batches = np.resize(order, (math.ceil(count / size), size))
    found = np.asarray(_centres_of_batches(jnp.asarray(anchors[batches]), solver))
    centres = np.empty_like(anchors)
    centres[order] = found.reshape(-1, anchors.shape[1])[:count]
    return jnp.asarray(centres)


@functools.partial(jax.jit, static_argnames="solver")
def _centres_of_batches(
    batches: Float[Array, "b n q"], solver: zoning.Solver
) -> Float[Array, "b n q"]:
    def centres(anchors: Array) -> Array:
        return zoning.compute_latents(anchors, jnp.zeros_like(anchors), solver=solver)

    return jax.vmap(centres)(batches)


def _centres_in_bank(
    anchors: np.ndarray, bank: Array, size: int, solver: zoning.Solver
) -> Float[Array, "n q"]:
    """Latents at α = 0 among the first `size` anchors of a bank, which is in random order."""
    # Weights, not a slice: all sizes share one compiled program.
    log_weights = jnp.where(jnp.arange(len(bank)) < size, 0.0, -jnp.inf)
    noise = jnp.zeros_like(anchors)
    return zoning.latents_in_context(anchors, bank, noise, solver=solver, log_weights=log_weights)
