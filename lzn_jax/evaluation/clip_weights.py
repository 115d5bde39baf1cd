"""Weights of CLIP's image side from the user's file."""

import logging
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from lzn_jax.configuration import UserError
from lzn_jax.evaluation import cache
from lzn_jax.evaluation.clip import HEAD_WIDTH, ClipVision
from lzn_jax.release import safetensors_files, torch_files

_log = logging.getLogger(__name__)

_TORCH_LEAVES = {"kernel": "weight", "scale": "weight"}
_TO_TORCH = {4: (3, 2, 0, 1), 2: (1, 0)}  # axes of a kernel by their number: HWIO to OIHW
_FLOATS = tuple(np.dtype(kind) for kind in (np.float32, np.float16, jnp.bfloat16))
_UNUSED = re.compile(r"text_model\..*|text_projection\.weight|logit_scale|.*\.position_ids")
_LAYER = re.compile(r"vision_model\.encoder\.layers\.(\d+)\.")


class ClipWeights(NamedTuple):
    """The network, its variables as NumPy arrays, and the hash of their names and values."""

    network: ClipVision
    variables: dict[str, Any]
    key: str


def load_clip(path: str | os.PathLike[str]) -> ClipWeights:
    """Weights from model.safetensors or pytorch_model.bin of Hugging Face's CLIP repositories.

    The network's sizes are those of the tensors. Text's tensors are left in the file. Raises
    UserError for a file that is missing, damaged or not of such a network: a tensor that is
    missing, left over or of another shape is named.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(
            f"there is no file {path}; the CLIP weights of CMMD are model.safetensors or "
            "pytorch_model.bin of openai/clip-vit-large-patch14-336"
        )
    if path.suffix == ".safetensors":
        state = safetensors_files.read(path, _is_used)
    else:
        state = torch_files.read(path, lambda keys: not keys or _is_used(keys[0]))
    if not isinstance(state, dict):
        raise UserError(f"{path} is not a state dict: tensors by name are expected")
    used = {str(name): array for name, array in state.items() if _is_used(name)}
    weights = from_torch(used, str(path))
    if weights.network != ClipVision():
        _log.warning("%s is not ViT-L/14 at 336 pixels: its cmmd is not that of papers", path)
    return weights


def from_torch(state: Mapping[str, Any], source: str) -> ClipWeights:
    """Network and variables from its tensors, and no others, in Hugging Face's names and layout.

    `source` is what errors name. Half precision becomes float32.
    """
    for name, array in state.items():
        if not isinstance(array, np.ndarray):
            raise _not_clip(source, f"{name} is no tensor")
    network = _network_of(state, source)
    remaining, arrays = dict(state), {}
    for path, shape in _shapes(network).items():
        *layers, leaf = path[1:]
        name = ".".join((*layers, _TORCH_LEAVES.get(leaf, leaf)))
        axes = _TO_TORCH[len(shape)] if leaf == "kernel" else tuple(range(len(shape)))
        array = _tensor(remaining, name, tuple(shape[axis] for axis in axes), source)
        arrays[path] = array.transpose(np.argsort(axes)).astype(np.float32, copy=False)
        del remaining[name]
    if remaining:
        raise _not_clip(source, f"{min(remaining)} is left over")
    parts = [part for path in sorted(arrays) for part in ("/".join(path), arrays[path])]
    return ClipWeights(network, traverse_util.unflatten_dict(arrays), cache.key_of(*parts))


def _is_used(name: Any) -> bool:
    return _UNUSED.fullmatch(str(name)) is None


def _network_of(state: Mapping[str, np.ndarray], source: str) -> ClipVision:
    """The network of the sizes that single tensors have; the others are still to agree."""

    def sizes(name: str, count: int) -> tuple[int, ...]:
        return _tensor(state, name, (None,) * count, source).shape

    (width,) = sizes("vision_model.embeddings.class_embedding", 1)
    if width % HEAD_WIDTH:
        raise _not_clip(source, f"its width {width} is no multiple of {HEAD_WIDTH}")
    positions = sizes("vision_model.embeddings.position_embedding.weight", 2)[0]
    patch_size = sizes("vision_model.embeddings.patch_embedding.weight", 4)[2]
    return ClipVision(
        image_size=patch_size * max(math.isqrt(positions - 1), 1),
        patch_size=patch_size,
        width=width,
        layers=len({match[1] for name in state if (match := _LAYER.match(name))}),
        hidden=sizes("vision_model.encoder.layers.0.mlp.fc1.weight", 2)[0],
        features=sizes("visual_projection.weight", 2)[0],
    )


def _tensor(
    state: Mapping[str, np.ndarray], name: str, shape: tuple[int | None, ...], source: str
) -> np.ndarray:
    """The tensor of that name and shape, where None stands for any size but 0."""
    if name not in state:
        raise _not_clip(source, f"it lacks {name}")
    array = state[name]
    fits = len(array.shape) == len(shape) and all(
        size > 0 and expected in (None, size)
        for size, expected in zip(array.shape, shape, strict=True)
    )
    if not fits or array.dtype not in _FLOATS:
        expected = str(shape).replace("None", "any")
        raise _not_clip(source, f"{name} is {array.dtype}{array.shape}, not float32{expected}")
    return array


def _not_clip(source: str, problem: str) -> UserError:
    return UserError(f"{source} is not CLIP with a vision transformer: {problem}")


def _shapes(network: ClipVision) -> dict[tuple[str, ...], tuple[int, ...]]:
    """Shape of each variable by its path, from the network itself."""
    image = jax.ShapeDtypeStruct((1, network.image_size, network.image_size, 3), jnp.float32)
    variables = jax.eval_shape(network.init, jax.random.key(0), image)
    return {path: leaf.shape for path, leaf in traverse_util.flatten_dict(variables).items()}
