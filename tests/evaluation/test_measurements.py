"""Which measurements and figures run, for how long, and how they fail."""

import errno
import math
import time
import types

import numpy as np
import pytest
import small
from ml_collections import ConfigDict

from lzn_jax import parts
from lzn_jax.data import Examples
from lzn_jax.errors import UserError
from lzn_jax.evaluation import measurements
from lzn_jax.latent_space import LatentSpace

NOTHING = Examples(np.zeros((0, 1, 1, 1), np.uint8), np.zeros(0, np.int32))


def by_names(monkeypatch, of_types=True):
    """A model with measurements and figures "type" and "own"; each takes three seconds."""
    clock = types.SimpleNamespace(now=0.0)

    def part(kind, name):
        def measure(model, train, test, workdir):
            clock.now += 3
            return {f"{name}_metric": clock.now}

        def draw(model, test, folder):
            clock.now += 3
            (folder / f"{name}.png").touch()
            return "nothing that is used"

        return {"measurement": measure, "figure": draw}[kind]

    values = small.config(evaluation__measurements_of_types=of_types).to_dict()
    values["evaluation"] |= {"measurements": ("own",), "figures": ("own",)}
    config = ConfigDict(values)
    monkeypatch.setattr(parts, "get", part)
    monkeypatch.setattr(time, "perf_counter", lambda: clock.now)
    image = types.SimpleNamespace(measurements=("type",), figures=("type",))
    space = object.__new__(LatentSpace)
    vars(space).update(types={"image": image}, config=config)
    return small.stand_in(config=config, space=space, translations=(), step=7)


def use(monkeypatch, **functions):
    """These functions by kind and name are all that a space measures and draws."""
    monkeypatch.setattr(measurements, "functions", lambda space, kind: functions.get(kind, {}))


@pytest.mark.parametrize(
    ("seconds", "count", "limit"),
    [
        (math.inf, 4, ""),
        (10.0, 4, "10"),
        (9.0, 3, "9"),
        (4.0, 2, "4"),
        (3.0, 1, "3"),
        (-7.0, 0, "0"),
    ],
)
def test_nothing_starts_after_its_time(seconds, count, limit, tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO", "lzn_jax")
    model = by_names(monkeypatch)
    metrics = measurements.evaluate(model, NOTHING, NOTHING, tmp_path, seconds)
    names = ["type", "own", "type", "own"]  # measurements, then figures
    expected = ["test_examples", "type_metric", "own_metric"][: 1 + count]
    assert list(metrics) == expected
    drawn = {path.stem for path in (tmp_path / "figures").iterdir()}
    assert drawn == set(names[2:count])
    first, *others = [message for message in caplog.messages if "metric" not in message]
    end = f"; none starts after {limit} s" if limit else ""
    assert first == f"evaluating 0 test examples: {', '.join(names)}{end}"
    expected = [f"{name} took 3.0 s" for name in names[:count]]
    missing = ", ".join(names[count:])
    expected += [f"{missing}: no time is left, --mode=evaluate computes all"] if missing else []
    assert others == expected


def test_the_headline_is_what_own_measurements_name_then_what_ships(tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO", "lzn_jax")
    model = by_names(monkeypatch)
    numbers = {
        "shipped": {"fid": 1.0, "kid": 2.0, "test_accuracy": 3.0},
        "named": {"a_mae": 4.0, "b": 5.0, "c": 6.0},
        "unnamed": dict.fromkeys("defghi", 7.0),
    }
    functions = {name: lambda *_, found=found: found for name, found in numbers.items()}
    functions["shipped"].__module__ = "lzn_jax.evaluation.samples"
    functions["named"].headline = ("c", "b", "absent")
    functions["named"].__module__ = "lzn_jax_of_others"
    use(monkeypatch, measurement=functions)
    metrics = measurements.evaluate(model, NOTHING, NOTHING, tmp_path)
    names = ["b", "c", "d", "e", "f", "g", "h", "test_accuracy", "fid"]
    first, *lines = caplog.messages[4:]
    assert first == "step 7 on 0 test examples, 9 of 13 metrics (all: summary.json):"
    assert lines == [f"  {name:<13}  {metrics[name]:.4g}" for name in names]


def test_no_command_is_named_that_has_not_the_examples_of_the_run(tmp_path, monkeypatch, caplog):
    caplog.set_level("WARNING", "lzn_jax")
    model = by_names(monkeypatch)
    model.config.data.update(name="arrays")
    measurements.evaluate(model, NOTHING, NOTHING, tmp_path, -1.0)
    assert caplog.messages[-1] == "type, own, type, own: no time is left"


def test_what_types_measure_and_draw_may_be_left_out(monkeypatch):
    space = by_names(monkeypatch, of_types=False).space
    for kind in ("measurement", "figure"):
        assert list(measurements.functions(space, kind)) == ["own"]


def broken(*arguments):
    return {"metric": np.linalg.inv(np.zeros((2, 2)))}  # raised by a line of NumPy


def test_what_fails_is_one_line_with_its_name_and_place(tmp_path, monkeypatch):
    model = by_names(monkeypatch)
    line = broken.__code__.co_firstlineno + 1
    for kind, function, message in (
        ("figure", broken, rf"^figure 'a' failed at {__file__}, line {line}: LinAlgError"),
        ("measurement", broken, rf"^measurement 'a' failed at {__file__}, line {line}: LinAlg"),
        ("measurement", lambda *_: {"metric": "b"}, "^measurement 'a' failed at .*ValueError"),
        (
            *("measurement", lambda *_: 3),
            rf"^measurement 'a' failed at {__file__}, .*: it must return numbers by name, got 3$",
        ),
    ):
        monkeypatch.setattr(parts, "PARTS", {(kind, "a"): parts.Part(function, {}, None, __file__)})
        use(monkeypatch, **{kind: {"a": function}})
        with pytest.raises(UserError, match=message):
            measurements.evaluate(model, NOTHING, NOTHING, tmp_path)


def test_a_full_disk_is_that_of_the_work_folder(tmp_path, monkeypatch):
    def draw(model, test, folder):
        raise OSError(errno.ENOSPC, "full", str(folder / "a.png"))

    model = by_names(monkeypatch)
    use(monkeypatch, figure={"a": draw})
    with pytest.raises(UserError, match=f"^the work folder {tmp_path} cannot be written"):
        measurements.evaluate(model, NOTHING, NOTHING, tmp_path)


@pytest.mark.parametrize("kind", ["measurement", "figure"])
def test_what_is_no_function_is_found_before_training(kind, monkeypatch):
    space = by_names(monkeypatch).space
    monkeypatch.setattr(parts, "get", lambda each, name: 3 if each == kind else print)
    with pytest.raises(UserError, match=f"^{kind} 'type' must be a function, got 3$"):
        measurements.prepare(space, NOTHING)
