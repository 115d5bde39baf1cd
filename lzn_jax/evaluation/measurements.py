"""Evaluation of a run by the measurements and figures of its data types and of its config."""

import logging
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int
from ml_collections import ConfigDict

from lzn_jax import configuration, parts
from lzn_jax.configuration import CONFIG_FILE
from lzn_jax.data import Examples, measured_set
from lzn_jax.run import devices, log
from lzn_jax.run.workdir import guarded
from lzn_jax.trained_model import TrainedModel

_log = logging.getLogger(__name__)


def evaluate(
    model: TrainedModel, train: Examples, test: Examples, workdir: Path, seconds: float = math.inf
) -> dict[str, float]:
    """Metrics by name, starting with the number of examples under the name of the measured set.

    Figures follow, in `figures_folder`. After `seconds` no further part starts; a line names those
    left out. Logs the `headline` of own measurements and the package's most important metrics.
    Raises UserError for a measurement or figure that fails.
    """
    started, measured = time.perf_counter(), measured_set(model.config.data)
    folder, space = figures_folder(workdir, model.config), model.space
    measurements, figures = space.measurements.items(), space.figures.items()
    calls: list[Any] = [("measurement", *each, train, test, workdir) for each in measurements]
    calls += [("figure", *each, test, folder) for each in figures]
    names = [name for _, name, *_ in calls]
    limit = "" if seconds == math.inf else f"; none starts after {max(seconds, 0):.0f} s"
    planned = ", ".join(names) + limit if names else "nothing"
    _log.info("evaluating %d %s examples: %s", len(test.labels), measured, planned)
    metrics = {f"{measured}_examples": float(len(test.labels))}
    headline, shipped = list[str](), dict[str, float]()
    folder.mkdir(parents=True, exist_ok=True)
    for index, (kind, name, function, *arguments) in enumerate(calls):
        now = time.perf_counter()
        if not devices.everywhere(now - started < seconds):
            is_kept = model.config.data.name != "arrays"  # which end with their process
            advice = ", --mode=evaluate computes all" * is_kept
            _log.warning("%s: no time is left%s", ", ".join(names[index:]), advice)
            break
        with parts.mistakes(f"{kind} {name!r}"), guarded(workdir):
            found = function(model, *arguments)
            if kind == "measurement":
                metrics |= (numbers := _numbers(found))
                if getattr(function, "__module__", "").startswith("lzn_jax."):
                    shipped |= numbers
                else:
                    chosen = getattr(function, "headline", list(numbers)[: log.SHOWN])
                    headline += [each for each in numbers if each in chosen]
        _log.info("%s took %.1f s", name, time.perf_counter() - now)
    headline += log.most_important(shipped, log.SHOWN)
    file = summary_file(other_set(workdir, model.config))
    for line in log.of_evaluation(model.step, metrics, headline, file):
        _log.info("%s", line)
    return metrics


def _numbers(found: Any) -> dict[str, float]:
    if not isinstance(found, Mapping):
        raise TypeError(f"it must return numbers by name, got {found!r}")
    return {metric: float(value) for metric, value in found.items()}


def figures_folder(workdir: Path, config: ConfigDict) -> Path:
    """Folder of figures: figures/, or figures/SET if the measured set is not the run's own."""
    other = other_set(workdir, config)
    return workdir / "figures" / other if other else workdir / "figures"


def summary_file(other: str | None) -> str:
    """Name of the file of metrics, given the `other_set`."""
    return f"summary_{other}.json" if other else "summary.json"


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
