"""Evaluation of a run by the measurements of its data types and of its config."""

import logging
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int
from ml_collections import ConfigDict

from lzn_jax import configuration, plots
from lzn_jax.configuration import CONFIG_FILE
from lzn_jax.data import Examples, decoded, measured_set
from lzn_jax.data.pixels import evenly_spaced
from lzn_jax.errors import UserError
from lzn_jax.run import devices
from lzn_jax.trained_model import TrainedModel

SHOWN = 8  # examples per task in the figure

_log = logging.getLogger(__name__)


def evaluate(
    model: TrainedModel, train: Examples, test: Examples, workdir: Path, seconds: float = math.inf
) -> dict[str, float]:
    """Metrics by name, starting with the number of examples under the name of the measured set.

    Saves figures in `figures_folder`. After `seconds` no further measurement starts; a line names
    those left out. Raises UserError for a measurement that does not return a mapping.
    """
    started, measured = time.perf_counter(), measured_set(model.config.data)
    functions = dict(model.space.measurements)
    if model.translations and model.config.evaluation.measurements_of_types:
        functions["tasks"] = _draw_tasks
    names = list(functions)
    limit = "" if seconds == math.inf else f"; none starts after {max(seconds, 0):.0f} s"
    planned = ", ".join(names) + limit if names else "nothing"
    _log.info("evaluating %d %s examples: %s", len(test.labels), measured, planned)
    metrics = {f"{measured}_examples": float(len(test.labels))}
    for index, (name, measure) in enumerate(functions.items()):
        now = time.perf_counter()
        if not devices.everywhere(now - started < seconds):
            missing = ", ".join(names[index:])
            _log.warning("%s: no time is left, --mode=evaluate computes all", missing)
            break
        found = measure(model, train, test, workdir)
        if not isinstance(found, Mapping):
            raise UserError(f"measurement {name!r} must return numbers by name, got {found!r}")
        metrics |= {metric: float(value) for metric, value in found.items()}
        _log.info("%s took %.1f s", name, time.perf_counter() - now)
    return metrics


def figures_folder(workdir: Path, config: ConfigDict) -> Path:
    """Folder of figures: figures/, or figures/SET if the measured set is not the run's own."""
    other = other_set(workdir, config)
    return workdir / "figures" / other if other else workdir / "figures"


def other_set(workdir: Path, config: ConfigDict) -> str | None:
    """Name of the set that a config measures, or None if it is the set of the run in `workdir`."""
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


def _draw_tasks(
    model: TrainedModel, train: Examples, test: Examples, workdir: Path
) -> dict[str, float]:
    """Draws examples of every translation and of prior samples; sources differ in class."""
    rows = readable_rows(model, test)
    if model.class_type is not None:
        rows = rows[np.unique(test.labels[rows], return_index=True)[1]][:SHOWN]
    shown = decoded(test, rows[evenly_spaced(min(len(rows), SHOWN), len(rows))])
    if not (count := len(shown.labels)):
        return {}
    types, bands = model.space.types, list[tuple[str, Any, Any]]()
    for source, target in model.translations:
        samples = types[source].samples(shown)
        translated = types[target].shown(model.translate(samples, source, target))
        bands.append((f"{source} to {target}", types[source].shown(samples), translated))
    for target in model.space.decoders:
        generated = types[target].shown(model.generate(target, count))
        bands.append((f"prior to {target}", None, generated))
    plots.tasks(figures_folder(workdir, model.config) / "tasks.png", bands)
    return {}
