"""The PyTorch original's weights, shapes and hyperparameters that the golden files describe."""

import ast
import functools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from lzn_jax.release import torch_keys as torch_names

GOLDEN = Path(__file__).parents[1] / "golden"


def shapes_in_execution_order(module, *inputs):
    """{path: shape} of a network's variables in the order of their creation."""
    arrays = jax.tree.map(jnp.asarray, inputs)
    return torch_names.shapes_in_execution_order(lambda key: module.init(key, *arrays, train=False))


def to_variables(module, weights, *inputs):
    """Nested variables of a network from {torch key: array}."""
    shapes = shapes_in_execution_order(module, *inputs)
    return torch_names.to_variables(weights, torch_names.torch_keys(module, shapes), shapes)


@functools.cache
def seeded_weights(name):
    """{torch key: float32 array}, drawn anew from the recipe and checked against its sums."""
    rng = np.random.default_rng(hyperparameters(name)["weights_seed"])
    weights = {}
    for line in (GOLDEN / f"{name}_weights.txt").read_text().splitlines()[1:]:
        key, shape, _, loc, scale, total, first = line.split("\t")
        draw = rng.standard_normal(ast.literal_eval(shape))
        weights[key] = (float(loc) + float(scale) * draw).astype(np.float32)
        np.testing.assert_allclose(weights[key].sum(dtype=np.float64), float(total), rtol=1e-6)
        np.testing.assert_allclose(weights[key].flat[0], float(first), rtol=1e-6)
    return weights


def hyperparameters(name):
    """Sizes and torch config behind one file of numbers."""
    return json.loads((GOLDEN / "params.json").read_text())[name]["params"]


def listed_shapes(name):
    """{torch key: shape} of a full-size network, buffers left out."""
    lines = (GOLDEN / f"{name}_keys.txt").read_text().splitlines()
    rows = [line.split("\t") for line in lines]
    return {key: ast.literal_eval(shape) for key, shape, _, kind in rows if kind != "buffer"}
