"""A network of Flax NNX as the encoder of images."""

import dataclasses
from typing import Any

import jax
from flax import nnx

from lzn_jax import parts


class MLP(nnx.Module):
    """A residual network of dense layers; its parameters are its state."""

    def __init__(self, inputs: int, features: int, outputs: int, rngs: nnx.Rngs) -> None:
        self.first = nnx.Linear(inputs, features, rngs=rngs)
        self.norm = nnx.LayerNorm(features, rngs=rngs)
        self.second = nnx.Linear(features, features, rngs=rngs)
        self.last = nnx.Linear(features, outputs, rngs=rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Anchors of images."""
        h = jax.nn.gelu(self.first(images.reshape(len(images), -1)))
        h = h + jax.nn.gelu(self.second(self.norm(h)))
        return self.last(h)


@dataclasses.dataclass(frozen=True)
class Encoder:
    """Images (b, h, w, c) in [-1, 1] to anchors (b, latent_dim), as pure functions.

    Fields of the config's group `encoder` arrive by name; the package adds `latent_dim`.
    """

    features: int
    latent_dim: int

    def init(self, key: jax.Array, images: jax.Array, train: bool) -> dict[str, Any]:
        """Fresh variables."""
        network = MLP(images[0].size, self.features, self.latent_dim, nnx.Rngs(key))
        return {"params": nnx.to_pure_dict(nnx.state(network))}

    def apply(
        self, variables: Any, images: jax.Array, *, train: bool, rngs: Any = None
    ) -> jax.Array:
        """Anchors; `train` and `rngs` change nothing, as there is no dropout."""
        size, dim = images[0].size, self.latent_dim
        network = nnx.eval_shape(lambda: MLP(size, self.features, dim, nnx.Rngs(0)))
        structure, state = nnx.split(network)
        nnx.replace_by_pure_dict(state, variables["params"])
        return nnx.merge(structure, state)(images)


FIELDS = {"encoder.features": parts.count("units of each layer", 128)}
parts.add("encoder", "nnx_mlp", Encoder, FIELDS)
