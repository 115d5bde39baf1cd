"""Reconstruction error of images mapped to noise and back by the decoder's flow (paper C.3)."""

from pathlib import Path

import numpy as np

from lzn_jax import plots
from lzn_jax.data import Examples
from lzn_jax.data_types import Invertible
from lzn_jax.evaluation.measurements import figures_folder
from lzn_jax.trained_model import TrainedModel

MAX_RECONSTRUCTED = 2000  # test images, as in the paper for CIFAR-10


def measure(
    model: TrainedModel, train: Examples, test: Examples, workdir: Path
) -> dict[str, float]:
    """Returns `reconstruction_l2` and draws examples; empty if the decoder is not invertible."""
    if not isinstance(model.space.decoders.get(model.main_type), Invertible):
        return {}
    rows = reconstructed_rows(len(test.labels))
    images = test.images[rows]
    result = model.reconstruct(images, test.labels[rows])
    path = figures_folder(workdir, model.config) / "reconstructions.png"
    plots.reconstructions(path, images, result["images"], result["errors"])
    return {"reconstruction_l2": float(np.mean(result["errors"]))}


def reconstructed_rows(count: int) -> np.ndarray:
    """Rows of test images to reconstruct, evenly spaced because files may be sorted by class."""
    chosen = min(count, MAX_RECONSTRUCTED)
    return np.arange(chosen) * count // chosen
