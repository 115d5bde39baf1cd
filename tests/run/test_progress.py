"""The progress bar where there is no terminal."""

import io
import sys

import jax.numpy as jnp
import ml_collections
import pytest

from lzn_jax.run import costs
from lzn_jax.run.log import Goodput, LateMetrics, MetricLog, progress, rates_in_words


def test_progress_without_a_terminal_prints_few_plain_lines(monkeypatch):
    stderr = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stderr)
    with progress(1000, "train", initial=200) as bar:
        for _ in range(800):
            bar.update(1)
            bar.set_postfix_str("loss 0.123", refresh=False)
    text = stderr.getvalue()
    assert "\r" not in text
    assert "\x1b" not in text
    first, last = text.splitlines()
    assert first.startswith("train: 20% 200/1000")
    assert last.startswith("train: 100% 1000/1000")
    assert "step/s" in last
    assert "loss 0.123" in last


def test_a_bar_inside_another_moves_no_cursor_where_there_is_none(monkeypatch):
    stderr = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stderr)
    with progress(2, "train") as outer:
        for name in ("one", "two"):
            with progress(1, "evaluation") as inner:
                inner.set_postfix_str(name, refresh=True)
                inner.update(1)
        outer.update(2)
    text = stderr.getvalue()
    assert "\x1b" not in text
    assert "evaluation: 0% 0/1 [00:00<?, ? step/s, one]" in text
    assert text.splitlines()[-1].startswith("train: 100% 2/2")


class _Log(MetricLog):
    def __init__(self):
        self.rows = []

    def write(self, step, values):
        self.rows.append((step, values))


@pytest.mark.parametrize("peak_steps", [None, 20.0])
def test_rates_count_steps_and_the_wait_for_data_but_no_evaluation(peak_steps):
    now, log = [0.0], _Log()
    goodput = Goodput(lambda: now[0])
    training = ml_collections.ConfigDict({"batch_size": 64, "log_every_steps": 2})

    def spend(bucket, seconds):
        with goodput(bucket):
            now[0] += seconds

    spend("data", 5.0)  # before the first update
    with progress(12, "train", initial=8) as bar:
        metrics = LateMetrics(log, bar, goodput, 8, training, peak_steps)
        assert metrics.rates() == {}
        for step, waiting in ((9, 0.1), (10, 0.3), (11, 0.1), (12, 0.1)):
            spend("data", waiting)
            spend("step", 0.25)
            spend("eval", 7.0)
            metrics.put(step, {"loss": jnp.ones(()), "skipped_in_a_row": jnp.zeros(())})
        metrics.flush()
    rates = metrics.rates()
    expected = {"seconds_per_step": 0.4, "data_seconds_per_step": 0.15, "steps_per_second": 2.5}
    expected["examples_per_second"] = 160.0
    if peak_steps is not None:
        expected["mfu"] = 0.125
    assert rates == pytest.approx(expected)
    line = "160 examples per second; a step took 0.4 s, 0.15 s of them for data"
    assert rates_in_words(rates) == line + ("" if peak_steps is None else "; MFU 12.5%")
    assert [step for step, _ in log.rows] == [10, 12]
    assert all(expected.keys() <= values.keys() for _, values in log.rows)


@pytest.mark.parametrize(
    ("kind", "speeds"),
    [
        ("TPU v5 lite", (197e12, 819e9, 1.5e9)),
        ("TPU v5p", (459e12, 2765e9, 1.75e9)),
        ("TPU v6 lite", (918e12, 1640e9, 1.75e9)),
        ("NVIDIA H100 80GB HBM3", (989e12, 3352e9, None)),
        ("cpu", None),
    ],
)
def test_the_speeds_of_a_device_are_those_of_its_kind(kind, speeds):
    assert costs.chip(kind) == speeds
