"""Weights of the FID InceptionV3 from the user's file."""

import hashlib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lzn_jax.configuration import UserError
from lzn_jax.evaluation import cache, torch_weights
from lzn_jax.evaluation.extractors import INCEPTION, Extractor
from lzn_jax.evaluation.inception import InceptionV3, inception_outputs
from lzn_jax.release import torch_files

_HASH_IN_NAME = re.compile(r"-([0-9a-f]{8})\.pth?$")


def inception_extractor(path: str | os.PathLike[str]) -> Extractor:
    """The FID Inception network with weights from `path`, read by `load_inception`."""
    variables = load_inception(path)
    return Extractor(INCEPTION, cache.key_of_variables(variables), variables, inception_outputs)


def load_inception(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Variables of `InceptionV3` from PyTorch's FID file (pt_inception-2015-12-05-6726825d.pth).

    A file name that ends in a hash, as that one does, must contain the first 8 hexadecimal digits
    of the file's SHA-256. Raises UserError if the file is missing, damaged or not of this network;
    the message names a tensor that is missing, left over or of another shape.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(
            f"there is no file {path}; the Inception weights of FID are pytorch-fid's "
            "pt_inception-2015-12-05-6726825d.pth"
        )
    if match := _HASH_IN_NAME.search(path.name):
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()[:8]
        if digest != match[1]:
            raise UserError(
                f"{path} does not match the hash in its name: its SHA-256 starts with {digest}, "
                f"not {match[1]}; download it again, or rename it if you saved it yourself"
            )
    state = torch_files.read(path, streams=True)  # the original file dates from 2019
    if not isinstance(state, dict) or not all(isinstance(a, np.ndarray) for a in state.values()):
        raise UserError(f"{path} is not a state dict: expected tensors by name")
    return from_torch(state, str(path))


def from_torch(state: Mapping[str, np.ndarray], source: str) -> dict[str, Any]:
    """Variables from a PyTorch state dict; `source` names it in errors.

    Ignores batch counters and the bias of the class logits, which no metric uses.
    """
    used = {
        name: array
        for name, array in state.items()
        if not name.endswith(".num_batches_tracked") and name != "fc.bias"
    }
    refusal = f"{source} is not the FID Inception network"
    return torch_weights.convert(InceptionV3(), 75, used, refusal)
