"""Data sets, and the order in which training reads them."""

from lzn_jax.data.decoding import UnreadableImageError
from lzn_jax.data.examples import EncodedImages, Examples, Images
from lzn_jax.data.pipeline import TrainingBatches, Transform, normalise, to_uint8, whole_image
from lzn_jax.data.sources import (
    attribution,
    background,
    class_names,
    file_names,
    find_images,
    is_light,
    label_names,
    licence,
    load,
    read_image,
    read_images,
)
from lzn_jax.data.splits import check_context, fit_context, load_data, measured_set

__all__ = [
    "EncodedImages",
    "Examples",
    "Images",
    "TrainingBatches",
    "Transform",
    "UnreadableImageError",
    "attribution",
    "background",
    "check_context",
    "class_names",
    "file_names",
    "find_images",
    "fit_context",
    "is_light",
    "label_names",
    "licence",
    "load",
    "load_data",
    "measured_set",
    "normalise",
    "read_image",
    "read_images",
    "to_uint8",
    "whole_image",
]
