"""Augmentations against colorsys, scipy's filters and float64 blends, and how they are drawn."""

import colorsys
import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small
from scipy import ndimage, stats

from lzn_jax.data import augment as augmentations
from lzn_jax.data.augment import Augmentation, Jitter, augment

NOTHING = Augmentation(
    flip=False, jitter_probability=0.0, grey_probability=0.0, blur_probability=0.0
)
LUMA = np.array([0.2989, 0.587, 0.114])

shift_hue = jax.jit(augmentations.shift_hue)
gaussian_blur = jax.jit(augmentations.gaussian_blur, static_argnums=2)


def _planes(channels=3, height=6, width=7, seed=0):
    values = np.random.default_rng(seed).random((channels, height, width))
    return values.astype(np.float32)


def _pixels(channels=3, side=12, seed=0):
    shape = (side, side, channels)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


@functools.cache
def _keys(count):
    return jax.random.split(jax.random.key(0), count)


@functools.partial(jax.jit, static_argnums=2)
def _augment_all(image, keys, settings):
    return jax.vmap(lambda key: augment(image, key, settings))(keys)


def _many(image, count, settings):
    """The image augmented with `count` keys, as float64."""
    return np.asarray(_augment_all(image, _keys(count), settings), np.float64)


def _is_likely(share, probability, count):
    return abs(share - probability) < 4 * np.sqrt(probability * (1 - probability) / count)


def _blend(image, other, factor):
    return np.clip(factor * image + (1 - factor) * other, 0, 1)


def _luminance(image):
    return np.tensordot(LUMA, image, 1) if len(image) == 3 else image[0]


def _hue_shifted(image, shift):
    if len(image) == 1:
        return image
    shifted = np.empty_like(image)
    for y, x in np.ndindex(image.shape[1:]):
        hue, saturation, value = colorsys.rgb_to_hsv(*image[:, y, x])
        shifted[:, y, x] = colorsys.hsv_to_rgb((hue + shift) % 1, saturation, value)
    return shifted


def _jittered(image, operations, factors, shift):
    """The operations, brightness 0, contrast 1, saturation 2 and hue 3, one after another."""
    image = np.asarray(image, np.float64)
    for operation in operations:
        if operation == 3:
            image = _hue_shifted(image, shift)
        else:
            others = (0, _luminance(image).mean(), _luminance(image))
            image = _blend(image, others[operation], factors[operation])
    return image


def _jitter(operations, factors, shift):
    order = [operation for operation in operations if operation != 3]
    return Jitter(
        order=np.int32(order),
        factors=np.float32(factors),
        hue_place=np.int32(operations.index(3)),
        hue_shift=np.float32(shift),
    )


@pytest.mark.parametrize("channels", [1, 3])
def test_jitter_in_each_of_the_24_orders(channels):
    """Factors far from 1, so that the clips between the operations show."""
    apply = jax.jit(augmentations.apply_jitter)
    image = _planes(channels)
    results = []
    for operations in itertools.permutations(range(4)):
        for factors, shift in (((1.7, 0.3, 1.8), 0.2), ((1.4, 1.8, 0.2), -0.15)):
            result = apply(image, _jitter(operations, factors, shift))
            np.testing.assert_allclose(
                result, _jittered(image, operations, factors, shift), atol=3e-6
            )
            results.append(result)
    distinct = {np.round(np.asarray(result), 3).tobytes() for result in results}
    assert len(distinct) > (40 if channels == 3 else 3)


def test_hue_of_every_corner_and_edge_of_the_colour_cube():
    """Where two channels are equal, where all are, at 0 and 1, for shifts round the circle."""
    levels = np.array([0.0, 1 / 255, 0.25, 0.5, 1.0], np.float32)
    cube = np.stack(np.meshgrid(levels, levels, levels)).reshape(3, 25, 5)
    for shift in (-0.5, -0.2, 0.0, 1 / 6, 1 / 3, 0.5):
        result = shift_hue(cube, np.float32(shift))
        np.testing.assert_allclose(result, _hue_shifted(np.float64(cube), shift), atol=2e-6)


