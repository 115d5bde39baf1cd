"""What the compiler of TPUs makes of the package, for a slice of eight chips and for one.

It shows that programs exist there, their memory and collectives. It does not show time, numbers on
the chip, or the start of many hosts.
"""

import importlib.util
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

if importlib.util.find_spec("libtpu") is None:
    pytest.skip("no compiler for TPUs: pip install -e '.[tpu]'", allow_module_level=True)

REDUCTIONS = ("all-reduce", "reduce-scatter")


@pytest.fixture(scope="module")
def programs():
    """Facts by program and number of chips."""
    # Optimised, and without the fake devices of the other tests.
    off = ("JAX_DISABLE_MOST_OPTIMIZATIONS", "XLA_FLAGS", "JAX_COMPILATION_CACHE_DIR")
    environment = {name: value for name, value in os.environ.items() if name not in off}
    run = subprocess.run(
        [sys.executable, Path(__file__).with_name("tpu_programs.py")],
        cwd=Path(__file__).parents[1],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    found = [json.loads(line) for line in run.stdout.splitlines()]
    return {(facts["program"], facts["chips"]): facts for facts in found}


def _collectives(facts):
    assert all(where == "outside loops" for where, _, _ in facts["collectives"])
    return Counter({kind: count for _, kind, count in facts["collectives"]})


@pytest.mark.parametrize("kind", ["euler", "adams"])
def test_latents_and_alignment_exchange_anchors_and_gradients_once(programs, kind):
    found = _collectives(programs[f"zoning {kind}", 8])
    assert found["all-gather"] == 2
    assert 1 <= sum(found[kind] for kind in REDUCTIONS) <= 3
    assert set(found) <= {"all-gather", *REDUCTIONS}


@pytest.mark.parametrize(
    ("kind", "chips", "megabytes"), [("euler", 8, 80), ("adams", 8, 80), ("euler", 1, 250)]
)
def test_latents_and_alignment_of_8192_anchors_fit(programs, kind, chips, megabytes):
    assert 0 < programs[f"zoning {kind}", chips]["temporaries"] <= 1e6 * megabytes


@pytest.mark.parametrize("function", ["latents_in_context", "decode"])
def test_a_way_along_the_flow_gathers_the_anchors_and_no_more(programs, function):
    assert _collectives(programs[function, 8]) == {"all-gather": 1}


def test_classes_gather_the_anchors_and_no_more(programs):
    # For the flow, and for its end points.
    assert _collectives(programs["classify", 8]).keys() == {"all-gather"}


# Both views; images, whose label anchors all devices hold; images; images and texts.
@pytest.mark.parametrize(
    ("study", "gathers"),
    [("representation", 2), ("joint", 1), ("generation", 1), ("text", 2)],
)
def test_a_step_of_a_study_gathers_each_set_of_anchors_once(programs, study, gathers):
    found = _collectives(programs[study, 8])
    assert found["all-gather"] == gathers
    assert set(found) <= {"all-gather", *REDUCTIONS}


def test_a_step_of_generation_alone_gathers_anchors_and_what_the_energy_distance_compares(programs):
    found = _collectives(programs["alone", 8])
    # Anchors once; images and patches, made and real, and their squares.
    assert found["all-gather"] <= 8
    assert set(found) <= {"all-gather", "collective-permute", *REDUCTIONS}


def test_the_clock_counts_each_iteration_of_a_loop(programs):
    seven, more = (programs[f"{count} products", 1] for count in (7, 21))
    assert more["products"] == 3 * seven["products"] > 0
    # At the peak of 2 · 4 · 128² operations a cycle.
    at_least = 7 * 2 * 8192 * 256 * 256 / (2 * 4 * 128**2)
    assert at_least <= seven["products"] <= seven["cycles"] < 3 * at_least


def test_every_step_has_an_estimate_and_none_calls_the_host(programs):
    assert all(facts["cycles"] > 0 for facts in programs.values())
    assert [name for name, facts in programs.items() if facts["calls the host"]] == []
