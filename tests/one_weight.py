"""A latent space of one weight, for the training loop, which never asks what it trains.

As a program it is the command line with this space: python tests/one_weight.py FLAGS.
"""

import runpy
import time

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from lzn_jax import train
from lzn_jax.data_types import Context
from lzn_jax.latent_space import LatentSpace
from lzn_jax.plan import Loss, Plan

PAUSES = []  # seconds an image


class OneWeight(LatentSpace):
    """A weight w with loss (w - x)², which data can make non-finite; its metrics are random."""

    modules = {"decoder": nn.Dense(1)}  # noqa: RUF012
    row_transforms = ()
    measured = ()

    def __init__(self):
        pass

    def transform(self, image, rng):
        time.sleep(sum(PAUSES))
        x = np.array(image.mean() / 255 + rng.uniform(), np.float32)
        return {"x": x, "poison": np.zeros((), np.float32)}

    def init(self, key):
        return {"decoder": {"params": {"unused": jnp.array(1.0), "w": jnp.array(3.0)}}}

    @property
    def plan(self):
        """The loss alone."""
        return Plan({}, (), (), (Loss("of the weight", self.loss, 1.0),), ("", None), None)

    def loss(self, variables, batch, zones, key):
        w = variables["decoder"]["params"]["w"]
        error = w - batch["x"]
        # The square root of 0 is finite, its gradient is not: a finite loss that poisons.
        z = jnp.where(batch["poison"] > 0, w - jax.lax.stop_gradient(w), 1.0)
        loss = jnp.vdot(error, error) / error.size + jnp.mean(jnp.sqrt(z))
        drawn = {"draw": jax.random.uniform(key), "mean_x": jnp.mean(batch["x"])}
        return loss, drawn

    def columns(self, examples):
        return {}

    def context(self, variables, train):
        return {"w": Context(jnp.reshape(variables["decoder"]["params"]["w"], (1, 1)))}


class OneNumber:
    """In the place of the measurements: the context anchor."""

    @staticmethod
    def prepare(space, test):
        pass

    @staticmethod
    def evaluate(model, train, test, workdir, seconds):
        return {"context": float(model.model.context["w"].anchors[0, 0])}


def put_in(setattr=setattr):
    """Makes the loop train it."""
    setattr(train, "LatentSpace", lambda config, mesh: OneWeight())
    setattr(train, "measurements", OneNumber)


if __name__ == "__main__":
    PAUSES.append(0.005)  # a run lasts long enough to be interrupted
    put_in()
    runpy.run_module("lzn_jax.main", run_name="__main__")
