"""Weights of CLIP's image encoder from the user's file."""

import logging
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from lzn_jax.configuration import UserError
from lzn_jax.evaluation import cache, torch_weights
from lzn_jax.evaluation.clip import HEAD_WIDTH, ClipVision, clip_embeddings
from lzn_jax.evaluation.extractors import CLIP, Extractor, Outputs
from lzn_jax.release import safetensors_files, torch_files

_log = logging.getLogger(__name__)

_DTYPES = tuple(np.dtype(kind) for kind in (np.float32, np.float16, jnp.bfloat16))
_UNUSED = re.compile(r"text_model\..*|text_projection\.weight|logit_scale|.*\.position_ids")
_LAYER = re.compile(r"vision_model\.encoder\.layers\.(\d+)\.")


class ClipWeights(NamedTuple):
    """A network and its variables as NumPy arrays."""

    network: ClipVision
    variables: dict[str, Any]


def clip_extractor(path: str | os.PathLike[str]) -> Extractor:
    """CLIP's image encoder with weights from `path`, read by `load_clip`."""
    network, variables = load_clip(path)
    return Extractor(
        CLIP,
        cache.key_of_variables(variables),
        variables,
        lambda variables, images: Outputs(clip_embeddings(network, variables, images)),
    )


def load_clip(path: str | os.PathLike[str]) -> ClipWeights:
    """Weights from model.safetensors or pytorch_model.bin of Hugging Face's CLIP repositories.

    The tensors determine the network's sizes. Tensors of the text encoder are not read. Raises
    UserError if the file is missing, damaged or not of such a network; the message names a tensor
    that is missing, left over or of another shape.
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
        raise UserError(f"{path} is not a state dict: expected tensors by name")
    used = {str(name): array for name, array in state.items() if _is_used(name)}
    weights = from_torch(used, str(path))
    if weights.network != ClipVision():
        _log.warning(
            "%s is not ViT-L/14 at 336 pixels: cmmd will not be comparable with papers", path
        )
    return weights


def from_torch(state: Mapping[str, Any], source: str) -> ClipWeights:
    """Network and variables from exactly its tensors, in Hugging Face's names and layout.

    `source` names them in errors. Half precision becomes float32.
    """
    refusal = f"{source} is not CLIP with a vision transformer"
    for name, array in state.items():
        if not isinstance(array, np.ndarray):
            raise UserError(f"{refusal}: {name} is not a tensor")
    network = _network_of(state, refusal)
    variables = torch_weights.convert(network, network.image_size, state, refusal, _DTYPES)
    return ClipWeights(network, variables)


def _is_used(name: Any) -> bool:
    return _UNUSED.fullmatch(str(name)) is None


def _network_of(state: Mapping[str, np.ndarray], refusal: str) -> ClipVision:
    """Network with the sizes of a few tensors; `convert` compares them with the other tensors."""

    def sizes(name: str, count: int) -> tuple[int, ...]:
        shape = (None,) * count
        return torch_weights.checked_tensor(state, name, shape, refusal, _DTYPES).shape

    (width,) = sizes("vision_model.embeddings.class_embedding", 1)
    if width % HEAD_WIDTH:
        raise UserError(f"{refusal}: its width {width} is not a multiple of {HEAD_WIDTH}")
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
