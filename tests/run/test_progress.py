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
            bar.set_postfix_str("loss 0.123")
    text = stderr.getvalue()
    assert "\r" not in text
    assert "\x1b" not in text
    first, last = text.splitlines()
    assert first.startswith("train: 20% 200/1000")
    assert last.startswith("train: 100% 1000/1000")
    assert "step/s" in last
    assert "loss 0.123" in last
