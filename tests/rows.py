"""Rows of numbers with a part of each kind, of which tests spoil one."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from lzn_jax import parts, zoning
from lzn_jax.data import Examples
from lzn_jax.data_types import DataType, NetworkEncoder
from lzn_jax.models.mlp import MLP


class Rows:
    @staticmethod
    def load(data, split):
        labels = np.arange(24 if split == "train" else 10, dtype=np.int32) % 2
        rows = np.random.default_rng(0).normal(size=(len(labels), 3)).astype(np.float32)
        return Examples(None, labels, more={"rows": rows})

    @staticmethod
    def class_names(data):
        return ("left", "right")


class Net(nn.Module):
    dim: int

    @nn.compact
    def __call__(self, x, train):
        return nn.Dense(self.dim)(x)


class Row(DataType):
    def __init__(self, config):
        encoder = NetworkEncoder.from_config(
            "row", config, Net(config.latent.dim), column="rows", example=jnp.zeros((1, 3))
        )
        super().__init__("row", encoder, Mean())

    def samples(self, examples):
        return examples.more["rows"]

    def columns(self, examples):
        return {"rows": self.samples(examples)}

    def parse(self, text):
        return np.array([text.split(",")], np.float32)

    def shown(self, samples):
        return [f"from {row[0]:.2f}" for row in samples]


class Mean:
    network, output, num_draws = "row_decoder", "rows", 0
    module = MLP(8, 1, 3, 0.0, jnp.float32)
    sources, condition, noise_scale = ("row",), None, None

    def init(self, key, condition):
        return self.module.init(key, condition[0], train=False)

    def loss(self, variables, batch, condition, keys):
        return jnp.mean((self.made(variables, condition) - batch["rows"]) ** 2)

    def generate(self, variables, key, condition, index):
        return {"rows": self.made(variables, condition)}

    def made(self, variables, condition):
        return self.module.apply(variables[self.network], condition[0], train=False)


def spread(space, variables, batch, zones, key):
    anchors = zones["row"][0].anchors
    return jnp.mean(anchors**2), {"size": jnp.max(anchors)}


def align(latents, zones, targets, setting):
    return jnp.mean((latents - zones.anchors[targets]) ** 2), {}


def measure(model, train, test, workdir):
    return {"own_count": len(test.labels)}


def draw(model, test, folder):
    (folder / "own.txt").write_text("drawn")


def optimize(learning_rate):
    return optax.sgd(learning_rate)


def plan(peak):
    return lambda step: peak


@dataclasses.dataclass(frozen=True)
class Solver:
    num_steps: int

    def towards_prior(self, mixture):
        return zoning.Euler(self.num_steps).towards_prior(mixture)

    def towards_anchors(self, mixture):
        return zoning.Euler(self.num_steps).towards_anchors(mixture)


parts.add("data", "rows", Rows, {"data.num_classes": parts.count("classes", 2)})
parts.add("type", "row", Row, {"row.context_size": parts.count("context anchors")})
parts.add("loss", "spread", spread)
parts.add("alignment", "own", align)
parts.add("measurement", "own", measure)
parts.add("figure", "own", draw)
parts.add("optimizer", "own", optimize)
parts.add("schedule", "own", plan)
parts.add("solver", "own", Solver)
