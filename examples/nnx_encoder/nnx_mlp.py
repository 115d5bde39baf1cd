"""A network of Flax NNX as the encoder of images."""

import math

import jax
from flax import nnx

from lzn_jax import parts


class MLP(nnx.Module):
    """A residual network of dense layers from images (b, h, w, c) in [-1, 1] to anchors."""

    def __init__(
        self, features: int, latent_dim: int, image_shape: tuple[int, ...], rngs: nnx.Rngs
    ) -> None:
        self.first = nnx.Linear(math.prod(image_shape), features, rngs=rngs)
        self.norm = nnx.LayerNorm(features, rngs=rngs)
        self.second = nnx.Linear(features, features, rngs=rngs)
        self.last = nnx.Linear(features, latent_dim, rngs=rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Anchors (b, latent_dim) of images."""
        h = jax.nn.gelu(self.first(images.reshape(len(images), -1)))
        h = h + jax.nn.gelu(self.second(self.norm(h)))
        return self.last(h)


parts.add("encoder", "nnx_mlp", MLP, {"encoder.features": parts.count("units of each layer", 128)})
