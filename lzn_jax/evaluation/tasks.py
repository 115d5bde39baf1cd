"""Figure of a run's translations and generated samples."""

from pathlib import Path

import numpy as np

from lzn_jax import plots
from lzn_jax.data import Examples, decoded
from lzn_jax.data.pixels import evenly_spaced
from lzn_jax.data_types import Samples
from lzn_jax.evaluation.measurements import readable_rows
from lzn_jax.trained_model import TrainedModel

SHOWN = 8  # examples per task


def draw(model: TrainedModel, test: Examples, folder: Path) -> None:
    """Draws examples of every translation and of prior samples. Sources differ in class.

    Draws nothing for a run without translations.
    """
    rows = readable_rows(model, test)
    if model.class_type is not None:
        rows = rows[np.unique(test.labels[rows], return_index=True)[1]][:SHOWN]
    shown = decoded(test, rows[evenly_spaced(min(len(rows), SHOWN), len(rows))])
    if not model.translations or not (count := len(shown.labels)):
        return
    types, bands = model.space.types, list[tuple[str, Samples, Samples]]()
    for source, target in model.translations:
        samples = types[source].samples(shown)
        translated = types[target].shown(model.translate(samples, source, target))
        bands.append((f"{source} to {target}", types[source].shown(samples), translated))
    for target in model.space.decoders:
        generated = types[target].shown(model.generate(target, count))
        bands.append((f"prior to {target}", None, generated))
    plots.tasks(folder / "tasks.png", bands)
