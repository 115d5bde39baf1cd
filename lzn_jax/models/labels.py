"""Label encoder: one learned anchor for each class (arXiv:2509.15591, section 5)."""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float


class LabelAnchors(nn.Module):
    """Learned anchors of the classes, initialised from N(0, 1)."""

    num_classes: int
    latent_dim: int

    @nn.compact
    def __call__(self) -> Float[Array, "c q"]:
        """All anchors, row i for class i."""
        shape = (self.num_classes, self.latent_dim)
        return self.param("anchors", nn.initializers.normal(1.0), shape, jnp.float32)
