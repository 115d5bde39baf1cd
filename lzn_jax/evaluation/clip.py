"""CLIP's image encoder for CMMD, computed in full float32."""

import functools
import logging
import math
import os
import re
from pathlib import Path
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.lax import Precision
from jaxtyping import Array, Float, UInt8

from lzn_jax import files, torch_files
from lzn_jax.errors import UserError
from lzn_jax.evaluation.features import CLIP, Extractor, Outputs
from lzn_jax.evaluation.inception import Conv, checked_tensor, convert, named_tensors
from lzn_jax.models import Tree

HEAD_WIDTH = 64  # of all vision transformers of CLIP
# Statistics of CLIP's training images, RGB in [0, 1].
MEAN = np.array([0.48145466, 0.4578275, 0.40821073], np.float32)
STD = np.array([0.26862954, 0.26130258, 0.27577711], np.float32)

_Dense = functools.partial(nn.Dense, precision=Precision.HIGHEST)
_LayerNorm = functools.partial(nn.LayerNorm, epsilon=1e-5, use_fast_variance=False)


class EncoderLayer(nn.Module):
    """Pre-norm transformer layer with heads of 64 channels."""

    hidden: int

    @nn.compact
    def __call__(self, x: Float[Array, "b n w"]) -> Float[Array, "b n w"]:
        width, normalised = x.shape[-1], _LayerNorm(name="layer_norm1")(x)
        heads = (*x.shape[:2], -1, HEAD_WIDTH)
        query, key, value = (
            _Dense(width, name=f"self_attn.{part}_proj")(normalised).reshape(heads)
            for part in "qkv"
        )
        mixed = nn.dot_product_attention(query, key, value, precision=Precision.HIGHEST)
        x = x + _Dense(width, name="self_attn.out_proj")(mixed.reshape(x.shape))
        hidden = _Dense(self.hidden, name="mlp.fc1")(_LayerNorm(name="layer_norm2")(x))
        hidden = hidden * nn.sigmoid(1.702 * hidden)  # GELU as CLIP was trained with
        return x + _Dense(width, name="mlp.fc2")(hidden)


class ClipVision(nn.Module):
    """Vision transformer with unit-norm embeddings. The defaults are ViT-L/14 at 336 pixels."""

    image_size: int = 336
    patch_size: int = 14
    width: int = 1024
    layers: int = 24
    hidden: int = 4096
    features: int = 768

    @nn.compact
    def __call__(self, images: Float[Array, "b s s 3"]) -> Float[Array, "b d"]:
        """Embeddings of images in [0, 1], s = `image_size`, standardised with MEAN and STD."""
        patch, name = (self.patch_size, self.patch_size), "vision_model.embeddings"
        x = Conv(self.width, patch, patch, "VALID", name=f"{name}.patch_embedding")(images)
        x = x.reshape(len(x), -1, self.width)
        normal = nn.initializers.normal(0.02)
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
    """Pillow's bicubic resize, antialiased when shrinking, to integers 0 ... 255 as float32.

    CMMD's authors resize with Pillow, which rounds and clips after each axis, starting with the
    width.
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


def clip_extractor(path: str | os.PathLike[str]) -> Extractor:
    """CLIP's image encoder with weights from `path`, read by `load_clip`."""
    network, variables = load_clip(path)
    return Extractor(CLIP, variables, lambda v, x: Outputs(clip_embeddings(network, v, x)))


def load_clip(path: str | os.PathLike[str]) -> tuple[ClipVision, dict[str, Tree]]:
    """Network and variables from Hugging Face's model.safetensors or pytorch_model.bin.

    Tensors of the text encoder are not read. Raises UserError if the file is missing, damaged or
    from another network. The message names a tensor that does not fit.
    """
    if Path(path).suffix == ".safetensors":
        state: Tree = files.read_tensors(path, _is_used)
    else:
        state = torch_files.read(path, lambda keys: not keys or _is_used(keys[0]))
    network, variables = from_torch(state, str(path))
    if network != ClipVision():
        _log.warning("%s is not ViT-L/14 at 336 pixels: cmmd is not comparable with papers", path)
    return network, variables


def _is_used(name: object) -> bool:
    return _UNUSED.fullmatch(str(name)) is None


def from_torch(state: Tree, source: str) -> tuple[ClipVision, dict[str, Tree]]:
    """Network, with the sizes of the tensors, and variables as float32 from exactly its tensors.

    Tensors use the names and layout of Hugging Face. `source` names the file in errors.
    """
    used, refusal = named_tensors(state, source, _is_used), f"{source} is not CLIP's vision network"

    def sizes(name: str, count: int) -> tuple[int, ...]:
        return checked_tensor(used, name, (None,) * count, refusal, _DTYPES).shape

    (width,) = sizes("vision_model.embeddings.class_embedding", 1)
    if width % HEAD_WIDTH:
        raise UserError(f"{refusal}: its width {width} is not a multiple of {HEAD_WIDTH}")
    positions = sizes("vision_model.embeddings.position_embedding.weight", 2)[0]
    patch_size = sizes("vision_model.embeddings.patch_embedding.weight", 4)[2]
    network = ClipVision(
        image_size=patch_size * max(math.isqrt(positions - 1), 1),
        patch_size=patch_size,
        width=width,
        layers=len({match[1] for name in used if (match := _LAYER.match(name))}),
        hidden=sizes("vision_model.encoder.layers.0.mlp.fc1.weight", 2)[0],
        features=sizes("visual_projection.weight", 2)[0],
    )
    return network, convert(network, network.image_size, used, refusal, _DTYPES)
