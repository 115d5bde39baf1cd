"""What a run logs: metrics that survive a kill and a restart, rates, use of time."""

import io
import json
import logging
import math
import sys
import warnings

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from lzn_jax.errors import UserError
from lzn_jax.progress import progress
from lzn_jax.run import log as log_module
from lzn_jax.run.log import Goodput, LateMetrics, MetricLog


def _metrics(workdir):
    found = log_module.read_metrics(workdir)
    return {name: (steps.tolist(), values.tolist()) for name, (steps, values) in found.items()}


def test_opening_keeps_lines_up_to_the_step_byte_for_byte(tmp_path):
    kept = b'{"step":10,  "loss": 1.50}\n{"step": 20, "loss": 1e0}\n{"step": 20, "fid": null}\n'
    dropped = b'{"step": 21, "loss": 0.5}\n{"step": 30, "top": 0.4}\n'
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(kept + dropped + b'{"step": 40, "lo')
    with MetricLog(tmp_path, step=20) as log:
        assert path.read_bytes() == kept
        log.write(25, {"accuracy": 0.5})
        known = [(10, "loss"), (20, "loss"), (20, "fid"), (25, "accuracy")]
        assert all(log.has(*each) for each in known)
        assert not any(log.has(*each) for each in [(30, "top"), (25, "loss")])
    path.write_bytes(b'{"step": 1, "loss": 2.0}')  # only the newline is missing
    with MetricLog(tmp_path, step=1):
        assert path.read_bytes() == b'{"step": 1, "loss": 2.0}\n'


def test_lines_are_with_the_operating_system_at_once(tmp_path):
    """So they outlive a killed process."""
    with log_module.MetricLog(tmp_path, 0) as log:
        log.write(1, {"loss": 0.25})
        assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1, "loss": 0.25}\n'


def test_metrics_are_read_by_name_and_null_as_nan(tmp_path):
    with MetricLog(tmp_path, step=0) as log:
        log.write(10, {"loss": 2.0, "rate": 5})
        log.write(20, {"loss": np.float32("inf")})
        log.write(20, {"fid": 7.5})
        with pytest.raises(ValueError, match="'step'"):
            log.write(1, {"step": 3.0})
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert lines[1] == '{"step": 20, "loss": null}'
    with open(tmp_path / "metrics.jsonl", "ab") as file:
        file.write(b"[" * 100_000 + b"\n" + b'{"step": 30, "loss": 0.')
    found = _metrics(tmp_path)
    assert math.isnan(found["loss"][1].pop())
    assert found == {"loss": ([10, 20], [2.0]), "rate": ([10], [5.0]), "fid": ([20], [7.5])}


