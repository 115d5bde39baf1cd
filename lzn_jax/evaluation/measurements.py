"""Evaluation of a run by the measurements and figures of its data types and of its config."""

import logging
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from lzn_jax import parts
from lzn_jax.data import Examples, measured_set
from lzn_jax.evaluation.headline import SHOWN, most_important, of_evaluation
from lzn_jax.latent_space import LatentSpace
from lzn_jax.run import devices
from lzn_jax.run.workdir import guarded
from lzn_jax.trained_model import TrainedModel

_log = logging.getLogger(__name__)


def evaluate(
    model: TrainedModel, train: Examples, test: Examples, workdir: Path, seconds: float = math.inf
) -> dict[str, float]:
    """Metrics by name, starting with the measured set's number of examples.

    Figures follow, in figures/. After `seconds` no further part starts, and a line names the parts
    left out. Logs the `headline` of own measurements and the package's most important metrics.
    Raises UserError for a measurement or figure that fails.
    """
    started, measured = time.perf_counter(), measured_set(model.config.data)
    folder, space = workdir / "figures", model.space
    measurements, figures = (functions(space, kind).items() for kind in ("measurement", "figure"))
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
                    chosen = getattr(function, "headline", list(numbers)[:SHOWN])
                    headline += [each for each in numbers if each in chosen]
        _log.info("%s took %.1f s", name, time.perf_counter() - now)
    headline += most_important(shipped, SHOWN)
    for line in of_evaluation(model.step, metrics, headline):
        _log.info("%s", line)
    return metrics


def functions(space: LatentSpace, kind: str) -> dict[str, Callable[..., object]]:
    """Functions of the kind `measurement` or `figure` of the data types and of the config by name.

    Raises UserError for anything that is not a function.
    """
    chosen, member = space.config.evaluation, f"{kind}s"
    types = space.types.values() if chosen.measurements_of_types else ()
    names = [*(name for each in types for name in getattr(each, member)), *chosen[member]]
    found = {name: parts.get(kind, name) for name in names}
    for name, function in found.items():
        parts.require(callable(function), f"{kind} {name!r} must be a function, got {function!r}")
    return found


def prepare(space: LatentSpace, test: Examples) -> None:
    """Reads weights that measurements need, and logs which test samples are left out.

    Raises UserError for unreadable weights, and for a measurement or figure that is not a
    function.
    """
    for kind in ("measurement", "figure"):
        for function in functions(space, kind).values():
            if read := getattr(function, "prepare", None):
                read(space)
    for each in space.types.values():
        each.check(test, "test")


def _numbers(found: object) -> dict[str, float]:
    if not isinstance(found, Mapping):
        raise TypeError(f"it must return numbers by name, got {found!r}")
    return {metric: float(value) for metric, value in found.items()}


def readable_rows(model: TrainedModel, test: Examples) -> Int[np.ndarray, " k"]:
    """Rows of test examples with a readable sample of every data type."""
    rows = np.arange(len(test.labels))
    for each in model.space.types.values():
        rows = np.intersect1d(rows, each.readable(test))
    return rows
