"""Conversion of parameter names and layouts between flax modules and the paper's PyTorch release.

Torch numbers most modules in execution order, in which flax creates parameters. Keys are the
release's keys (NCSN++, ResNet, label anchors) without the prefix of its wrappers.
"""

import re
from collections.abc import Callable, Iterable, Mapping

import jax
import numpy as np
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Shaped

from lzn_jax.data_types.label import LabelAnchors
from lzn_jax.models import Tree
from lzn_jax.models.ncsnpp import NCSNppDecoder, NCSNppEncoder
from lzn_jax.models.resnet import ResNet

Path = tuple[str, ...]  # collection, module, ..., leaf
Shapes = dict[Path, tuple[int, ...]]
Keys = dict[Path, str]

_BLOCK_NAMES = {
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
_RESNET_NAMES = {
    "shortcut_conv": "projection.shortcut",
    "shortcut_norm": "projection.bn.0",
    **{f"conv_{i}": f"net.{2 * i}" for i in range(3)},
    **{f"norm_{i}": f"net.{2 * i + 1}.0" for i in range(3)},
}
_LEAF_NAMES = {"kernel": "weight", "scale": "weight", "bias": "bias", "frequencies": "W"}
# Flax dense layers that are 1x1 convolutions in torch, and matrices that are not transposed.
_PIXELWISE = re.compile(r"(\bConv_\d|^spatial_transformations\.\d+\.0)\.weight$")
_NOT_TRANSPOSED = re.compile(r"(\.W|^anchor)$")


def shapes_in_execution_order(init: Callable[[jax.Array], Mapping[str, Tree]]) -> Shapes:
    """Shapes of the variables that `init(key)` creates, in order of creation, constants first."""
    created: dict[Path, jax.ShapeDtypeStruct] = {}

    def record(key: jax.Array) -> Mapping[str, Tree]:
        variables = init(key)
        created.update(flatten_dict(variables))
        return variables

    jax.eval_shape(record, jax.random.key(0))
    # Frozen frequencies are a separate collection in flax and the first module in torch.
    constants_first = sorted(created, key=lambda path: path[0] != "constants")
    return {path: created[path].shape for path in constants_first}


def torch_keys(module: nn.Module, paths: Iterable[Path]) -> Keys:
    """Torch keys of a network's variables, in torch's order. `paths` are in execution order.

    Raises ValueError if the release contains no such network.
    """
    match module:
        case NCSNppEncoder() | NCSNppDecoder():
            slots: dict[Path, int] = {}
            keys = {path: _ncsnpp_key(path[1:], slots) for path in paths}
            groups = ("spatial_transformations", "latent_transformations", "all_modules")
            order = sorted(keys, key=lambda path: groups.index(keys[path].partition(".")[0]))
            return {path: keys[path] for path in order}
        case ResNet() if module.stem == "imagenet":
            return {path: _resnet_key(path[1:]) for path in paths}
        case LabelAnchors():
            return dict.fromkeys(paths, "anchor")
        case _:
            raise ValueError("the release's ResNet has stem 'imagenet'")


def _ncsnpp_key(path: Path, slots: dict[Path, int]) -> str:
    module, *inner, leaf = path
    if module.startswith("tap_"):
        tap, layer, name = module.removeprefix("tap_"), inner[0], _LEAF_NAMES[leaf]
        if layer == "project":
            return f"spatial_transformations.{tap}.0.{name}"
        # Activations between the linear layers count as every other layer.
        return f"latent_transformations.{tap}.{2 * int(layer.removeprefix('dense_'))}.{name}"
    slot: Path = (module,)
    # These two flax modules are sequences of plain layers in torch.
    if module == "conditioning" or module.endswith("_output"):
        slot, inner = (module, *inner), []
    if module.endswith("_input_skip"):
        inner = ["conv_0"]
    index = slots.setdefault(slot, len(slots))
    names = [_BLOCK_NAMES[name] for name in inner]
    is_nin = bool(names) and names[-1].startswith("NIN")
    leaf = {"kernel": "W", "bias": "b"}[leaf] if is_nin else _LEAF_NAMES[leaf]
    return ".".join([f"all_modules.{index}", *names, leaf])


def _resnet_key(path: Path) -> str:
    module, *inner, leaf = path
    leaf = _LEAF_NAMES[leaf]
    if module.startswith("stem"):
        return f"net.0.{'0' if 'conv' in module else '1.0'}.{leaf}"
    if module.startswith("head"):
        kind, index = module.removeprefix("head_").split("_")
        return f"head.layers.{3 * int(index) + (kind == 'norm')}.{leaf}"
    stage, block = module.removeprefix("stage_").split("_block_")
    return f"net.{int(stage) + 1}.blocks.{block}.{_RESNET_NAMES[inner[0]]}.{leaf}"


def to_torch(key: str, value: Shaped[np.ndarray, "..."]) -> Shaped[np.ndarray, "..."]:
    """View of a flax array in torch's layout: convolutions (out, in, h, w), matrices (out, in)."""
    if value.ndim == 4:
        return value.transpose(3, 2, 0, 1)
    if value.ndim == 2 and _PIXELWISE.search(key):
        return value.T[:, :, None, None]
    if value.ndim == 2 and not _NOT_TRANSPOSED.search(key):
        return value.T
    return value


def to_flax(
    key: str, value: Shaped[np.ndarray, "..."], shape: tuple[int, ...]
) -> Shaped[np.ndarray, "..."]:
    """Torch array in flax's layout and the given shape. Raises ValueError for another shape."""
    expected = to_torch(key, np.empty(shape)).shape
    if value.shape != expected:
        raise ValueError(f"{key} has the shape {value.shape}, not {expected}")
    if value.ndim == 4:
        return value.transpose(2, 3, 1, 0).reshape(shape)
    if value.ndim == 2 and not _NOT_TRANSPOSED.search(key):
        return value.T
    return value


def to_variables(
    weights: Mapping[str, Shaped[np.ndarray, "..."]], keys: Keys, shapes: Shapes
) -> dict[str, Tree]:
    """Nested variables from arrays by torch key. Raises ValueError for other keys or shapes."""
    known = dict.fromkeys(keys.values())
    for problem, these, those in (("missing", known, weights), ("unexpected", weights, known)):
        if names := [key for key in these if key not in those]:
            more = f" and {len(names) - 1} more are" if len(names) > 1 else " is"
            raise ValueError(f"{names[0]}{more} {problem}")
    return unflatten_dict({p: to_flax(key, weights[key], shapes[p]) for p, key in keys.items()})
