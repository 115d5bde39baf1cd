"""How near generated images come to training images, which tells memory from generation.

Fréchet distances do not see it: training images drawn again would have the best of all.
"""

import numpy as np
from jaxtyping import UInt8
from sklearn.metrics import pairwise_distances_argmin_min

from lzn_jax.data import Examples, Images

MAX_PIXELS = 32  # a side; of larger images pixels say little
MAX_COMPARED = 2000  # samples, and test images: a mean needs no more
MAX_TRAINING = 100_000


def nearest_training_images(
    train: Examples, test: Examples, samples: UInt8[np.ndarray, "n h w c"]
) -> dict[str, float]:
    """Mean l2 distance to the nearest training image, in units of [-1, 1]: of samples and tests.

    `nearest_ratio` is that of samples over that of test images; far below 1, samples are copies.
    Nothing of images of more than 32 pixels a side; at most 100,000 training images are looked at.
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
    """Images as rows in units of [-1, 1], at most so many, at even steps, as files go by class."""
    count = min(len(images), most)
    chosen = images[np.arange(count) * len(images) // count]
    return np.asarray(chosen).reshape(count, -1) / np.float32(127.5)
