"""Reconstruction error: images to noise and back through the decoder's flow (paper C.3)."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from lzn_jax.data import Images
from lzn_jax.models import Variables
from lzn_jax.studies.image_decoder import Condition, ImageDecoder

MAX_EVALUATED = 2000  # test images, as the paper takes of CIFAR-10


def evaluated_rows(count: int) -> np.ndarray:
    """The test images that are reconstructed: all, or some at even steps, as files go by class."""
    chosen = min(count, MAX_EVALUATED)
    return np.arange(chosen) * count // chosen


class Reconstruction:
    """Reconstructs any number of images with one compiled program."""

    def __init__(self, decoder: ImageDecoder, in_batches: Callable[..., Any]) -> None:
        self._reconstruct = jax.jit(
            lambda variables, request: decoder.reconstruct(variables, *request)
        )
        self._in_batches = in_batches

    def __call__(
        self, variables: Variables, images: Images, condition: Condition
    ) -> dict[str, np.ndarray]:
        """`images` again, and `errors` (n,), each image's l2 norm in units of [-1, 1]."""
        result: dict[str, np.ndarray] = self._in_batches(
            functools.partial(self._reconstruct, variables),
            (images, condition),
            description="reconstructing",
        )
        return result
