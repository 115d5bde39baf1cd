"""Which measurements run, and for how long."""

import math
import time
import types

import numpy as np
import pytest
import small
from ml_collections import ConfigDict

from lzn_jax import parts
from lzn_jax.data import Examples
from lzn_jax.evaluation import measurements
from lzn_jax.latent_space import LatentSpace

NOTHING = Examples(np.zeros((0, 1, 1, 1), np.uint8), np.zeros(0, np.int32))


def by_names(monkeypatch, of_types=True):
    """A model with the measurements "type" and "own", and a clock; each takes three seconds."""
    clock = types.SimpleNamespace(now=0.0)

    def part(kind, name):
        def measure(model, train, test, workdir):
            clock.now += 3
            return {f"{name}_metric": clock.now}

        return measure

    values = small.config(evaluation__measurements_of_types=of_types).to_dict()
    values["evaluation"]["measurements"] = ("own",)
    config = ConfigDict(values)
    monkeypatch.setattr(parts, "get", part)
    monkeypatch.setattr(time, "perf_counter", lambda: clock.now)
    image = types.SimpleNamespace(measurements=("type",))
    space = object.__new__(LatentSpace)
    vars(space).update(types={"image": image}, config=config)
    return small.stand_in(config=config, space=space, translations=())


@pytest.mark.parametrize(
    ("seconds", "measured", "limit"),
    [(math.inf, "type own", ""), (4.0, "type own", "4"), (3.0, "type", "3"), (-7.0, "", "0")],
)
def test_no_measurement_starts_after_its_time(
    seconds, measured, limit, tmp_path, monkeypatch, caplog
):
    caplog.set_level("INFO", "lzn_jax")
    model = by_names(monkeypatch)
    metrics = measurements.evaluate(model, NOTHING, NOTHING, tmp_path, seconds)
    assert list(metrics) == ["test_examples", *(f"{name}_metric" for name in measured.split())]
    first, *others = caplog.messages
    end = f"; none starts after {limit} s" if limit else ""
    assert first == f"evaluating 0 test examples: type, own{end}"
    missing = ["type, own", "own", None][len(measured.split())]
    expected = [f"{name} took 3.0 s" for name in measured.split()]
    expected += [f"{missing}: no time is left, --mode=evaluate computes all"] if missing else []
    assert others == expected


def test_the_measurements_of_types_may_be_left_out(monkeypatch):
    model = by_names(monkeypatch, of_types=False)
    assert list(model.space.measurements) == ["own"]
