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


# A process ends, whatever becomes of its test.
AT_MOST = "import faulthandler\nfaulthandler.dump_traceback_later(120, exit=True)\n"


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
def test_a_process_that_fails_says_why_and_the_other_ends():
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
        results = pair.finish(pair.start_code(AT_MOST + filled), timeout=120)
        assert time.monotonic() - started < 60
        found, _, errors = results[who]
        assert (found, errors.splitlines()[-1]) == (exit_code, text)
        assert results[1 - who][0] not in (0, 2, 3, 75)


@pytest.mark.parametrize("number", [signal.SIGTERM, *small.slow(signal.SIGINT)])
def test_two_processes_leave_at_the_same_step_and_one_ends_with_the_other(number):
    code = """
import time
from lzn_jax.run import devices, processes
interruption, step = processes.Interruption(), 0
interruption.listen()
with processes.together(**where), interruption.held():
    devices.everywhere(True)
    print("met", flush=True)
    while not processes.is_to_leave(interruption, step):
        step += 1
        time.sleep(0.02 * (1 + i))  # each at its own pace
        assert step < 5000
    print("step", step, flush=True)
    while devices.everywhere(True):
        pass
"""
    running = pair.start_code(AT_MOST + code)

    def said(process, word):
        """The next line that begins so, without the lines of JAX."""
        return next(line for line in iter(process.stdout.readline, "") if line.startswith(word))

    try:
        for process in running:
            said(process, "met")
        time.sleep(0.2)
        running[1].send_signal(number)
        one, other = (said(process, "step") for process in running)
        assert one == other != "step 0\n"
        running[1].kill()
        assert running[0].wait(timeout=60) not in (0, 2, 3, 75)
    finally:
        for process in running:
            process.kill()
            process.communicate()


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
# Forks for the code of each line, and says how that ended.
WARM = """
import faulthandler, hashlib, json, os, sys
from lzn_jax.run.processes import Interrupted, Interruption
for line in sys.stdin:
    if not (child := os.fork()):
        faulthandler.dump_traceback_later(20, exit=True)
        interruption = Interruption()
        interruption.listen()
        exec(json.loads(line))
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
    print("ended", file=sys.stderr, flush=True)
"""
READY = "print(os.getpid(), flush=True)"


@pytest.fixture(scope="module")
def warm():
    """The process of `WARM`, which imports once for all tests."""
    pipes = {name: subprocess.PIPE for name in ("stdin", "stdout", "stderr")}
    command = [sys.executable, "-W", "ignore", "-c", WARM]  # JAX warns of forks
    with subprocess.Popen(command, cwd=ROOT, text=True, **pipes) as process:
        yield process
        process.stdin.close()


def _start(warm, code):
    """The number of a process that runs the code, once it is ready."""
    print(json.dumps(code), file=warm.stdin, flush=True)
    child = int(warm.stdout.readline())
    time.sleep(0.1)
    return child


def _end(warm):
    return int(warm.stdout.readline()), "".join(iter(warm.stderr.readline, "ended\n"))


@pytest.mark.parametrize(
    ("code", "number", "expected"),
    [
        ("", signal.SIGINT, (130, "interrupted\n")),
        ("", signal.SIGTERM, (75, "")),
        ("interruption.exit_code = 75", signal.SIGINT, (75, "interrupted\n")),
    ],
)
def test_a_signal_ends_a_command_at_once_even_in_compiled_code(code, number, expected, warm):
    os.kill(_start(warm, f"{code}\n{READY}\n{BUSY}"), number)
    assert _end(warm) == expected


def test_what_is_held_is_asked_and_a_second_ctrl_c_ends_it_at_once(warm):
    process = _start(warm, f"with interruption.held():\n    {READY}\n    {BUSY}")
    os.kill(process, signal.SIGINT)
    assert warm.stderr.readline().startswith("saving before exit; press Ctrl-C again")
    os.kill(process, signal.SIGTERM)
    time.sleep(0.3)
    os.kill(process, signal.SIGINT)  # raises if it has ended
    assert _end(warm) == (130, "interrupted\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_what_is_held_sees_that_it_is_asked_or_is_raised_out_of(number, warm):
    process = _start(
        warm,
        f"""
with interruption.held():
    {READY}
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
""",
    )
    os.kill(process, number)
    assert warm.stdout.readline() == "early\n"
    assert warm.stdout.readline() == "again\n"
    os.kill(process, signal.SIGTERM)
    assert warm.stdout.readline() == "raised\n"
    assert _end(warm)[0] == 0