def test_tensorboard_shows_a_restarted_run_once(tmp_path):
    picture = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)
    Image.fromarray(picture).save(tmp_path / "picture.png")
    with MetricLog(tmp_path, step=0) as log:
        for step in (1, 2, 3):
            log.write(step, {"loss": float(step)})
    with MetricLog(tmp_path, step=2) as log:
        log.write(3, {"loss": 30.0, "norm": math.nan})
        log.image(3, "samples", tmp_path / "picture.png")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TensorBoard's imports
        reader = pytest.importorskip(
            "tensorboard.backend.event_processing.event_accumulator",
            reason="pip install -e '.[tensorboard]'",
        )
        events = reader.EventAccumulator(str(tmp_path / "tensorboard"))
        events.Reload()
    scalars = [(event.step, event.value) for event in events.Scalars("loss")]
    assert scalars == [(1, 1.0), (2, 2.0), (3, 30.0)]
    (image,) = events.Images("samples")
    shown = np.asarray(Image.open(io.BytesIO(image.encoded_image_string)))
    np.testing.assert_array_equal(shown, picture)
    assert image.step == 3


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_full_disk_ends_the_log_with_its_error(tmp_path, small_files_only):
    noise = np.random.default_rng(0).integers(0, 256, (700, 700, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")

    def log_until_it_fails():
        with MetricLog(tmp_path, 0) as log:
            small_files_only()
            log.image(1, "noise", tmp_path / "noise.png")

    with pytest.raises(OSError, match="File too large"):
        log_until_it_fails()


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """Neither a network nor an account, whatever this machine has."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("NETRC", str(tmp_path / "no_account"))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)


def test_wandb_goes_on_as_the_same_run_with_metrics_config_and_pictures(
    offline, tmp_path, monkeypatch
):
    wandb = pytest.importorskip("wandb", reason="pip install -e '.[wandb]'")
    sent, init, log_values = [], wandb.init, wandb.Run.log
    monkeypatch.setattr(wandb, "init", lambda **options: (sent.append(options), init(**options))[1])
    monkeypatch.setattr(
        wandb.Run, "log", lambda self, v, step: (sent.append((step, v)), log_values(self, v, step))
    )
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "picture.png")
    for step in (0, 2):
        run = log_module.start_wandb("zones", tmp_path, {"latent": {"dim": 4}})
        with MetricLog(tmp_path, step, run) as log:
            log.write(step + 1, {"loss": 0.25 + step})
            log.image(step + 2, "samples", tmp_path / "picture.png")
    assert len(list(tmp_path.glob("wandb/offline-run-*"))) == 2
    for start, (options, metrics, (at, pictures)) in ((0, sent[:3]), (2, sent[3:])):
        assert options["id"] == (tmp_path / "wandb_id.txt").read_text()
        assert (options["project"], options["resume"]) == ("zones", "allow")
        assert options["config"]["latent"]["dim"] == 4
        assert metrics == (start + 1, {"loss": start + 0.25})
        assert at == start + 2
        assert isinstance(pictures["samples"], wandb.Image)


def test_wandb_is_not_started_unless_it_is_asked_for(tmp_path):
    assert log_module.start_wandb(None, tmp_path, {}) is None
    assert list(tmp_path.iterdir()) == []


def test_wandb_without_project_account_or_package_is_one_line(offline, tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb", reason="pip install -e '.[wandb]'")

    def refused(project="zones"):
        with pytest.raises(UserError) as caught:
            log_module.start_wandb(project, tmp_path, {})
        assert "\n" not in str(caught.value)
        return str(caught.value)

    def without_account(**_):
        raise wandb.errors.UsageError("No API key configured.\nLog in.")

    assert "Invalid project name" in refused("a/b")
    monkeypatch.setattr(wandb, "init", without_account)
    assert "(No API key configured. Log in.): run `wandb login`" in refused()
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert "pip install -e '.[wandb]'" in refused()


def test_a_service_that_ends_ends_no_run(tmp_path, caplog):
    class Ended:
        def log(self, *_, **__):
            raise ConnectionResetError("Connection lost")

        finish = log

    caplog.set_level(logging.WARNING, "lzn_jax")
    with MetricLog(tmp_path, 0, Ended()) as log:
        for step in (1, 2):
            log.write(step, {"loss": 0.5})
    assert _metrics(tmp_path)["loss"][0] == [1, 2]
    (record,) = caplog.records
    assert "continues without it" in record.getMessage()


class Timed(Goodput):
    """Buckets of a clock that only `now` and `spend` move."""

    def __init__(self):
        self.now = 0.0
        super().__init__(lambda: self.now)

    def spend(self, bucket, seconds):
        with self(bucket):
            self.now += seconds


def test_goodput_counts_nested_time_once_and_closes_on_errors():
    goodput = Timed()

    def fail():
        with goodput("eval"):
            goodput.now += 3
            assert goodput.seconds["eval"] == 3.0
            goodput.now += 1
            raise KeyError("stop")

    goodput.now += 64
    with goodput("step"):
        goodput.now += 1
        with goodput("data"):
            goodput.now += 2
            goodput.spend("step", 4)
        goodput.now += 8
    with pytest.raises(KeyError):
        fail()
    goodput.now += 32
    seconds = {name: value for name, value in goodput.seconds.items() if value}
    assert seconds == {"data": 2.0, "step": 13.0, "eval": 4.0, "other": 96.0}


def test_goodput_adds_up_the_starts_of_a_run_as_far_as_they_were_written(tmp_path):
    for _ in range(2):
        goodput = Timed()
        goodput.resume(tmp_path)
        goodput.now += 1
        goodput.spend("step", 8)
        with goodput("save"):
            goodput.now += 2
            goodput.write(tmp_path)
            goodput.now += 1000  # not counted: the start is killed
    totals = json.loads((tmp_path / "goodput.json").read_text())
    found = {name: value for name, value in totals.items() if value}
    assert found == {"step": 16.0, "save": 4.0, "other": 2.0, "starts": 2}
    goodput = Timed()
    goodput.resume(tmp_path)
    assert goodput.in_words() == (
        "72.7% of 22 s spent in training steps; save 18.2%, other 9.1%; 3 starts, each up to its "
        "last save"
    )
    for text in ("{torn", "[" * 100_000):
        (tmp_path / "goodput.json").write_text(text)
        goodput.resume(tmp_path)  # without a word: it is no result of the run


@pytest.mark.parametrize("peak_steps", [None, 20.0])
def test_rates_count_steps_and_the_wait_for_data_but_no_evaluation(peak_steps, monkeypatch):
    monkeypatch.setattr(sys, "stderr", stderr := io.StringIO())
    goodput, log, rows = Timed(), object.__new__(MetricLog), []
    log.write = lambda step, values: rows.append((step, values))
    update = {"loss": 1.0, "gradient_norm": 2.0}
    update |= {"assignment_accuracy_image:text": 0.25, "assignment_accuracy_image:label": 0.75}
    goodput.spend("data", 5.0)  # before the first update
    with progress(12, "train", initial=8) as bar:
        rates = lambda *update: {"learning_rate_decoder": update}  # noqa: E731
        metrics = LateMetrics(log, bar, goodput, 8, 64, 2, rates, peak_steps)
        assert metrics.rates() == {}
        for step, waiting in ((9, 0.1), (10, 0.3), (11, 0.1), (12, 0.1)):
            goodput.spend("data", waiting)
            goodput.spend("step", 0.25)
            goodput.spend("eval", 7.0)
            counts = {"skipped": 5.0 + (step > 9), "skipped_in_a_row": step == 10}
            values = {**update, **counts}
            metrics.put(step, {name: jnp.float32(value) for name, value in values.items()})
        metrics.flush()
    # The bar shows the loss and the accuracy of the first alignment by name.
    assert stderr.getvalue().endswith("loss 1.0000, assignment accuracy image:label 0.7500]\n")
    rates = metrics.rates()
    expected = {"seconds_per_step": 0.4, "data_seconds_per_step": 0.15, "steps_per_second": 2.5}
    expected["examples_per_second"] = 160.0
    if peak_steps is not None:
        expected["mfu"] = 0.125
    assert rates == pytest.approx(expected)
    line = "160 examples per second; a step took 0.4 s, 0.15 s of them for data"
    assert log_module.rates_in_words(rates) == line + ("" if peak_steps is None else "; MFU 12.5%")
    assert [step for step, _ in rows] == [10, 12]
    assert all(expected.keys() <= values.keys() for _, values in rows)
    # Of the sixth skipped update, which five precede, and of one that six precede.
    assert [values["learning_rate_decoder"] for _, values in rows] == [(10, 5), (12, 6)]


@pytest.mark.parametrize(
    ("waiting", "alone", "line"),
    [
        # Of 0.5 s an update 0.4 are its data; the update that is timed alone takes 0.1 s.
        (
            0.4,
            0.1,
            "80 % of their time: 128 examples per second arrive, 640 are needed (workers: 3",
        ),
        (0.4, 0.45, None),  # the data came while the update before was running
        (0.05, 0.02, None),
    ],
)
def test_a_run_that_waits_for_data_says_so_once(waiting, alone, line, caplog):
    goodput, log = Timed(), object.__new__(MetricLog)
    with progress(320, "train", initial=10) as bar, caplog.at_level(logging.WARNING):
        metrics = LateMetrics(log, bar, goodput, 10, 64, 1000, lambda *_: {}, workers=3)
        goodput.spend("data", 500.0)  # the workers start
        for step in range(10, 320):
            metrics.start(step)
            is_alone = step > 10 and step % 100 == 10
            goodput.spend("step", alone if is_alone else 0.5 - waiting)
            metrics.put(step + 1, {"loss": jnp.float32(1), "skipped": 0, "skipped_in_a_row": 0})
            goodput.spend("data", waiting)
    found = [record.getMessage() for record in caplog.records]
    assert len(found) == (line is not None)
    assert all(line in each for each in found)
