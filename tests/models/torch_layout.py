"""Parameter names and layouts of the PyTorch NCSN++ next to those of the flax modules.

A flax leaf is a path of names, a torch leaf a dotted key. Torch numbers its modules in execution
order, which is the order in which flax creates its parameters.
"""

import ast
import json
from pathlib import Path

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

GOLDEN = Path(__file__).parents[1] / "golden"
BLOCK_NAMES = {
    "norm": "GroupNorm_0",
    "norm_0": "GroupNorm_0",
    "norm_1": "GroupNorm_1",
    "conv_0": "Conv_0",
    "conv_1": "Conv_1",
    "shortcut": "Conv_2",
    "embedding_dense": "Dense_0",
    "query": "NIN_0",
    "key": "NIN_1",
    "value": "NIN_2",
    "out": "NIN_3",
}


def shapes_in_execution_order(module, *inputs):
    """Abstract variables, flattened to {path: shape}, in the order of their creation."""
    created = {}

    def init(key):
        variables = module.init(key, *inputs, train=False)
        created.update(flatten_dict(variables))
        return variables

    jax.eval_shape(init, jax.random.key(0))
    # Frozen frequencies are a collection of their own, but torch's first module.
    constants_first = sorted(created, key=lambda path: path[0] != "constants")
    return {path: created[path].shape for path in constants_first}


def torch_keys(paths):
    """Torch key of each path (collection, module, ..., leaf), given in execution order."""
    slots = {}
    return {path: _torch_key(path[1:], slots) for path in paths}


def _torch_key(path, slots):
    module, *inner, leaf = path
    if module.startswith("tap_"):
        return _tap_key(module.removeprefix("tap_"), inner[0], leaf)
    # These two modules of ours are a sequence of plain layers in torch.
    if module == "conditioning" or module.endswith("_output"):
        slot, inner = ((module, leaf) if leaf == "frequencies" else (module, *inner)), []
    else:
        slot = (module,)
    if module.endswith("_input_skip"):
        inner = ["conv_0"]
    index = slots.setdefault(slot, len(slots))
    return ".".join([f"all_modules.{index}", *block_key(*inner, leaf).split(".")])


def block_key(*path):
    """Key within a torch block of a path within ours."""
    *inner, leaf = path
    torch = [BLOCK_NAMES[name] for name in inner]
    if torch and torch[-1].startswith("NIN"):
        leaf_name = {"kernel": "W", "bias": "b"}[leaf]
    else:
        leaf_name = {"kernel": "weight", "scale": "weight", "bias": "bias", "frequencies": "W"}[
            leaf
        ]
    return ".".join([*torch, leaf_name])


def _tap_key(index, layer, leaf):
    leaf_name = {"kernel": "weight", "bias": "bias"}[leaf]
    if layer == "project":
        return f"spatial_transformations.{index}.0.{leaf_name}"
    # Activations sit between the linear layers and take every other number.
    position = 2 * int(layer.removeprefix("dense_"))
    return f"latent_transformations.{index}.{position}.{leaf_name}"


def to_flax(key, value, shape):
    """Torch array in our layout; `shape` tells a 1x1 convolution that is a dense layer here."""
    if value.ndim == 4:
        value = value.transpose(2, 3, 1, 0)
        value = value[0, 0] if len(shape) == 2 else value
    elif value.ndim == 2 and not key.endswith(".W"):
        value = value.T
    assert value.shape == shape, f"{key}: {value.shape} is not {shape}"
    return value


def to_variables(weights, shapes):
    """Nested variables from {torch key: array}; any key left over or missing is an error."""
    keys = torch_keys(shapes)
    assert len(set(keys.values())) == len(keys)
    assert set(keys.values()) == set(weights)
    leaves = {path: to_flax(key, weights[key], shapes[path]) for path, key in keys.items()}
    return unflatten_dict(leaves)


def to_block_params(weights, shapes):
    """Nested params of one block from {torch key: array}, every key accounted for."""
    keys = {path: block_key(*path) for path in shapes}
    assert set(keys.values()) == set(weights)
    return unflatten_dict({p: to_flax(key, weights[key], shapes[p]) for p, key in keys.items()})


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
