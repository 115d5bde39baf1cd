"""Wall time by bucket, over all starts of a run."""

import json

import pytest

from lzn_jax.run.log import Goodput


class _Clock:
    now = 100.0

    def __call__(self):
        return self.now


def test_goodput_counts_nested_time_once():
    clock = _Clock()
    goodput = Goodput(clock)
    clock.now += 64  # in no bucket
    with goodput("step"):
        clock.now += 1
        with goodput("data"):
            clock.now += 2
            with goodput("step"):
                clock.now += 4
        clock.now += 8
    clock.now += 32
    with goodput("save"):
        clock.now += 16
    others = dict.fromkeys(("init", "compile", "eval", "restore"), 0.0)
    assert goodput.seconds == {"data": 2.0, "step": 13.0, "save": 16.0, **others}


def test_goodput_counts_open_buckets_and_closes_them_on_errors():
    clock = _Clock()
    goodput = Goodput(clock)

    def fail_during_evaluation():
        with goodput("eval"):
            clock.now += 3
            assert goodput.seconds["eval"] == 3.0
            clock.now += 1
            raise KeyError("stop")

    with pytest.raises(KeyError):
        fail_during_evaluation()
    clock.now += 5
    assert goodput.seconds["eval"] == 4.0


def test_goodput_refuses_an_unknown_bucket():
    with pytest.raises(ValueError, match="choose from init"), Goodput()("evaluation"):
        pass


def test_goodput_adds_up_the_starts_of_a_run_as_far_as_they_were_written(tmp_path):
    for killed_after in (100, 1000):  # not counted
        clock = _Clock()
        goodput = Goodput(clock)
        goodput.resume(tmp_path)
        clock.now += 1
        with goodput("step"):
            clock.now += 8
        with goodput("save"):
            clock.now += 2
            goodput.write(tmp_path)
            clock.now += killed_after
    totals = json.loads((tmp_path / "goodput.json").read_text())
    assert {name: value for name, value in totals.items() if value} == {
        "step": 16.0, "save": 4.0, "other": 2.0, "starts": 2
    }  # fmt: skip
    goodput = Goodput(_Clock())
    goodput.resume(tmp_path)
    assert goodput.in_words() == (
        "72.7% of 22 s spent in training steps; save 18.2%, other 9.1%; 3 starts, each up to its "
        "last save"
    )
    for text in ("{torn", "[" * 100_000):
        (tmp_path / "goodput.json").write_text(text)
        goodput.resume(tmp_path)  # without a word: it is no result of the run
