"""Vectors with a normal distribution for each class, in a space without images."""

import jax.numpy as jnp
import numpy as np

from lzn_jax import parts
from lzn_jax.array_type import ArrayType
from lzn_jax.data import Examples
from lzn_jax.decoders.flow import Sampler
from lzn_jax.models.mlp import MLP, MLPDecoder

RK45 = Sampler("rk45", 1)


class Vectors:
    @staticmethod
    def load(data, split):
        labels = np.arange(24 if split == "train" else 10, dtype=np.int32) % 2
        rows = np.random.default_rng(len(labels)).normal(size=(len(labels), 3)) + labels[:, None]
        return Examples(None, labels, more={"vectors": rows.astype(np.float32)})

    @staticmethod
    def class_names(data):
        return ("left", "right")


def vector(config):
    encoder, decoder = MLP(8, 1, config.latent.dim, 0.0, jnp.float32), MLPDecoder(8, 1)
    kind = ArrayType(
        "vector", (3,), config=config, column="vectors", encoder=encoder, decoder=decoder
    )
    kind.decoder.condition, kind.decoder.sampler, kind.decoder.draws = "label", RK45, 2
    return kind


parts.add("data", "vectors", Vectors, {"data.num_classes": parts.count("classes", 2)})
parts.add("type", "vector", vector, ArrayType.fields("vector"))
