"""scikit-learn's 8x8 digits, which are part of its package."""

import numpy as np
from jaxtyping import Int, UInt8
from ml_collections import ConfigDict

from lzn_jax.data import Examples, captions


def load(data: ConfigDict, split: str) -> Examples:
    """One split: 1437 training or 360 test digits, with the same share of each class.

    Additional columns are `ink`, the mean grey value, and `slant`, positive to the right.
    """
    images, labels = _split(split)
    more = {"ink": captions.ink(images), "slant": captions.slant(images)}
    texts = None
    if data.get("captions"):
        texts = captions.compose(ruler().measure(images, labels))
    return Examples(images, labels, texts, more=more)


def ruler() -> captions.Ruler:
    """Terciles of all 1437 training digits, including any validation split."""
    return captions.fit(*_split("train"))


def _split(name: str) -> tuple[UInt8[np.ndarray, "n 8 8 1"], Int[np.ndarray, " n"]]:
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)[..., None]
    labels = digits.target.astype(np.int32)
    parts = train_test_split(images, labels, test_size=360, stratify=labels, random_state=0)
    train_images, test_images, train_labels, test_labels = parts
    return {"train": (train_images, train_labels), "test": (test_images, test_labels)}[name]


def class_names(data: ConfigDict) -> tuple[str, ...]:
    """Names of the ten digits."""
    return tuple("0123456789")
