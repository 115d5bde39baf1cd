"""CLIP's image encoder, for CMMD; computed in full float32."""

import functools
import logging
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.lax import Precision
from jaxtyping import Array, Float, UInt8

from lzn_jax.errors import UserError
from lzn_jax.evaluation import features, inception
from lzn_jax.evaluation.features import CLIP, Extractor, Outputs
from lzn_jax.release import torch_files
from lzn_jax.run import files

HEAD_WIDTH = 64  # in all vision transformers of CLIP
# Statistics of CLIP's training images, RGB in [0, 1].
MEAN = np.array([0.48145466, 0.4578275, 0.40821073], np.float32)
STD = np.array([0.26862954, 0.26130258, 0.27577711], np.float32)

_Dense = functools.partial(nn.Dense, precision=Precision.HIGHEST)
_LayerNorm = functools.partial(nn.LayerNorm, epsilon=1e-5, use_fast_variance=False)


class MultiHeadAttention(nn.Module):
    """Self-attention with heads of 64 channels."""

    @nn.compact
    def __call__(self, x: Float[Array, "b n w"]) -> Float[Array, "b n w"]:
        heads = (*x.shape[:2], -1, HEAD_WIDTH)
        query, key, value = (
            _Dense(x.shape[-1], name=f"{part}_proj")(x).reshape(heads) for part in "qkv"
        )
        mixed = nn.dot_product_attention(query, key, value, precision=Precision.HIGHEST)
        return _Dense(x.shape[-1], name="out_proj")(mixed.reshape(x.shape))


class Mlp(nn.Module):
    """One hidden layer with the sigmoid approximation of GELU that CLIP was trained with."""

    hidden: int

    @nn.compact
    def __call__(self, x: Float[Array, "b n w"]) -> Float[Array, "b n w"]:
        hidden = _Dense(self.hidden, name="fc1")(x)
        return _Dense(x.shape[-1], name="fc2")(hidden * nn.sigmoid(1.702 * hidden))


class EncoderLayer(nn.Module):
    """Pre-norm transformer layer."""

    hidden: int

    @nn.compact
    def __call__(self, x: Float[Array, "b n w"]) -> Float[Array, "b n w"]:
        x = x + MultiHeadAttention(name="self_attn")(_LayerNorm(name="layer_norm1")(x))
        return x + Mlp(self.hidden, name="mlp")(_LayerNorm(name="layer_norm2")(x))


class ClipVision(nn.Module):
    """Vision transformer with unit-norm embeddings; defaults are ViT-L/14 at 336 pixels."""

    image_size: int = 336
    patch_size: int = 14
    width: int = 1024
    layers: int = 24
    hidden: int = 4096
    features: int = 768

    @nn.compact
    def __call__(self, images: Float[Array, "b s s 3"]) -> Float[Array, "b d"]:
        """Embeddings of images in [0, 1], s = `image_size`, standardised with MEAN and STD."""
        patch = (self.patch_size, self.patch_size)
        x = nn.Conv(
            self.width,
            patch,
            patch,
            "VALID",
            use_bias=False,
            precision=Precision.HIGHEST,
            name="vision_model.embeddings.patch_embedding",
        )(images)
        x = x.reshape(len(x), -1, self.width)
        name, normal = "vision_model.embeddings", nn.initializers.normal(0.02)
        token = self.param(f"{name}.class_embedding", normal, (self.width,))
        x = jnp.concatenate([jnp.broadcast_to(token, (len(x), 1, self.width)), x], axis=1)
        x = x + self.param(f"{name}.position_embedding.weight", normal, x.shape[1:])
        x = _LayerNorm(name="vision_model.pre_layrnorm")(x)
        for layer in range(self.layers):
            x = EncoderLayer(self.hidden, name=f"vision_model.encoder.layers.{layer}")(x)
        x = _LayerNorm(name="vision_model.post_layernorm")(x[:, 0])
        x = _Dense(self.features, use_bias=False, name="visual_projection")(x)
        return x / jnp.linalg.norm(x, axis=-1, keepdims=True)


def clip_embeddings(
    network: ClipVision, variables: dict, images: UInt8[Array, "b h h 3"]
) -> Float[Array, "b d"]:
    """Unit-norm embeddings of square RGB images 0 ... 255 of any size, as in CMMD's code."""
    pixels = resize_bicubic(images, network.image_size) / 255
    return cast(Array, network.apply(variables, (pixels - MEAN) / STD))


def resize_bicubic(images: UInt8[Array, "b h w c"], size: int) -> Float[Array, "b s s c"]:
    """Pillow's bicubic resize, antialiased when shrinking; integers in 0 ... 255 as float32.

    CMMD's authors resize images with Pillow, which rounds and clips after each axis, the width
    first. The resize inside their network then has no effect.
    """
    x = images.astype(jnp.float32)
    for axis in (2, 1):
        shape = (*x.shape[:axis], size, *x.shape[axis + 1 :])
        x = jax.image.resize(x, shape, "bicubic", precision=Precision.HIGHEST)
        x = jnp.clip(jnp.floor(x + 0.5), 0, 255)
    return x


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
        features.key_of_variables(variables),
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
        state = files.read_tensors(path, _is_used)
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
    variables = inception.convert(network, network.image_size, state, refusal, _DTYPES)
    return ClipWeights(network, variables)


def _is_used(name: Any) -> bool:
    return _UNUSED.fullmatch(str(name)) is None


def _network_of(state: Mapping[str, np.ndarray], refusal: str) -> ClipVision:
    """Network with the sizes of a few tensors; `convert` compares them with the other tensors."""

    def sizes(name: str, count: int) -> tuple[int, ...]:
        shape = (None,) * count
        return inception.checked_tensor(state, name, shape, refusal, _DTYPES).shape

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
