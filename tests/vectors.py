"""Vectors with a normal distribution for each class, in a space without images."""

import jax.numpy as jnp
import numpy as np

from lzn_jax import parts
from lzn_jax.data import Examples
from lzn_jax.data_types import DataType, NetworkEncoder
from lzn_jax.decoders.flow import ArrayFlow, Sampler
from lzn_jax.models.mlp import MLP, MLPDecoder


class Vectors:
    @staticmethod
    def load(data, split):
        labels = np.arange(24 if split == "train" else 10, dtype=np.int32) % 2
        rows = np.random.default_rng(len(labels)).normal(size=(len(labels), 3)) + labels[:, None]
        return Examples(None, labels, more={"vectors": rows.astype(np.float32)})

    @staticmethod
    def class_names(data):
        return ("left", "right")


class Vector(DataType):
    def __init__(self, config):
        encoder = NetworkEncoder.from_config(
            "vector", config, MLP(8, 1, config.latent.dim, 0.0, jnp.float32), column="vectors",
            example=jnp.zeros((1, 3)),
        )  # fmt: skip
        decoder = ArrayFlow("vector", config, MLPDecoder(8, 1), output="vectors", shape=(3,))
        decoder.condition, decoder.sampler, decoder.draws = "label", Sampler("rk45", 1), 2
        super().__init__("vector", encoder, decoder)

    def samples(self, examples):
        return examples.more["vectors"]

    def columns(self, examples):
        return {"vectors": self.samples(examples)}


parts.add("data", "vectors", Vectors, {"data.num_classes": parts.count("classes", 2)})
parts.add("type", "vector", Vector, {"vector.context_size": parts.count("context anchors")})
