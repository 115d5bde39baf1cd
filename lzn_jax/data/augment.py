"""SimCLR's augmentations on the device, one image and one key at a time (arXiv:2002.05709, A).

All functions but `augment` map float32 planes (c, h, w) in [0, 1] to such planes. The compiler
vectorises over rows of pixels, several times as fast as over three channels. c is 1 or 3. A grey
image is treated as three equal planes. There is no branching, because vmap would compute every
branch for every image.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, PRNGKeyArray, UInt8
from ml_collections import ConfigDict

from lzn_jax.errors import UserError
from lzn_jax.parts import amount, count, knob, share

# Weights of red, green and blue in luminance, ITU-R BT.601, rounded as in torchvision.
_LUMA = {1: (1.0,), 3: (0.2989, 0.587, 0.114)}
_BRIGHTNESS, _CONTRAST, _SATURATION = range(3)


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """Settings of `augment`, by default of the paper's representation study.

    A strength s of brightness, contrast or saturation draws factors from [max(0, 1 - s), 1 + s].
    """

    flip: bool = True  # mirrors half of the images
    jitter_probability: float = knob(share("probability of colour jitter", 0.8))
    brightness: float = knob(amount("largest relative change", 0.8))
    contrast: float = knob(amount("largest relative change", 0.8))
    saturation: float = knob(amount("largest relative change", 0.8))
    hue: float = knob(share("largest shift, as a share of the circle", 0.2, maximum=0.5))
    grey_probability: float = knob(share("probability of conversion to grey", 0.2))
    blur_probability: float = knob(share("probability of blur", 1.0))
    blur_kernel: int = knob(count("width of the blur's kernel in pixels, odd", 23))
    blur_max_sigma: float = knob(
        amount("largest standard deviation of the blur in pixels", 2.0, minimum=0.1)
    )
    blur_min_sigma: float = 0.1


def augmentation_of(config: ConfigDict) -> Augmentation:
    """Augmentation settings of a config. The smallest crop is a setting of `pixels.Views`."""
    fields = {name: value for name, value in config.augmentation.items() if name != "min_area"}
    return Augmentation(flip=config.data.flip, **fields)


class Jitter(NamedTuple):
    """A change of colours by three blends in random order and a hue shift between them."""

    order: Int[Array, "3"]  # permutation of brightness 0, contrast 1, saturation 2
    factors: Float[Array, "3"]  # of brightness, contrast, saturation
    hue_place: Int[Array, ""]  # number of blends before the hue shift
    hue_shift: Float[Array, ""]  # in turns of the colour circle


def augment(
    image: UInt8[Array, "h w c"], key: PRNGKeyArray, settings: Augmentation
) -> Float[Array, "h w c"]:
    """Image in [-1, 1] after flip, colour jitter, greyscale and blur, in this order.

    Consumes the key. Raises UserError for a blur kernel that is too large for the image.
    """

    def jitter(image: Array, key: PRNGKeyArray) -> Array:
        strengths = (settings.brightness, settings.contrast, settings.saturation)
        drawn = draw_jitter(key, jnp.array(strengths, image.dtype), settings.hue)
        return apply_jitter(image, drawn)

    def blur(image: Array, key: PRNGKeyArray) -> Array:
        low, high = settings.blur_min_sigma, settings.blur_max_sigma
        sigma = jax.random.uniform(key, minval=low, maxval=high)
        return gaussian_blur(image, sigma, settings.blur_kernel)

    changes = (
        (lambda image, _: image[:, :, ::-1], 0.5 if settings.flip else 0.0),
        (jitter, settings.jitter_probability),
        (lambda i, _: jnp.broadcast_to(_luminance(i), i.shape), settings.grey_probability),
        (blur, settings.blur_probability),
    )
    image = jnp.moveaxis(image, -1, 0).astype(jnp.float32) / 255
    for (change, probability), own_key in zip(changes, jax.random.split(key, 4), strict=True):
        if probability > 0:
            coin_key, change_key = jax.random.split(own_key)
            is_changed = jax.random.bernoulli(coin_key, probability)
            image = jnp.where(is_changed, change(image, change_key), image)
    return jnp.clip(2 * jnp.moveaxis(image, 0, -1) - 1, -1, 1)


def draw_jitter(key: PRNGKeyArray, strengths: Float[Array, "3"], hue: float) -> Jitter:
    """Draws a jitter. All 24 orders are equally likely, and factors and shift are uniform."""
    order_key, factors_key, place_key, shift_key = jax.random.split(key, 4)
    lowest = jnp.maximum(0, 1 - strengths)
    return Jitter(
        order=jax.random.permutation(order_key, 3),
        factors=jax.random.uniform(factors_key, (3,), minval=lowest, maxval=1 + strengths),
        hue_place=jax.random.randint(place_key, (), 0, 4),
        hue_shift=jax.random.uniform(shift_key, (), minval=-hue, maxval=hue),
    )


def apply_jitter(image: Float[Array, "c h w"], jitter: Jitter) -> Float[Array, "c h w"]:
    """Image after the blends before the hue shift, the shift, and the blends after it.

    All three blends are computed on both sides of the shift, with factor 1 (no change) on the wrong
    side. The shift, the most expensive change, is then computed once instead of at four places.
    """
    factors = jitter.factors[jitter.order]
    is_before = jnp.arange(3) < jitter.hue_place
    for kind, factor in zip(jitter.order, jnp.where(is_before, factors, 1), strict=True):
        image = _blend(image, kind, factor)
    image = shift_hue(image, jitter.hue_shift)
    for kind, factor in zip(jitter.order, jnp.where(is_before, 1, factors), strict=True):
        image = _blend(image, kind, factor)
    return image


def _blend(
    image: Float[Array, "c h w"], kind: Int[Array, ""], factor: Float[Array, ""]
) -> Float[Array, "c h w"]:
    """factor · image + (1 - factor) · other, clipped to [0, 1].

    `other` is black for brightness, mean luminance for contrast, and luminance for saturation.
    """
    luminance = _luminance(image)
    other = jnp.select(
        [kind == _BRIGHTNESS, kind == _CONTRAST], [0, luminance.mean(axis=-1).mean()], luminance
    )
    # This form changes no bit where the factor is 1 or `other` equals the image.
    return jnp.clip(image + (1 - factor) * (other - image), 0, 1)


def _luminance(image: Float[Array, "c h w"]) -> Float[Array, "h w"]:
    weights = _LUMA[len(image)]
    planes = (weight * plane for weight, plane in zip(weights, image, strict=True))
    return sum(planes, jnp.zeros(()))


def shift_hue(image: Float[Array, "c h w"], shift: Float[Array, ""]) -> Float[Array, "c h w"]:
    """Shifts the HSV hue of an image by `shift` turns. Saturation and value do not change.

    With value v, chroma d = v - minimum and hue h in sixths of a turn, a channel is
    v - d · clip(2 - |h - o|, 0, 1), where |h - o| is the distance on the circle. A channel is
    lowest at the hue opposite to its own, so o is 3, 5 and 1 for red, green and blue.
    """
    red, green, blue = jnp.broadcast_to(image, (3, *image.shape[1:]))
    value = jnp.maximum(jnp.maximum(red, green), blue)
    chroma = value - jnp.minimum(jnp.minimum(red, green), blue)
    scale = 1 / jnp.where(chroma > 0, chroma, 1)
    hue = jnp.where(
        value == red,
        (green - blue) * scale,
        jnp.where(value == green, 2 + (blue - red) * scale, 4 + (red - green) * scale),
    )
    opposite = jnp.array([3.0, 5.0, 1.0], image.dtype)[: len(image), None, None]
    angle = hue + 6 * shift - opposite
    distance = jnp.abs(angle - 6 * jnp.round(angle / 6))
    return value - chroma * jnp.clip(2 - distance, 0, 1)


def gaussian_blur(
    image: Float[Array, "c h w"], sigma: Float[Array, ""], kernel_size: int
) -> Float[Array, "c h w"]:
    """The image convolved along both axes with exp(-k² / 2σ²), |k| <= kernel_size // 2.

    The kernel is normalised to sum 1. The image is padded by reflection about its border pixels.
    Raises UserError unless the kernel size is odd and at most 2 · side - 1.
    """
    radius = kernel_size // 2
    largest = 2 * min(image.shape[1:]) - 1
    if kernel_size % 2 == 0 or kernel_size > largest:
        raise UserError(
            f"a blur kernel of {kernel_size} pixels does not fit images of {image.shape[1:]} "
            f"pixels: choose an odd number up to {largest}"
        )
    rows, columns = (_blur_matrix(length, sigma, radius) for length in image.shape[1:])
    # A TPU's default precision would round to 8 bits, a full level of a pixel.
    image = jnp.einsum("chw,vw->chv", image, columns, precision=lax.Precision.HIGH)
    return jnp.einsum("uh,chv->cuv", rows, image, precision=lax.Precision.HIGH)


def _blur_matrix(length: int, sigma: Float[Array, ""], radius: int) -> Float[Array, "n n"]:
    """The blurred identity, a matrix whose product with a line of pixels blurs the line.

    A matrix product needs more operations than 2 · radius + 1 shifts of the image. But the compiler
    would fuse the shifts with preceding operations, which every shift would repeat.
    """
    kernel = jnp.exp(-0.5 * (jnp.arange(-radius, radius + 1) / sigma) ** 2)
    padded = jnp.pad(jnp.eye(length), [(radius, radius), (0, 0)], mode="reflect")
    shifted = [padded[start : start + length] for start in range(2 * radius + 1)]
    parts = (weight * s for weight, s in zip(kernel / kernel.sum(), shifted, strict=True))
    return sum(parts, jnp.zeros(()))
