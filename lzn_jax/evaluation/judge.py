"""Classifier of real images that judges class-conditional samples independently of the model."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Int, UInt8
from sklearn.svm import SVC

from lzn_jax.configuration import UserError
from lzn_jax.data import Examples

_MAX_IMAGES = 10_000  # fitting takes quadratic time


def fit_judge(
    train: Examples,
) -> Callable[[UInt8[np.ndarray, "n h w c"]], Int[np.ndarray, " n"]]:
    """Function from images to classes: an RBF SVM fitted to at most 10,000 training images.

    Its accuracy on the test images of scikit-learn's digits is about 0.99. Raises UserError for
    images of a single class.
    """
    count = len(train.labels)
    rows = np.sort(np.random.default_rng(0).permutation(count)[:_MAX_IMAGES])
    if np.ptp(train.labels[rows]) == 0:
        raise UserError("a judge of classes needs training images of at least two classes, got one")
    classifier = SVC(C=10.0, gamma="scale").fit(as_pixels(train.images[rows]), train.labels[rows])
    return lambda images: classifier.predict(as_pixels(images))


def as_pixels(images: UInt8[np.ndarray, "n h w c"]) -> Float[np.ndarray, "n d"]:
    """Flattened images in [0, 1], d = h w c."""
    return images.reshape(len(images), -1) / 255.0
