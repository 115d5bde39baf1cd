"""Distances from generated images to training images, which reveal copies of training images.

Fréchet distances do not detect such copies: the training images themselves would score best.
"""

import numpy as np
from jaxtyping import UInt8
from sklearn.metrics import pairwise_distances_argmin_min

from lzn_jax.data import Examples, Images

MAX_PIXELS = 32  # per side; pixel distances mean little for larger images
MAX_COMPARED = 2000  # samples, and test images; enough for a mean
MAX_TRAINING = 100_000


def nearest_training_images(
    train: Examples, test: Examples, samples: UInt8[np.ndarray, "n h w c"]
) -> dict[str, float]:
    """Mean l2 distance of samples and of test images to the nearest training image.

    Distances are in units of [-1, 1]. `nearest_ratio` is the mean of samples over that of test
    images; a ratio far below 1 means that samples are copies. Uses at most 100,000 training images;
    returns no metrics for images of more than 32 pixels per side.
    """
    if samples.shape[1] > MAX_PIXELS:
        return {}
    training = _rows(train.images, MAX_TRAINING)

    def mean_distance(images: Images) -> float:
        distances = pairwise_distances_argmin_min(_rows(images, MAX_COMPARED), training)[1]
        return float(np.mean(distances))

    nearest = {"nearest": mean_distance(samples), "nearest_of_tests": mean_distance(test.images)}
    return nearest | {"nearest_ratio": nearest["nearest"] / max(nearest["nearest_of_tests"], 1e-6)}


def _rows(images: Images, most: int) -> np.ndarray:
    """At most `most` flattened images in units of [-1, 1], evenly spaced (files may be sorted)."""
    count = min(len(images), most)
    chosen = images[np.arange(count) * len(images) // count]
    return np.asarray(chosen).reshape(count, -1) / np.float32(127.5)
