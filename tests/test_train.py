"""The training loop: updates, guards, placement, interruption."""

import contextlib
import functools
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import small
from one_weight import OneNumber, OneWeight, put_in

from lzn_jax import main as command_line
from lzn_jax import train
from lzn_jax.data.batches import TrainingBatches
from lzn_jax.run import costs, devices, log, processes
from lzn_jax.run.checkpoints import Checkpoints
from lzn_jax.run.processes import Interruption

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module", autouse=True)
def one_weight():
    """Runs of this file train OneWeight and draw nothing."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        small.without_pictures(patch)
        put_in(patch.setattr)
        yield


@functools.cache
def _one_weight(seed=0, **changes):
    training = small.config(training__warmup_steps=0, **changes).training
    space = OneWeight()
    optimizer = train.make_optimizer(training, ["decoder"])
    update = functools.partial(
        train.update_state, space=space, optimizer=optimizer, training=training, seed=seed
    )
    return jax.jit(update), train.init_state(space, optimizer, seed)


def _batch(x, poison=0.0):
    return {"x": jnp.float32(x), "poison": jnp.float32(poison)}


def _w(tree):
    return float(tree["decoder"]["w"])


def test_update_is_adam_on_the_clipped_gradient_with_ema_until_the_decoder_stops():
    changes = {"training__learning_rate__decoder": 0.1, "training__schedule": "constant"}
    update, state = _one_weight(**changes, training__decoder_steps=1)
    new, metrics = update(state, _batch(1.0))
    assert metrics["gradient_norm"] == pytest.approx(4.0)
    # Adam's first step is the learning rate against the gradient's sign.
    assert _w(new.params) == pytest.approx(2.9, abs=1e-5)
    # EMA moves by 1 - min(0.99, 2/11).
    assert _w(new.ema) == pytest.approx(3 - 0.1 * (1 - 2 / 11), abs=1e-5)
    second, _ = update(new, _batch(1.0))
    assert int(second.step) == 2
    assert (_w(second.params), _w(second.ema)) == (_w(new.params), _w(new.ema))


@pytest.mark.parametrize(
    "batch", [_batch(np.nan), _batch(np.inf), _batch(1.0, poison=1.0)], ids=["nan", "inf", "grad"]
)
def test_a_non_finite_loss_or_gradient_changes_nothing_and_is_counted(batch):
    update, state = _one_weight()
    state, _ = update(state, _batch(1.0))
    new, metrics = update(state, batch)
    assert not np.isfinite(metrics["gradient_norm"])
    counters = {"step": 0, "skipped": 0, "skipped_in_a_row": 0}
    old, kept = state.replace(**counters), new.replace(**counters)
    jax.tree.map(np.testing.assert_array_equal, kept, old)
    assert (int(new.step), int(new.skipped), int(new.skipped_in_a_row)) == (2, 1, 1)
    after, _ = update(new, _batch(1.0))
    assert (int(after.skipped), int(after.skipped_in_a_row)) == (1, 0)
    assert _w(after.params) != _w(new.params)


def test_every_step_and_seed_draws_its_own_numbers_whatever_came_before():
    def draws(seed, x):
        update, state = _one_weight(seed)
        seen = []
        for _ in range(3):
            state, metrics = update(state, _batch(x))
            seen.append(float(metrics["draw"]))
        return seen

    assert draws(0, 1.0) == draws(0, np.nan)  # a skipped update is a step as well
    assert len({*draws(0, 1.0), *draws(1, 1.0)}) == 6


@pytest.mark.slow
def test_eight_devices_give_the_answer_of_one(monkeypatch):
    monkeypatch.setattr(devices, "MIN_SHARDED", 16)
    worlds = [small.World("digits_joint", count, decoder__dropout=0.5) for count in (1, 8)]
    config, batch = worlds[0].config, worlds[0].batch
    # Plain gradient descent: Adam would turn rounding noise of tiny gradients into signs.
    optimizer = optax.sgd(0.1)
    init = functools.partial(train.init_state, worlds[0].space, optimizer, 0)
    state = jax.device_get(jax.jit(init)())
    state = state.replace(params=jax.device_get(small.shaken(state.params, 0.1)))
    results, sizes = [], []
    for world, shard in zip((worlds[0], worlds[1], worlds[1]), (False, False, True), strict=True):
        placed = devices.placed(state, world.mesh, shard=shard)
        update = train.jit_update(world.space, optimizer, config, world.mesh, placed)
        with jax.set_mesh(world.mesh):
            new = update(state, jax.device_get(batch))
        results.append(jax.device_get(new))
        sizes.append(sum(a.addressable_data(0).nbytes for a in jax.tree.leaves(new[0].params)))
    (one, one_metrics), *others = results
    for other, metrics in others:
        for name, value in one_metrics.items():
            assert metrics[name] == pytest.approx(value, rel=1e-5, abs=1e-6), name
        close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)
        jax.tree.map(close, one.params, other.params)
    assert [world.mesh.size for world in worlds] == [1, 8]
    assert sizes[1] == sizes[0]
    assert sizes[2] < 0.5 * sizes[0]  # arrays whose axes 8 does not divide stay whole


def test_nothing_is_compiled_after_the_first_update_on_eight_devices(tmp_path, monkeypatch):
    compiled, seen = [0], []

    def count(name, *_, **__):
        compiled[0] += name == "/jax/core/compile/backend_compile_duration"

    jax.monitoring.register_event_duration_secs_listener(count)
    _after_each_update(monkeypatch, lambda step: seen.append(compiled[0]))
    never = {"evaluation__every_steps": 100, "checkpoint__every_steps": 100}
    never |= {"training__batch_size": 16, "training__devices": "all"}
    config = small.config(training__num_steps=5, training__schedule="constant", **never)
    assert train.train_and_evaluate(config, tmp_path) == 0
    assert seen[0] > 0
    assert seen[1:] == [seen[1]] * 4
    peak = config.training.learning_rate.decoder
    found = [line["learning_rate_decoder"] for line in _lines(tmp_path) if "loss" in line]
    assert found == pytest.approx([peak / 2, 0.75 * peak, peak, peak, peak])  # W = 2


def _after_each_update(monkeypatch, action):
    put = log.LateMetrics.put

    def put_and_act(self, step, metrics):
        put(self, step, metrics)
        action(step)

    monkeypatch.setattr(log.LateMetrics, "put", put_and_act)


@pytest.mark.slow
def test_a_trace_has_the_updates_that_are_named(tmp_path, monkeypatch):
    done, found = [0], []
    _after_each_update(monkeypatch, lambda step: done.append(step))

    @contextlib.contextmanager
    def trace(folder):
        found.append(done[-1])
        yield
        found.append(done[-1])

    monkeypatch.setattr(jax.profiler, "trace", trace)
    for num_steps, steps, expected in (
        (3, "1:2", [1, 2]),
        (5, "4:7", [4, 5]),  # the run ends in between
        (8, "3:7", [5, 7]),  # it resumes in between
        (9, "2:4", []),
        (10, None, []),
    ):
        changes = {"training__num_steps": num_steps, "reporting__profile_steps": steps}
        train.train_and_evaluate(small.config(**changes), tmp_path)
        assert found == expected
        found.clear()


def test_a_run_says_that_it_waits_for_data_and_only_then(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(log, "CHECKED_EVERY", 2)
    read, wait = TrainingBatches.__next__, {"data": 0.0, "step": 0.3}
    slow = lambda self: time.sleep(wait["data"]) or read(self)  # noqa: E731
    monkeypatch.setattr(TrainingBatches, "__next__", slow)
    _after_each_update(monkeypatch, lambda _: time.sleep(wait["step"]))
    train.train_and_evaluate(small.config(training__num_steps=6), tmp_path)
    assert "updates wait for data" not in caplog.text
    wait |= {"data": 0.3, "step": 0.0}
    train.train_and_evaluate(small.config(training__num_steps=10), tmp_path)
    assert "updates wait for data" in caplog.text


@pytest.mark.slow
def test_a_run_writes_its_mfu_and_a_trace(tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO", "lzn_jax")
    monkeypatch.setattr(costs, "chip", lambda kind: costs.Chip(1e3, 1.0))
    changes = {"training__num_steps": 3, "reporting__profile_steps": "1:2"}
    changes |= {"training__batch_size": 16, "training__devices": "all"}
    train.train_and_evaluate(small.config(**changes), tmp_path)
    (_,) = (tmp_path / "profile").rglob("*.xplane.pb")
    assert "a step takes 96 operations" in caplog.text  # products of 16 errors, and gradients
    assert "8 device(s)" in caplog.text
    summary = json.loads((tmp_path / "summary.json").read_text())
    expected = summary["steps_per_second"] * 96 / (1e3 * 8)
    assert summary["mfu"] == pytest.approx(expected, rel=0.01)


def test_a_step_that_hangs_shows_its_stacks_and_others_show_nothing(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(train, "STALLED_AFTER", 2.0)

    def hang(step):
        time.sleep(2.5 * (step == 2))

    _after_each_update(monkeypatch, hang)
    train.train_and_evaluate(small.config(training__num_steps=3), tmp_path)
    said = capfd.readouterr().err
    assert (said.count("Timeout (0:00:02)!"), said.count(" in hang")) == (1, 1)


@contextlib.contextmanager
def _started(workdir, **changes):
    """The process of a run, which does not outlive this."""
    program = [sys.executable, "tests/one_weight.py"]
    process = subprocess.Popen(
        [*program, *small.flags("configs/digits_joint.py", workdir, **changes)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        cwd=ROOT,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def _wait_for_step(workdir, step, process):
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and process.poll() is None:
        lines = _lines(workdir)
        if lines and lines[-1]["step"] >= step:
            return
        time.sleep(0.02)
    pytest.fail(f"step {step} was not reached")


def _lines(workdir):
    path = Path(workdir) / "metrics.jsonl"
    if not path.exists():
        return []
    complete = [line for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]
    return [json.loads(line) for line in complete]


def _untimed(workdir):
    return [{k: v for k, v in line.items() if k not in small.TIMINGS} for line in _lines(workdir)]


def _final_state(workdir, config):
    mesh = devices.make_mesh(config.training.batch_size, jax.devices()[:1])
    optimizer = train.make_optimizer(config.training, list(OneWeight.modules))
    shapes = jax.eval_shape(functools.partial(train.init_state, OneWeight(), optimizer, 0))
    with Checkpoints(workdir, 2) as checkpoints:
        return train.restore_state(checkpoints, devices.placed(shapes, mesh))


def _assert_same_run(one, other, config):
    assert _untimed(one) == _untimed(other)
    a, b = _final_state(one, config), _final_state(other, config)
    assert int(a.step) == int(b.step) == config.training.num_steps
    jax.tree.map(np.testing.assert_array_equal, a, b)


LONGER = {"training__num_steps": 40, "checkpoint__every_steps": 8, "evaluation__every_steps": 20}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("uninterrupted")
    assert train.train_and_evaluate(small.config(**LONGER), workdir) == 0
    assert [line["step"] for line in _lines(workdir)] == sorted([*range(1, 41), 20, 40])
    return workdir


@pytest.mark.slow
def test_a_killed_run_ends_like_an_uninterrupted_one(uninterrupted, tmp_path):
    for step in (5, 19, 33):  # before a checkpoint, beside an evaluation, late
        with _started(tmp_path, **LONGER) as process:
            _wait_for_step(tmp_path, step, process)
        assert process.returncode == -signal.SIGKILL
    with _started(tmp_path, **LONGER) as process:
        assert process.wait(timeout=300) == 0
    _assert_same_run(uninterrupted, tmp_path, small.config(**LONGER))


@pytest.fixture
def handlers():
    """The handlers of signals before a run that listens."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    signal.set_wakeup_fd(-1)
    for number, handler in before.items():
        signal.signal(number, handler)


