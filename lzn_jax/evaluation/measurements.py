"""What is measured of a run: by its data types, and by the measurements that its config names."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int
from ml_collections import ConfigDict

from lzn_jax import configuration, parts, plots
from lzn_jax.configuration import CONFIG_FILE, UserError
from lzn_jax.data import Examples, measured_set
from lzn_jax.data.examples import decoded, evenly_spaced
from lzn_jax.latent_space import LatentSpace
from lzn_jax.run.progress import progress
from lzn_jax.trained_model import TrainedModel

SHOWN = 8  # examples of each task


def measurements(space: LatentSpace) -> dict[str, Any]:
    """The measurements of a space by name."""
    named = [name for each in space.types.values() for name in each.measurements]
    named += space.config.evaluation.measurements
    return {name: parts.get("measurement", name) for name in named}


def prepare(space: LatentSpace, test: Examples) -> None:
    """Reads what measurements need, and logs which test samples are left out of them.

    Raises UserError for weights that cannot be read.
    """
    for name, measure in measurements(space).items():
        if not callable(measure):
            raise UserError(f"measurement {name!r} must be a function, got {measure!r}")
        if read := getattr(measure, "prepare", None):
            read(space.config)
    for each in space.types.values():
        each.check(test, "test")


def evaluate(
    model: TrainedModel, train: Examples, test: Examples, workdir: Path
) -> dict[str, float]:
    """Metrics by name, first the number of examples, which names the set measured.

    Pictures go into the folder of figures, what to keep into the cache of the work folder.
    """
    found = measurements(model.space)
    metrics = {f"{measured_set(model.config.data)}_examples": float(len(test.labels))}
    with progress(len(found) + bool(model.translations), "evaluation", unit="measurement") as bar:
        for name, measure in found.items():
            bar.set_postfix_str(name, refresh=True)
            metrics |= _checked(name, measure(model, train, test, workdir))
            bar.update(1)
        if model.translations:
            bar.set_postfix_str("tasks", refresh=True)
            _draw_tasks(model, test, figures_folder(workdir, model.config))
            bar.update(1)
    return metrics


def _checked(name: str, found: Any) -> Mapping[str, float]:
    if not isinstance(found, Mapping):
        raise UserError(f"measurement {name!r} must return numbers by name, got {found!r}")
    return {metric: float(value) for metric, value in found.items()}


def figures_folder(workdir: Path, config: ConfigDict) -> Path:
    """Where figures go: figures/, or figures/SET for another set than the run's own."""
    other = other_set(workdir, config)
    return workdir / "figures" / other if other else workdir / "figures"


def other_set(workdir: Path, config: ConfigDict) -> str | None:
    """The name of the set that a config measures, None: that of the run in the folder."""
    measured, path = measured_set(config.data), workdir / CONFIG_FILE
    if not path.is_file():
        return None
    values = configuration.stored_values(path)
    own = {n.removeprefix("data."): v for n, v in values.items() if n.startswith("data.")}
    return None if measured_set({"validation": 0, **own}) == measured else measured


def readable_rows(model: TrainedModel, test: Examples) -> Int[np.ndarray, " k"]:
    """Rows of test examples with a readable sample of every data type."""
    rows = np.arange(len(test.labels))
    for each in model.space.types.values():
        rows = np.intersect1d(rows, each.readable(test))
    return rows


def _draw_tasks(model: TrainedModel, test: Examples, folder: Path) -> None:
    """Draws examples of each pair of types; sources are of different classes."""
    rows = readable_rows(model, test)
    if model.class_type is not None:
        rows = rows[np.unique(test.labels[rows], return_index=True)[1]][:SHOWN]
    shown = decoded(test, rows[evenly_spaced(min(len(rows), SHOWN), len(rows))])
    count = len(shown.labels)
    if count == 0:
        return
    types, bands = model.space.types, list[tuple[str, Any, Any]]()
    for source, target in model.translations:
        samples = types[source].samples(shown)
        made = types[target].shown(model.translate(samples, source, target))
        bands.append((f"{source} to {target}", types[source].shown(samples), made))
    for target in model.space.decoders:
        drawn = types[target].shown(model.generate(target, count))
        bands.append((f"prior to {target}", None, drawn))
    plots.tasks(folder / "tasks.png", bands)
