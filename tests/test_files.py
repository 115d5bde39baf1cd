"""Files are written whole or not at all, hold valid JSON, and are read with care."""

import json
import math
import os

import jax.numpy as jnp
import numpy as np
import pytest

from lzn_jax import files
from lzn_jax.errors import UserError


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


TENSORS = {
    "turned": np.arange(6, dtype=np.float32).reshape(2, 3).T,
    "a": np.array([[1.5], [-2]], jnp.bfloat16),
    "half": np.array([0.25], np.float16),
    "count": np.array(7),
    "none": np.zeros((0, 4), np.float64),
    "flags": np.array([True, False, True]),
}


def test_tensors_come_back_in_type_shape_and_value(tmp_path):
    path = tmp_path / "x.safetensors"
    files.write_tensors(path, TENSORS)
    read = files.read_tensors(path)
    assert read.keys() == TENSORS.keys()
    for name, array in TENSORS.items():
        np.testing.assert_array_equal(read[name], array, strict=True)
    assert files.read_tensors(path, lambda name: name == "half") == {"half": TENSORS["half"]}


HEADER = b'{"x":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'
WHOLE = len(HEADER).to_bytes(8, "little") + HEADER + np.float32([1, -3]).tobytes()
REFUSED = {  # contents, and the content of the line
    "pickle": (b"\x02" + bytes(7) + b"\x80\x04}.", "header"),
    "type": (WHOLE.replace(b"F32", b"F16"), "invalid shape, data type, or offset"),
    "cut": (WHOLE[:-1], "file not fully covered"),
    "cut header": (WHOLE[:20], "invalid header length"),
    "empty": (b"", "header too small"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_damaged_files_are_refused_in_one_line(case, tmp_path):
    content, reason = REFUSED[case]
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(UserError, match=f"as a safetensors file: .*{reason}") as caught:
        files.read_tensors(tmp_path / "x")
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="there is no file"):
        files.read_tensors(tmp_path / "none")
