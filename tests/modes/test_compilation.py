"""--mode=compile: what it says of a step, on fake devices of the CPU in a slice's place."""

import importlib.util
import types
from collections import Counter

import jax
import numpy as np
import pytest
import small

from lzn_jax import errors, main
from lzn_jax.data import load_data
from lzn_jax.data.batches import TrainingBatches
from lzn_jax.latent_space import LatentSpace
from lzn_jax.modes import compile as compile_module
from lzn_jax.run import compiled_time, costs, devices

# Two loops, one inside the other's computations; operands and calls as XLA prints them.
PROGRAM = """HloModule jit_step, entry_computation_layout={()->f32[]}

%add.1 (a: f32[], b: f32[]) -> f32[] {
  ROOT %sum = f32[] add(%a, %b)
}

%fused.2 (p: f32[8]) -> f32[8] {
  ROOT %inner = f32[8] all-reduce(%p), to_apply=%add.1
}

%called.7 (p: f32[8]) -> f32[8] {
  ROOT %reduced = f32[8] fusion(%p), kind=kCustom, calls=%fused.2
}

%body.3 (state: f32[8]) -> f32[8] {
  %reduced = f32[8] call(%state), to_apply=%called.7
  ROOT %permuted = f32[8] collective-permute(%reduced)
}

%condition.4 (state: f32[8]) -> pred[] {
  ROOT %less = pred[] compare(%state, %state)
}

%all-reduce-scatter.5 (p: f32[8]) -> f32[1] {
  %whole = f32[8] all-reduce(%p), to_apply=%add.1
  ROOT %own = f32[1] dynamic-slice(%whole)
}

ENTRY %main.6 (p: f32[1]) -> f32[] {
  %gathered = f32[8] all-gather(%p)
  %again = (f32[8], f32[8]) all-gather-start(%p)
  %loop = f32[8] while(%gathered), condition=%condition.4, body=%body.3
  %part = f32[1] fusion(%loop), kind=kCustom, calls=%all-reduce-scatter.5
  ROOT %name = f32[] all-gather-done(%again), metadata={op_name="all-reduce"}
}
"""


def test_collectives_are_counted_by_kind_inside_and_outside_of_loops():
    assert compiled_time.collectives(compiled_time.parse(PROGRAM)) == {
        ("outside loops", "all-gather"): 2,
        ("outside loops", "reduce-scatter"): 1,
        ("in loops", "all-reduce"): 1,
        ("in loops", "collective-permute"): 1,
    }


def test_the_estimate_is_printed_by_part_and_kind(capsys):
    seconds = {("encoder", "products"): 4e-7, ("encoder", "copies"): 1e-7}
    seconds |= {("zoning", "products"): 5e-7}
    estimate = compiled_time.Estimate(seconds, 1500, 2, Counter({"sort": 3}), 2e-8)
    assert compile_module._report_clock(estimate, 0.25e-6) == pytest.approx(1e-6)
    assert capsys.readouterr().out.splitlines() == [
        "seconds per update, compiler's estimate: 1e-06, 0.0015 million cycles, 25.0% of the "
        "bfloat16 peak",
        "estimate, all: 1e-06 s, 100.0%: products 90%, copies 10%",
        "estimate, encoder: 5e-07 s, 50.0%: products 80%, copies 20%",
        "estimate, zoning: 5e-07 s, 50.0%: products 100%",
        "without an estimate: 3 sort, 2e-08 s by their bytes; 2 loops counted once",
    ]
    compile_module._report_clock(compiled_time.Estimate(seconds, None, 0, Counter(), 0.0), 0.25e-6)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == (
        "seconds per update, lower bound: 1e-06, each fusion at the chip's peak or at its "
        "bandwidth, 25.0% of the bfloat16 peak"
    )
    assert lines[-1] == "without an estimate: nothing; 0 loops counted once"


@pytest.mark.skipif(
    "jax_exec_time_optimization_effort" not in jax.config.values, reason="JAX 0.12 lacks this"
)
def test_there_is_no_estimate_at_low_effort(capsys):
    estimate = compiled_time.Estimate({("encoder", "products"): 1e-6}, 1500, 0, Counter(), 0.0)
    jax.config.update("jax_exec_time_optimization_effort", -1.0)
    try:
        assert compile_module._report_clock(estimate, 0.25e-6) is None
    finally:
        jax.config.update("jax_exec_time_optimization_effort", 0.0)
    line = "seconds per update, compiler's estimate: none at low effort, where products take up to"
    assert capsys.readouterr().out == f"{line} ten times as long\n"


