"""Signs of life, and stacks of a step that hangs."""

import re
import time

import jax
import pytest

from lzn_jax.train import Heartbeat


def test_a_step_that_does_not_end_shows_where_it_hangs_once(capfd):
    with Heartbeat(0, stalled_after=0.1) as heartbeat:
        with heartbeat.watch(1):
            pass
        with heartbeat.watch(2):
            _hang(0.6)
        time.sleep(0.3)  # between steps there is nothing to say
    said = capfd.readouterr().err
    assert said.count("test_heartbeat.py") >= 1
    assert said.count(" in _hang") == 1


def _hang(seconds):
    time.sleep(seconds)


def test_steps_that_end_show_nothing(capfd):
    with Heartbeat(0, stalled_after=0.5) as heartbeat:
        for step in range(8):
            with heartbeat.watch(step):
                time.sleep(0.1)
    assert "in _run" not in capfd.readouterr().err


@pytest.mark.parametrize("count", [1, 2])
def test_of_several_processes_each_says_where_it_is(count, monkeypatch, caplog):
    monkeypatch.setattr(jax, "process_count", lambda: count)
    with Heartbeat(0, interval=0.1) as heartbeat, heartbeat.watch(7):
        time.sleep(0.5)
    if count == 1:  # which has a progress bar
        assert not caplog.messages
    else:
        assert re.fullmatch(r"process 0 of 2 on \S+: step 7", caplog.messages[0])
