"""CLIP's image encoder, a vision transformer, and its image preprocessing for CMMD.

Radford, Kim, Hallacy, Ramesh, Goh, Agarwal, Sastry, Askell, Mishkin, Clark, Krueger and Sutskever,
"Learning transferable visual models from natural language supervision", ICML 2021
(arXiv:2103.00020). Layer names follow Hugging Face's implementation, including a misspelling, so
they match the names in the weights file. All computations are in full float32 precision, even on
devices with a lower default.
"""

import functools
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.lax import Precision
from jaxtyping import Array, Float, UInt8

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