def _interrupted_process(workdir, number, monkeypatch):
    with _started(workdir, **LONGER) as process:
        _wait_for_step(workdir, 10, process)
        process.send_signal(number)
        return process.wait(timeout=120)


def _interrupted_call(workdir, number, monkeypatch):
    def interrupt(step):
        if step == 10:
            os.kill(os.getpid(), number)
            time.sleep(0.2)  # a thread reads it

    with monkeypatch.context() as patch:
        _after_each_update(patch, interrupt)
        flags = small.flags("configs/digits_joint.py", workdir, **LONGER)
        return command_line.main(flags, listens=True)


@pytest.mark.parametrize(
    ("interrupted", "number"),
    [
        (_interrupted_call, signal.SIGINT),
        *small.slow((_interrupted_process, signal.SIGINT), (_interrupted_process, signal.SIGTERM)),
    ],
)
@pytest.mark.usefixtures("handlers")
def test_a_signal_saves_and_the_command_that_is_shown_goes_on(
    uninterrupted, interrupted, number, tmp_path, monkeypatch, capfd
):
    assert interrupted(tmp_path, number, monkeypatch) == 75
    errors = capfd.readouterr().err
    assert "Traceback" not in errors
    assert errors.count("Ctrl-C again to exit at once") == (number == signal.SIGINT)
    saved = max(int(p.name) for p in (tmp_path / "checkpoints").iterdir())
    assert _lines(tmp_path)[-1]["step"] == saved
    said, _, command = errors.splitlines()[-1].partition("; to continue: ")
    assert said == f"saved at step {saved}"
    assert command_line.main(shlex.split(command)[3:]) == 0
    assert f"from step {saved} on" in capfd.readouterr().err
    _assert_same_run(uninterrupted, tmp_path, small.config(**LONGER))


