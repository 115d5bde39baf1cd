"""Files are written whole or not at all, hold valid JSON, and are read with care."""

import json
import math
import os

import numpy as np
import pytest

from lzn_jax.run import files


def test_json_keeps_order_is_valid_and_survives_what_it_cannot_hold(tmp_path):
    path = tmp_path / "new" / "summary.json"
    files.write_json(path, {"z": 1, "a": {"x": math.inf, "y": (2, np.int64(3))}, "b": np.ones(2)})
    text = path.read_text()
    assert text.startswith('{\n  "z": 1,\n')
    assert text.endswith("}\n")
    assert list(json.loads(text)) == ["z", "a", "b"]
    assert json.loads(text) == {"z": 1, "a": {"x": None, "y": [2, 3]}, "b": [1.0, 1.0]}
    with pytest.raises(TypeError):
        files.write_json(path, {"a": 2, "b": object()})
    assert path.read_text() == text


def test_a_write_that_is_cut_short_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    path = tmp_path / "summary.json"
    files.write_bytes(path, b"old")

    def fail(descriptor):
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        files.write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_arrays_are_read_as_they_were_written(tmp_path):
    files.write_arrays(tmp_path / "a.npz", a=np.arange(3), b=np.array("text"))
    with np.load(tmp_path / "a.npz") as found:
        assert found["a"].tolist() == [0, 1, 2]
        assert str(found["b"]) == "text"
