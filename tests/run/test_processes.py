"""Runs of two real processes: results, files and common end; what signals do to a command."""

import functools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pair
import pytest
import small

from lzn_jax import train
from lzn_jax.errors import UserError
from lzn_jax.latent_space import LatentSpace
from lzn_jax.run import devices, processes
from lzn_jax.run.checkpoints import Checkpoints

ROOT = Path(__file__).parents[2]
CONFIG = "configs/digits_gen.py"
CHANGES = {
    "training__batch_size": 16,
    "training__num_steps": 3,
    "decoder__dropout": 0.1,
    # Adam turns rounding into signs where gradients vanish, so parameters hardly move here; its
    # moments hold the gradients.
    "training__learning_rate__encoder": 1e-7,
    "training__learning_rate__decoder": 1e-7,
    "checkpoint__every_steps": 2,
    "evaluation__every_steps": 3,
}


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """A run of two processes of four devices each: its folder and what they said."""
    workdir = tmp_path_factory.mktemp("two")
    arguments = small.flags(CONFIG, workdir, **CHANGES)
    return workdir, pair.finish(pair.start_main(arguments, devices=4, LZN_COMMIT="abc"))


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """The same run in this process of eight devices."""
    os.chdir(ROOT)
    workdir = tmp_path_factory.mktemp("one")
    assert train.train_and_evaluate(small.config(CONFIG, **CHANGES), workdir) == 0
    return workdir


def _lines(workdir):
    lines = (Path(workdir) / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in small.TIMINGS} for line in lines]


def _state(workdir, num_devices):
    config = small.config(CONFIG, **CHANGES)
    mesh = devices.make_mesh(16, jax.devices()[:num_devices])
    space = LatentSpace(config, mesh)
    optimizer = train.make_optimizer(config.training, list(space.modules))
    shapes = jax.eval_shape(functools.partial(train.init_state, space, optimizer, 0))
    with Checkpoints(workdir, 2) as checkpoints:
        state = train.restore_state(checkpoints, devices.placed(shapes, mesh))
    return [np.asarray(leaf) for leaf in jax.tree.leaves(state)]


@pytest.mark.slow
def test_two_processes_give_the_answer_of_one(one, two):
    workdir, results = two
    assert [code for code, *_ in results] == [0, 0], results
    ours, theirs = _lines(one), _lines(workdir)
    assert [line.keys() for line in ours] == [line.keys() for line in theirs]
    # Not bitwise: between processes sums over devices are added up in another order.
    for a, b in zip(ours, theirs, strict=True):
        assert a == pytest.approx(b, rel=1e-5, abs=1e-6)
    for a, b in zip(_state(one, 8), _state(workdir, 8), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_a_checkpoint_of_two_processes_is_read_on_any_number_of_devices(two):
    for a, b in zip(_state(two[0], 1), _state(two[0], 4), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_one_of_two_processes_writes_and_speaks(one, two):
    workdir, ((_, _, first), (_, _, second)) = two

    def names(folder):
        return {
            p.relative_to(folder)
            for p in folder.rglob("*")
            if "checkpoints" not in p.parts and "tfevents" not in p.name
        }

    expected = names(one) | {Path(".lock")}  # of the command line
    assert names(workdir) == expected
    assert len(list((workdir / "tensorboard").iterdir())) == 1
    assert json.loads((workdir / "version.json").read_text())["commit"] == "abc"
    assert "training: 100%" in first
    assert second == ""


@pytest.mark.slow
def test_a_failure_of_one_process_ends_both_with_its_error():
    code = """
from lzn_jax import configuration
from lzn_jax.run import devices, processes
with processes.together(**where):
    devices.everywhere(True)
    if i == WHO:
        raise ERROR
    devices.everywhere(True)  # would wait for the other for ever
"""
    for who, error, exit_code, text in (
        (1, "ZeroDivisionError('lost')", 1, "ZeroDivisionError: lost"),
        (0, "configuration.UserError('lost')", 2, "error: lost"),
    ):
        filled = code.replace("WHO", str(who)).replace("ERROR", error)
        started = time.monotonic()
        results = pair.finish(pair.start_code(filled), timeout=120)
        assert time.monotonic() - started < 60
        for i, (found, _, errors) in enumerate(results):
            assert found == exit_code, errors
            assert text in errors
            assert (f"process {who} failed" in errors) == (i != who)


def test_when_one_process_is_killed_the_other_ends():
    code = """
from lzn_jax.run import devices, processes
with processes.together(**where):
    devices.everywhere(True)
    print(flush=True)
    while devices.everywhere(True):
        pass
"""
    running = pair.start_code(code)
    for process in running:
        process.stdout.readline()
    running[1].kill()
    started = time.monotonic()
    (code, *_), _ = pair.finish(running, timeout=120)
    assert time.monotonic() - started < 60
    assert code not in (0, 2, 3, 75)


@pytest.mark.parametrize("number", [signal.SIGTERM, *small.slow(signal.SIGINT)])
def test_a_signal_to_one_process_makes_both_leave_at_the_same_step(number):
    code = """
import time
from lzn_jax.run import devices, processes
from lzn_jax.run.processes import Interruption
interruption, step = Interruption(), 0
interruption.listen()
with processes.together(**where), interruption.held():
    devices.everywhere(True)
    print(flush=True)
    while not processes.is_to_leave(interruption, step):
        step += 1
        time.sleep(0.02 * (1 + i))  # each at its own pace
        assert step < 5000
    print(step)
"""
    running = pair.start_code(code)
    for process in running:
        process.stdout.readline()
    time.sleep(0.5)
    running[1].send_signal(number)
    (first, one, _), (second, other, _) = pair.finish(running, timeout=120)
    assert (first, second) == (0, 0)
    assert int(one) == int(other) > 0


@pytest.fixture
def met(monkeypatch):
    """What JAX is told about the other processes, in place of meeting them."""
    calls = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda *a, **k: calls.append((a, k)))
    monkeypatch.setattr(jax.distributed, "shutdown", lambda: None)
    return calls


SLURM, MPI = "SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE"
HOSTS, ADDRESSES, SKIP = "TPU_WORKER_HOSTNAMES", "TPU_PROCESS_ADDRESSES", "TPU_SKIP_MDS_QUERY"
ON_TPU = {"JAX_PLATFORMS": ""}
WITHOUT_METADATA = ON_TPU | {SKIP: "true"}


@pytest.mark.parametrize(
    ("environment", "is_met"),
    [
        ({}, False),
        ({"SLURM_NTASKS": "4", "SLURM_PROCID": "0"}, False),  # in a job, but not under srun
        ({SLURM: "1"}, False),
        ({SLURM: "4"}, True),
        ({MPI: "2"}, True),
        ({"JAX_PLATFORMS": "cpu"}, False),  # on a TPU, but without it
        (ON_TPU, True),  # JAX asks its metadata
        (WITHOUT_METADATA, False),  # as on notebooks' hosts, and where JAX finds no TPU
        (WITHOUT_METADATA | {HOSTS: "localhost"}, False),
        (WITHOUT_METADATA | {HOSTS: "a-0.b,a-1.b"}, True),
        (WITHOUT_METADATA | {ADDRESSES: "a:8471,b:8471"}, True),
        (WITHOUT_METADATA | {ADDRESSES: "a:8471", HOSTS: "a,b"}, False),
    ],
)
def test_clusters_are_found_by_their_variables(environment, is_met, met, monkeypatch):
    is_tpu = "JAX_PLATFORMS" in environment
    monkeypatch.setattr(processes, "find_spec", lambda name: object() if is_tpu else None)
    for name in (SLURM, MPI, HOSTS, ADDRESSES, SKIP):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with processes.together():
        assert [arguments for arguments, _ in met] == [(None, None, None)] * is_met


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("host:1", 2, None), "go together"),
        ((None, 2, 0), "go together"),
        (("host:1", 2, 2), "must be 0 to 1, got 2"),
        (("host:1", 2, -1), "must be 0 to 1, got -1"),
    ],
)
def test_arguments_that_fit_no_run_are_the_users_error(arguments, text, met):
    with pytest.raises(UserError, match=text), processes.together(*arguments):
        pass
    assert not met


