"""Captions of digits, measured on the images: "a bold seven leaning left".

The weight compares the ink, the mean grey value, with the terciles of all training images. The lean
compares the slant -μ11/μ02 with the terciles of the training images of the same class. Central
moments are of grey values, with x to the right and y downwards. A value equal to a threshold
belongs to the higher class.
"""

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt8

WEIGHTS = ("thin", "regular", "bold")
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
LEANS = ("leaning left", "standing upright", "leaning right")


class Parts(NamedTuple):
    """Parts of n captions, as indices into DIGITS, WEIGHTS and LEANS, or -1."""

    digit: Int[np.ndarray, " n"]
    weight: Int[np.ndarray, " n"]
    lean: Int[np.ndarray, " n"]


class Ruler(NamedTuple):
    """Terciles of ink and, for each class, of slant."""

    ink: Float[np.ndarray, "2"]
    slant: Float[np.ndarray, "10 2"]

    def measure(self, images: UInt8[np.ndarray, "n h w 1"], labels: np.ndarray) -> Parts:
        """Caption parts of images whose classes are `labels`."""
        weight = np.sum(ink(images)[:, None] >= self.ink, axis=1)
        lean = np.sum(slant(images)[:, None] >= self.slant[labels], axis=1)
        return Parts(np.asarray(labels), weight, lean)


def fit(images: UInt8[np.ndarray, "n h w 1"], labels: Int[np.ndarray, " n"]) -> Ruler:
    """Terciles of training images."""
    shares, slants = (1 / 3, 2 / 3), slant(images)
    by_class = [np.quantile(slants[labels == label], shares) for label in range(len(DIGITS))]
    return Ruler(np.quantile(ink(images), shares), np.stack(by_class))


def ink(images: UInt8[np.ndarray, "n h w 1"]) -> Float[np.ndarray, " n"]:
    """Mean grey value, 0 ... 255."""
    return images.astype(np.float64).mean(axis=(1, 2, 3))


def slant(images: UInt8[np.ndarray, "n h w 1"]) -> Float[np.ndarray, " n"]:
    """-μ11/μ02, the shift to the right per unit of height. 0 for an image without height."""
    grey = images[..., 0].astype(np.float64)
    y, x = (axis.astype(np.float64) for axis in np.indices(grey.shape[1:]))
    total = np.maximum(grey.sum(axis=(1, 2)), 1e-12)

    def mean(values: Any) -> Any:
        return np.sum(grey * values, axis=(1, 2)) / total

    dx, dy = x - mean(x)[:, None, None], y - mean(y)[:, None, None]
    across, height = mean(dx * dy), mean(dy**2)
    return np.where(height > 0, -across / np.where(height > 0, height, 1), 0.0)


def compose(parts: Parts) -> np.ndarray:
    """Captions (n,) of the given parts."""
    rows = zip(*parts, strict=True)
    return np.array([f"a {WEIGHTS[w]} {DIGITS[d]} {LEANS[lean]}" for d, w, lean in rows])


def parse(texts: list[str] | np.ndarray, form: Callable[[list[str]], list[str]] = list) -> Parts:
    """Parts of captions, -1 for other texts.

    `form` maps captions to their form in `texts`, for example a tokenizer's form.
    """
    numbers = list(itertools.product(range(len(DIGITS)), range(len(WEIGHTS)), range(len(LEANS))))
    captions = compose(Parts(*np.array(numbers).T)).tolist()
    known = dict(zip(form(captions), numbers, strict=True))
    rows = np.array([known.get(str(text), (-1, -1, -1)) for text in texts]).reshape(-1, 3)
    return Parts(*rows.T)
