"""Traces of updates: when they run, and that zoning has a name in them."""

import functools
import json
import re

import jax
import pytest
import small

from lzn_jax import main
from lzn_jax.run import costs
from lzn_jax.train import Profile


@pytest.mark.parametrize(
    ("steps", "first", "last", "expected"),
    [
        ("2:4", 0, 6, ["start before 2", "stop before 4"]),
        ("2:4", 3, 6, ["start before 3", "stop before 4"]),  # resumed in between
        ("2:4", 0, 3, ["start before 2", "stop before 3"]),  # ended in between
        ("2:4", 5, 6, []),
        (None, 0, 6, []),
    ],
)
def test_a_trace_has_the_updates_that_are_named(
    steps, first, last, expected, tmp_path, monkeypatch
):
    found, waited, step = [], [], first
    for name in ("start", "stop"):
        monkeypatch.setattr(
            jax.profiler,
            f"{name}_trace",
            lambda *_, name=name: found.append(f"{name} before {step}"),
        )
    with Profile(steps, tmp_path) as profile:
        while step < last:
            profile.before(step, functools.partial(waited.append, step))
            step += 1
    assert found == expected
    assert waited == [int(each.split()[-1]) for each in expected if each != "stop before 3"]


def test_a_run_writes_its_mfu_and_a_trace_in_which_zoning_has_its_name(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(costs, "chip", lambda kind: costs.Chip(1e9, 1e9))
    changes = {"training__num_steps": 3, "reporting__profile_steps": "1:2"}
    changes |= {"training__batch_size": 16, "training__devices": "all"}
    assert main.main(small.flags("configs/digits_repr.py", tmp_path / "run", **changes)) == 0
    (trace,) = (tmp_path / "run" / "profile").rglob("*.xplane.pb")
    assert b"zoning" in trace.read_bytes()
    log = capsys.readouterr().err
    operations = float(re.search(r"a step takes (\S+) operations", log)[1])
    devices = int(re.search(r"^(\d+) device\(s\)", log, re.MULTILINE)[1])
    assert devices > 1
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    expected = summary["steps_per_second"] * operations / (1e9 * devices)
    assert summary["mfu"] == pytest.approx(expected, rel=0.01)
