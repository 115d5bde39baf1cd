"""A loss of one's own: an image keeps its anchor when a square of it is erased."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lzn_jax import parts
from lzn_jax.models import in_training


class Erasing:
    """Squared distance of the anchors of images and of the same images with a square erased."""

    def transform(self, row: Any, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Adds the column `erased`, on the host."""
        erased = row["images"].copy()
        side = len(erased) // 2
        top, left = rng.integers(0, len(erased) - side + 1, size=2)
        erased[top : top + side, left : left + side] = 0
        return {"erased": erased}

    def __call__(
        self, space: Any, variables: Any, batch: Any, zones: Any, key: Any
    ) -> tuple[Any, dict[str, Any]]:
        """The distance, relative to the anchors' variance; whole images get no gradient."""
        encoder = space.encoders["image"]
        network = in_training(encoder.module, space.config.training.microbatch_size)
        erased = network(variables[encoder.network], key, encoder.inputs(batch["erased"]))
        whole = jax.lax.stop_gradient(zones["image"][0].anchors)
        variance = jnp.mean(jnp.var(whole, axis=0))
        return jnp.mean((erased - whole) ** 2) / variance, {"anchor_variance": variance}


parts.add("loss", "erasing", Erasing())
