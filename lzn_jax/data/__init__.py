"""Data sets and the order in which they are read."""

from lzn_jax.data.pipeline import TrainingBatches, normalise, to_uint8
from lzn_jax.data.sources import Examples, load, read_images

__all__ = ["Examples", "TrainingBatches", "load", "normalise", "read_images", "to_uint8"]
