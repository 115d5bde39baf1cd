"""scikit-learn's 8x8 digits, which its package contains."""

import numpy as np
from jaxtyping import Int, UInt8
from ml_collections import ConfigDict

from lzn_jax import parts
from lzn_jax.data import Examples, digit_captions, fixed_images
from lzn_jax.parts import flag

LICENCE = "CC BY 4.0 (Optical Recognition of Handwritten Digits, UCI Machine Learning Repository)."


def load(data: ConfigDict, split: str) -> Examples:
    """One split of 1437 training or 360 test digits, with the same share of each class."""
    images, labels = _split(split)
    texts = (
        digit_captions.compose(ruler().measure(images, labels)) if data.get("captions") else None
    )
    return Examples(images, labels, texts)


def ruler() -> digit_captions.Ruler:
    """Terciles of ink and slant over all 1437 training digits, including any validation split."""
    return digit_captions.fit(*_split("train"))


def _split(name: str) -> tuple[UInt8[np.ndarray, "n 8 8 1"], Int[np.ndarray, " n"]]:
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)[..., None]
    labels = digits.target.astype(np.int32)
    halves = train_test_split(images, labels, test_size=360, stratify=labels, random_state=0)
    train_images, test_images, train_labels, test_labels = halves
    return {"train": (train_images, train_labels), "test": (test_images, test_labels)}[name]


def class_names(data: ConfigDict) -> tuple[str, ...]:
    """Names of the ten digits."""
    return tuple("0123456789")


parts.add(
    "data",
    "digits",
    "lzn_jax.data.digits",
    fixed_images(8, 1, 10, flip=False, fills=True, choices=(8,))  # a mirrored digit is not a digit
    | {"data.captions": flag("each image has a caption of its digit, weight and lean", False)},
)