@pytest.mark.usefixtures("handlers")
def test_sigterm_at_the_last_step_or_in_an_evaluation_leaves_it_to_the_next_start(
    tmp_path, monkeypatch
):
    config = small.config(training__num_steps=4, evaluation__every_steps=3)
    interruption = Interruption()
    interruption.listen()

    def evaluations():
        return [line["step"] for line in _lines(tmp_path) if "evaluation_seconds" in line]

    def interrupted(*_):
        os.kill(os.getpid(), signal.SIGTERM)
        pytest.fail("the evaluation went on")

    with monkeypatch.context() as patch:  # before the evaluation at step 3 nothing was saved
        patch.setattr(OneNumber, "evaluate", interrupted)
        assert train.train_and_evaluate(config, tmp_path, interruption) == 75
    assert (tmp_path / "checkpoints" / "3").is_dir()
    assert evaluations() == []
    with monkeypatch.context() as patch:
        patch.setattr(processes, "is_to_leave", lambda interruption, step: step == 4)
        assert train.train_and_evaluate(config, tmp_path) == 75
    assert evaluations() == [3]
    assert train.train_and_evaluate(config, tmp_path) == 0
    assert evaluations() == [3, 4]


def test_evaluation_takes_at_most_a_minute_longer_than_training(tmp_path, monkeypatch):
    totals = {"compile": 10.0, "step": 30.0, "eval": 20.0, "other": 5.0, "starts": 2.0}
    monkeypatch.setattr(log.Goodput, "totals", lambda self: dict(totals))
    seconds = []
    monkeypatch.setattr(
        OneNumber, "evaluate", lambda *arguments: seconds.append(arguments[-1]) or {}
    )
    assert train.train_and_evaluate(small.config(), tmp_path) == 0
    assert seconds == [10 + 30 + 5 + 60 - 20]


def test_a_damaged_newest_checkpoint_is_passed_over(tmp_path, caplog):
    config = small.config(training__num_steps=4)
    train.train_and_evaluate(config, tmp_path)
    want = _final_state(tmp_path, config)
    for file in (tmp_path / "checkpoints" / "4" / "params").rglob("*"):
        if file.is_file():
            file.write_bytes(b"")
    assert train.train_and_evaluate(config, tmp_path) == 0
    assert "checkpoint 4 is skipped: file params/" in caplog.text
    jax.tree.map(np.testing.assert_array_equal, _final_state(tmp_path, config), want)


def test_too_many_skipped_updates_end_the_run(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(train, "MAX_SKIPPED_IN_A_ROW", 2)
    # A learning rate at the end of float32's range makes every later loss non-finite.
    changes = {"training__num_steps": 8, "evaluation__every_steps": 100}
    changes |= {"training__warmup_steps": 0, "training__learning_rate__decoder": 3e38}
    assert command_line.main(small.flags("configs/digits_joint.py", tmp_path, **changes)) == 3
    assert _lines(tmp_path)[-1]["step"] < 8
    said = capsys.readouterr().err
    assert re.search(r"update 2 was the first of \d+ non-finite updates in a row; lower", said)
