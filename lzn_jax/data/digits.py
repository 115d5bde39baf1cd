"""scikit-learn's 8x8 digits, which come with the package."""

import numpy as np
from ml_collections import ConfigDict

from lzn_jax.data import captions
from lzn_jax.data.examples import Examples


def load(data: ConfigDict, split: str) -> Examples:
    """1437 digits for training and 360 for testing, as many of each class."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)[..., None]
    labels = digits.target.astype(np.int32)
    parts = train_test_split(images, labels, test_size=360, stratify=labels, random_state=0)
    train_images, test_images, train_labels, test_labels = parts
    chosen = {"train": (train_images, train_labels), "test": (test_images, test_labels)}[split]
    if not data.get("captions"):
        return Examples(*chosen)
    ruler = captions.fit(train_images, train_labels)
    return Examples(*chosen, captions.compose(ruler.measure(*chosen)))


def class_names(data: ConfigDict) -> tuple[str, ...]:
    """The digits."""
    return tuple("0123456789")