# Compiled code, during which no handler of Python runs, for an hour.
BUSY = "hashlib.pbkdf2_hmac('sha256', b'', b'', 10**9)"
LISTEN = """
import faulthandler, hashlib
faulthandler.dump_traceback_later(20, exit=True)
from lzn_jax.run.processes import Interrupted, Interruption
interruption = Interruption()
interruption.listen()
"""


def _start(code):
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen([sys.executable, "-c", f"{LISTEN}{code}"], cwd=ROOT, **pipes)
    assert process.stdout.readline() == "ready\n", process.stderr.read()
    time.sleep(0.1)
    return process


def _end(process):
    try:
        _, errors = process.communicate(timeout=20)
    finally:
        process.kill()
    return process.returncode, errors


@pytest.mark.parametrize(
    ("code", "number", "expected"),
    [
        ("", signal.SIGINT, (130, "interrupted\n")),
        ("", signal.SIGTERM, (75, "")),
        ("interruption.exit_code = 75", signal.SIGINT, (75, "interrupted\n")),
    ],
)
def test_a_signal_ends_a_command_at_once_even_in_compiled_code(code, number, expected):
    process = _start(f"{code}\nprint('ready', flush=True)\n{BUSY}")
    process.send_signal(number)
    assert _end(process) == expected


def test_what_is_held_is_asked_and_a_second_ctrl_c_ends_it_at_once():
    process = _start(f"with interruption.held():\n    print('ready', flush=True)\n    {BUSY}")
    process.send_signal(signal.SIGINT)
    assert process.stderr.readline().startswith("saving before exit; press Ctrl-C again")
    process.send_signal(signal.SIGTERM)
    time.sleep(0.3)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert _end(process) == (130, "interrupted\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_what_is_held_sees_that_it_is_asked_or_is_raised_out_of(number):
    process = _start(
        """
with interruption.held():
    print('ready', flush=True)
    while not interruption.is_asked:
        pass
    try:
        with interruption.at_once():
            pass
    except Interrupted:
        print('early', flush=True)
    interruption.is_asked = False
    try:
        with interruption.at_once():
            print('again', flush=True)
            while True:
                pass
    except Interrupted:
        print('raised', flush=True)
"""
    )
    process.send_signal(number)
    assert process.stdout.readline() == "early\n"
    assert process.stdout.readline() == "again\n"
    process.send_signal(signal.SIGTERM)
    assert process.stdout.readline() == "raised\n"
    assert _end(process)[0] == 0
