"""Reconstruction error: images to noise and back through the decoder's flow (paper C.3)."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from lzn_jax import figures
from lzn_jax.data import Images
from lzn_jax.studies import Variables
from lzn_jax.studies.image_decoder import Condition, ImageDecoder

_SHOWN = 30


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
        """The images again, and `errors` (n,), each image's l2 norm in units of [-1, 1]."""
        result: dict[str, np.ndarray] = self._in_batches(
            functools.partial(self._reconstruct, variables),
            (images, condition),
            description="reconstructing",
        )
        return result

    def evaluate(
        self,
        variables: Variables,
        images: Images,
        condition: Condition,
        folder: Path,
    ) -> dict[str, float]:
        """`reconstruction_l2`, the mean error; a figure of the first images goes into `folder`."""
        result = self(variables, images, condition)
        shown = slice(_SHOWN)
        figures.reconstructions(
            folder / "reconstructions.png",
            images[shown],
            result["images"][shown],
            result["errors"][shown],
            title="Test images and their reconstructions",
        )
        return {"reconstruction_l2": float(np.mean(result["errors"]))}
