"""Progress of loops."""

import io
import sys

from lzn_jax.progress import progress


def test_progress_without_a_terminal_prints_few_plain_lines(monkeypatch):
    stderr = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stderr)
    with progress(1000, "train", initial=200) as outer:
        with progress(1, "evaluation") as inner:  # moves no cursor
            inner.set_postfix_str("one", refresh=True)
            inner.update(1)
        for _ in range(800):
            outer.update(1)
            outer.set_postfix_str("loss 0.123", refresh=False)
    text = stderr.getvalue()
    assert not {"\r", "\x1b"} & set(text)
    first, *nested, last = text.splitlines()
    assert first.startswith("train: 20% 200/1000")
    assert "evaluation: 0% 0/1 [00:00<?, ? step/s, one]" in nested
    assert last.startswith("train: 100% 1000/1000")
    assert last.endswith("step/s, loss 0.123]")