@pytest.fixture
def fake_slice(monkeypatch):
    """Devices of the CPU with so much memory in a slice's place."""

    def use(memory):
        target = compile_module.CompileTarget("v5e:2x2", jax.devices()[:4], "cpu", memory, {}, 2)
        monkeypatch.setattr(compile_module, "find", lambda name: target)

    return use


def _stand_in(kind, name, function):
    """An object of a kind of JAX's with one function of ours."""
    members = {"__init__": lambda self: None, name: lambda self, *_: function()}
    return type("StandIn", (kind,), members)()


def _out_of_memory(*_):
    raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Used 99G of\n 15.75G hbm.")


def _compile(config="configs/digits_repr.py", **changes):
    changes = {"training__batch_size": 8, "training__devices": "all"} | changes
    arguments = small.flags(config, "unused", **changes)
    return main.main([*arguments, "--mode=compile", "--slice=v5e:2x2"])


def test_a_step_that_fits_is_reported_line_by_line(fake_slice, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("pathlib.Path.mkdir", lambda *_, **__: pytest.fail("a folder was made"))
    fake_slice(1e9)
    assert _compile() == 0
    facts = dict(line.split(": ", 1) for line in capsys.readouterr().out.splitlines())
    assert facts["slice"] == "v5e:2x2, 4 of 4 cpu, 1.0 GB each"
    assert facts["batch"] == "8 images"
    assert float(facts["operations"].split()[0]) > 1e6
    assert facts["fits"] == "yes"
    parts = [
        float(facts[f"memory per chip, {part}"].removesuffix(" GB"))
        for part in ("state and batch", "temporaries", "results not aliased")
    ]
    needed, there = facts["memory per chip"].removesuffix(" GB").split(" of ")
    assert sum(parts) == pytest.approx(float(needed), rel=0.01)
    assert float(there) == 1.0


@pytest.mark.parametrize(("cycles", "expected"), [(1500, "8 for 2"), (None, "at most 8 for 2")])
def test_a_host_must_supply_the_images_of_its_chips(
    cycles, expected, fake_slice, capsys, monkeypatch
):
    """Two hosts of two chips process 8 images in half a second."""
    fake_slice(1e9)
    compiled = types.SimpleNamespace(as_text=lambda: "")
    step = _stand_in(jax.stages.Lowered, "compile", lambda: compiled), costs.Cost(2000.0, 50.0)
    monkeypatch.setattr(compile_module, "lower_step", lambda *_: step)
    monkeypatch.setattr(costs, "chip", lambda kind: costs.Chip(100.0, 1.0))
    estimate = compiled_time.Estimate({("encoder", "products"): 0.5}, cycles, 0, Counter(), 0.0)
    monkeypatch.setattr(compile_module, "_report_memory", lambda *_: True)
    monkeypatch.setattr(compiled_time, "parse", lambda text: {})
    monkeypatch.setattr(compiled_time, "collectives", lambda program: {})
    monkeypatch.setattr(compiled_time, "estimate", lambda program, chip: estimate)
    assert _compile() == 0
    line = f"images per second that each host must supply: {expected} chips"
    assert line in capsys.readouterr().out.splitlines()
    changes = {"training__batch_size": 8, "training__devices": "all"}
    config = small.config("configs/digits_repr.py", **changes)
    verdict = compile_module.compile_step(config, compile_module.find("v5e:2x2"))
    assert verdict == (True, 8.0, "at most " if cycles is None else "")


@pytest.mark.parametrize("kind_is_known", [True, False])
def test_operations_time_and_cost_of_a_run(kind_is_known, fake_slice, capsys, monkeypatch):
    fake_slice(1e9)
    lowered = _stand_in(jax.stages.Lowered, "compile", _out_of_memory)
    step = lowered, costs.Cost(2000.0, 50.0)
    monkeypatch.setattr(compile_module, "lower_step", lambda *_: step)
    chip = costs.Chip(100.0, 1.0) if kind_is_known else None
    monkeypatch.setattr(costs, "chip", lambda kind: chip)
    assert _compile(training__num_steps=3600) == 4
    lines = capsys.readouterr().out.splitlines()
    assert "operations: 2e+03 per update, 2.5 % in zoning" in lines
    times = [line for line in lines if line.startswith(("seconds", "chip hours"))]
    expected = [
        "seconds per update: 5 at the bfloat16 peak",
        "chip hours: 20 at the bfloat16 peak for 3,600 updates without evaluation",
    ]
    assert times == (expected if kind_is_known else [])
    # What the compiler says of the memory that it needs.
    assert lines[-3] == "memory per chip: RESOURCE_EXHAUSTED: Used 99G of 15.75G hbm."
    assert lines[-1] == "fits: no"


@pytest.mark.parametrize(("there", "fits"), [(13e9, True), (12.9e9, False)])
def test_results_in_the_place_of_the_state_take_no_memory_of_their_own(there, fits, capsys):
    sizes = {"argument": 10e9, "temp": 2e9, "output": 11e9, "alias": 10e9}
    analysis = types.SimpleNamespace(**{f"{k}_size_in_bytes": v for k, v in sizes.items()})
    step = _stand_in(jax.stages.Compiled, "memory_analysis", lambda: analysis)
    assert compile_module._report_memory(step, there) == fits
    assert f"memory per chip: 13 of {there / 1e9:.1f} GB" in capsys.readouterr().out


def test_a_step_that_does_not_fit_ends_with_code_4(fake_slice, capsys, monkeypatch):
    fake_slice(1e3)
    compiled = _stand_in(jax.stages.Compiled, "as_text", lambda: PROGRAM)
    lowered = _stand_in(jax.stages.Lowered, "compile", lambda: compiled)
    monkeypatch.setattr(compile_module, "lower_step", lambda *_: (lowered, costs.Cost(1.0, 1.0)))
    monkeypatch.setattr(compile_module, "_report_memory", lambda *_: False)
    assert _compile() == 4
    assert capsys.readouterr().out.splitlines()[-1] == "fits: no"


def test_batches_that_leave_devices_of_the_slice_idle_are_refused(fake_slice, capsys):
    fake_slice(1e9)
    assert _compile(training__batch_size=6) == 2
    assert "would leave 2 of 4 devices idle" in capsys.readouterr().err


@pytest.mark.parametrize("config", ["configs/digits_joint.py", "configs/digits_repr.py"])
def test_shapes_of_a_batch_are_those_of_the_data(config):
    config = small.config(config)
    space = LatentSpace(config, devices.make_mesh(1))
    train, _ = load_data(config)
    with TrainingBatches(train, config.training.batch_size, 0, space.transform) as batches:
        assert compile_module.batch_shapes(space) == batches.shapes()
        batch = next(batches)
    assert {k: (v.shape, v.dtype) for k, v in batch.items()} == {
        k: (v.shape, np.dtype(v.dtype)) for k, v in batches.shapes().items()
    }


@pytest.mark.parametrize(
    ("name", "missing", "message"),
    [
        ("v5e", "none", "must name a slice like v5e:4x4"),
        ("v5e:4by4", "none", "must name a slice like"),
        ("h100:0", "none", "must name a slice like"),
        ("tpu:2x2", "none", "must name a slice like"),
        ("v5e:2x2", "libtpu", r"compiler for TPUs is not installed: pip install -e '.\[tpu\]'"),
        ("h100:1", "jax_cuda", r"compiler for GPUs is not .* -e '.\[gpu\]'"),
    ],
)
def test_slices_that_cannot_be_found_are_the_users_error(name, missing, message, monkeypatch):
    there = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name: None if name.startswith(missing) else there(name),
    )
    with pytest.raises(errors.UserError, match=message):
        compile_module.find(name)


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--mode=compile", "--mode=compile needs --slice=NAME"),
        ("--slice=v5e:2x2", "--slice goes with --mode=compile or --mode=check_data"),
    ],
)
def test_a_slice_and_its_modes_go_together(flag, message, capsys):
    assert main.main(["--config=configs/digits_repr.py", flag]) == 2
    assert message in capsys.readouterr().err
