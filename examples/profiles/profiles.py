"""The smallest data type: the ink of a digit's rows and columns."""

import jax.numpy as jnp
import numpy as np

from lzn_jax import parts
from lzn_jax.array_type import ArrayType
from lzn_jax.models.mlp import MLP


class Profile(ArrayType):
    """Mean ink of each row and column, (n, 16) float32 in [0, 1]."""

    def __init__(self, config):
        encoder, decoder = MLP(256, 1, config.latent.dim, 0.0, jnp.float32), ProfileDecoder()
        super().__init__(
            "profile", (16,), config=config, column="profiles", encoder=encoder, decoder=decoder
        )

    def samples(self, examples):  # of one split of the data set
        ink = [examples.images[..., 0].mean(axis=axis) / 255 for axis in (1, 2)]
        return np.concatenate(ink, axis=1).astype(np.float32)


class ProfileDecoder:
    """A decoder in one pass, trained by squared errors."""

    network, output, num_draws = "profile_decoder", "profiles", 0
    module = MLP(256, 1, 16, 0.0, jnp.float32)
    sources, condition, noise_scale = ("profile",), None, None  # α from 0 to 1 at random

    def init(self, key, condition):
        return self.module.init(key, condition[0], train=False)

    def loss(self, variables, batch, condition, keys):
        return jnp.mean((self.made(variables, condition) - batch["profiles"]) ** 2)

    def generate(self, variables, key, condition, index):
        return {"profiles": self.made(variables, condition)}

    def made(self, variables, condition):
        return self.module.apply(variables[self.network], condition[0], train=False)


parts.add("type", "profile", Profile, ArrayType.fields("profile"))
