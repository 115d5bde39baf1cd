"""Reconstruction error of samples mapped to noise and back by the decoder's flow (paper C.3)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lzn_jax import plots
from lzn_jax.data import Examples
from lzn_jax.data_types import DataType, Invertible, are_images
from lzn_jax.evaluation.measurements import figures_folder
from lzn_jax.trained_model import TrainedModel

MAX_RECONSTRUCTED = 2000  # test samples, as in the paper for CIFAR-10


def measure(
    model: TrainedModel, train: Examples, test: Examples, workdir: Path
) -> dict[str, float]:
    """Returns `reconstruction_l2` and draws examples; empty if the decoder is not invertible."""
    if not isinstance(model.space.decoders.get(model.main_type), Invertible):
        return {}
    rows, kind = reconstructed_rows(len(test.labels)), model.space.types[model.main_type]
    samples = kind.samples(test)[rows]
    result = model.reconstruct(samples, test.labels[rows])
    draw(figures_folder(workdir, model.config) / "reconstructions.png", kind, samples, result)
    return {"reconstruction_l2": float(np.mean(result["errors"]))}


def draw(path: Path, kind: DataType, samples: Any, result: Mapping[str, Any]) -> None:
    """Draws samples above the result of `TrainedModel.reconstruct`."""
    shown, again = kind.shown(samples), kind.shown(result[kind.output])
    title = f"Real {kind.plural} and their reconstructions"
    if are_images(shown):
        plots.reconstructions(path, shown, again, result["errors"], title)
    else:
        plots.translations(path, shown, again, title)


def reconstructed_rows(count: int) -> np.ndarray:
    """Rows of test samples to reconstruct, evenly spaced because files may be sorted by class."""
    chosen = min(count, MAX_RECONSTRUCTED)
    return np.arange(chosen) * count // chosen
