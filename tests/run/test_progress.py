"""The progress bar where there is no terminal."""

import io
import sys

from lzn_jax.run.progress import progress


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