def test_draws_of_the_jitter_are_uniform_and_independent():
    count = 4800
    strengths = jnp.float32([0.8, 0.4, 1.5])
    draw = jax.jit(jax.vmap(lambda key: augmentations.draw_jitter(key, strengths, 0.2)))
    drawn = jax.tree.map(np.asarray, draw(_keys(count)))
    codes = [*zip(*drawn.order.T, drawn.hue_place, strict=True)]
    counts = [codes.count(code) for code in set(codes)]
    assert len(counts) == 24
    assert stats.chisquare(counts).pvalue > 0.01
    for factors, (low, high) in zip(
        drawn.factors.T, [(0.2, 1.8), (0.6, 1.4), (0, 2.5)], strict=True
    ):
        assert stats.kstest(factors, stats.uniform(low, high - low).cdf).pvalue > 0.01
    assert stats.kstest(drawn.hue_shift, stats.uniform(-0.2, 0.4).cdf).pvalue > 0.01
    numbers = np.stack([*drawn.factors.T, drawn.hue_shift, drawn.hue_place, drawn.order[:, 0]])
    correlations = np.corrcoef(numbers) - np.eye(len(numbers))
    assert np.abs(correlations).max() < 4 / np.sqrt(count)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("kernel_size", "sigma"), [(1, 1.0), (3, 0.1), (5, 2.0), (13, 1.5)])
def test_blur_is_a_mirrored_convolution(channels, kernel_size, sigma, fault_of):
    """With another height than width, and up to the largest kernel that fits."""
    image = _planes(channels, 7, 9)
    offsets = np.arange(kernel_size) - kernel_size // 2
    kernel = np.exp(-(offsets**2) / (2 * sigma**2))
    expected = np.asarray(image, np.float64)
    for axis in (1, 2):
        expected = ndimage.convolve1d(expected, kernel / kernel.sum(), axis=axis, mode="mirror")
    blurred = gaussian_blur(image, np.float32(sigma), kernel_size)
    np.testing.assert_allclose(blurred, expected, atol=1e-6)
    for wrong in (4, 15):
        line = fault_of(read=lambda wrong=wrong: gaussian_blur(image, np.float32(1), wrong))
        assert "odd number up to 13" in line


def test_strengths_of_the_blurs_that_happen_are_uniform():
    """A single bright pixel: the variance of its picture is σ² where the kernel is wide enough."""
    image = np.zeros((41, 41, 1), np.uint8)
    image[20, 20] = 255
    settings = Augmentation(False, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.5, 31, 2.5, 0.6)
    views = (_many(image, 1000, settings)[..., 0] + 1) / 2
    variances = (views.sum(1) * (np.arange(41) - 20) ** 2).sum(1)
    sigmas = np.sqrt(variances[variances > 0.1])
    assert stats.kstest(sigmas, stats.uniform(0.6, 1.9).cdf).pvalue > 0.01


@pytest.mark.parametrize("channels", [3, *small.slow(1)])
@pytest.mark.parametrize(("name", "share"), [("flip", 0.5), ("grey_probability", 0.2)])
def test_a_share_of_the_images_is_mirrored_or_grey(name, share, channels):
    """And is so exactly; a grey image remains as it is in grey."""
    image = _pixels(channels)
    given = True if name == "flip" else share
    settings = dataclasses.replace(NOTHING, **{name: given})
    views = _many(image, 1000, settings)
    grey = np.broadcast_to(
        (image @ LUMA if channels == 3 else image[..., 0])[..., None], image.shape
    )
    changed = image[:, ::-1] if name == "flip" else grey
    is_plain, is_changed = (
        np.abs(views - (given / 127.5 - 1)).max((1, 2, 3)) < 1e-6 for given in (image, changed)
    )
    assert (is_plain | is_changed).all()
    if name == "grey_probability" and channels == 1:
        assert is_plain.all()
    else:
        assert _is_likely(1 - is_plain.mean(), share, 1000)


def test_grey_images_know_no_saturation_or_hue():
    image = _pixels(1)
    settings = dataclasses.replace(NOTHING, jitter_probability=1.0, brightness=0.0, contrast=0.0)
    assert min(settings.saturation, settings.hue) > 0
    expected = np.broadcast_to(image / 127.5 - 1, (20, *image.shape))
    np.testing.assert_allclose(_many(image, 20, settings), expected, atol=1e-6)


def test_changes_are_drawn_independently_with_their_probabilities():
    """Which of the four befell an image is told from a picture with one edge."""
    image = np.zeros((16, 16, 3), np.uint8)
    image[:, 8:] = 60, 0, 0
    image[0, 0] = 255
    settings = Augmentation(True, 0.7, 0.5, 0.0, 0.0, 0.0, 0.4, 0.6, 3, 1.0, 1.0)
    views = (_many(image, 2000, settings) + 1) / 2
    bright = views[:, 8, :].max((1, 2))
    is_flipped = views[:, 8, 2].sum(-1) > views[:, 8, 13].sum(-1)
    red = np.where(is_flipped[:, None], views[:, 8, 3], views[:, 8, 12])
    is_grey = np.ptp(red, axis=-1) < 1e-6
    level = np.where(is_grey, LUMA[0], 1) * 60 / 255
    is_jittered = np.abs(red[:, 0] / level - 1) > 1e-4
    is_blurred = (np.abs(views[:, 8, 7] - views[:, 8, 6]).max(-1) > 1e-4) | (
        np.abs(views[:, 8, 8] - views[:, 8, 9]).max(-1) > 1e-4
    )
    assert bright.max() <= 1
    befell = np.stack([is_flipped, is_jittered, is_grey, is_blurred]).astype(float)
    assert all(map(_is_likely, befell.mean(1), (0.5, 0.7, 0.4, 0.6), itertools.repeat(2000)))
    assert np.abs(np.corrcoef(befell) - np.eye(4)).max() < 4 / np.sqrt(2000)


def test_greyscale_comes_after_the_jitter():
    """Else saturation and hue would have nothing to work on: grey levels of equal brightness."""
    image = np.zeros((8, 8, 3), np.uint8)
    image[...] = 255, 0, 0
    settings = Augmentation(False, 1.0, 0.0, 0.0, 0.0, 0.5, 1.0, 0.0)
    views = _many(image, 100, settings)
    assert np.ptp(views, axis=-1).max() < 1e-6
    assert np.ptp(views[:, 0, 0, 0]) > 1


def test_views_are_functions_of_the_key_and_not_of_the_batch():
    settings = Augmentation(blur_kernel=5)
    images = np.stack([_pixels(seed=seed) for seed in range(6)])
    augment_each = jax.jit(jax.vmap(lambda image, key: augment(image, key, settings)))
    views = augment_each(images, _keys(6))
    assert views.dtype == jnp.float32
    for k in range(6):
        others = np.asarray(augment_each(np.stack([images[k]] * 6), _keys(6)))
        np.testing.assert_allclose(others[k], views[k], atol=1e-5)
    assert all(np.abs(a - b).max() > 1e-3 for a, b in itertools.combinations(others, 2))


@pytest.mark.parametrize("channels", [1, 3])
def test_every_view_of_every_pixel_is_finite_and_in_range(channels):
    extremes = np.random.default_rng(0).choice(np.uint8([0, 1, 254, 255]), (12, 12, channels))
    images = [extremes, _pixels(channels)]
    images += [np.full_like(extremes, level) for level in (0, 128, 255)]
    settings = Augmentation(True, 0.8, 2.0, 2.0, 2.0, 0.5, blur_max_sigma=1e3, blur_min_sigma=1e-3)
    for image in images:
        views = _many(image, 100, settings)
        assert views.shape == (100, *image.shape)
        assert np.isfinite(views).all()
        assert np.abs(views).max() <= 1
