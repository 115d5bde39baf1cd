"""The reader of safetensors files: what it returns and what it refuses."""

import struct

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors_writer

from lzn_jax.errors import UserError
from lzn_jax.run import files

TENSORS = {
    "b": np.arange(6, dtype=np.float32).reshape(2, 3),
    "a": np.array([[1.5], [-2]], jnp.bfloat16),
    "half": np.array([0.25], np.float16),
    "count": np.array(7),
    "none": np.zeros((0, 4), np.float64),
    "flags": np.array([True, False, True]),
}


def changed(name, **entry):
    header = safetensors_writer.header_of(TENSORS)
    return {**header, name: {**header[name], **entry}}


def refusal(path):
    with pytest.raises(UserError, match="cannot be read as a safetensors file: ") as caught:
        files.read_tensors(path)
    assert "\n" not in str(caught.value)
    return str(caught.value).partition("file: ")[2]


def test_tensors_come_back_in_type_shape_and_value(tmp_path):
    path = safetensors_writer.write(tmp_path / "x.safetensors", TENSORS)
    read = files.read_tensors(path)
    assert read.keys() == TENSORS.keys()
    for name, array in TENSORS.items():
        assert read[name].dtype == array.dtype
        np.testing.assert_array_equal(read[name], array)
    (alone,) = files.read_tensors(path, lambda name: name == "half").items()
    assert alone[0] == "half"
    np.testing.assert_array_equal(alone[1], TENSORS["half"])


def test_written_tensors_are_read_as_they_were(tmp_path):
    written = {"turned": np.arange(6, dtype=np.float32).reshape(2, 3).T, "step": np.array(7)}
    files.write_tensors(tmp_path / "x.safetensors", written)
    read = files.read_tensors(tmp_path / "x.safetensors")
    assert read.keys() == written.keys()
    for name, array in written.items():
        assert read[name].dtype == array.dtype
        np.testing.assert_array_equal(read[name], array)


def test_a_file_by_hand(tmp_path):
    """The example of the format's description, byte by byte."""
    text = b'{"x":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'
    content = bytes([len(text), 0, 0, 0, 0, 0, 0, 0]) + text + struct.pack("<2f", 1, -3)
    (tmp_path / "x").write_bytes(content)
    np.testing.assert_array_equal(files.read_tensors(tmp_path / "x")["x"], [1, -3])


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        ("[]", "invalid type: sequence"),
        ("{", "EOF while parsing"),
        ("[" * 100_000, "invalid type: sequence"),
        ('{"a": {}, "a": {}}', "missing field `dtype`"),
        ({"a": 3}, "invalid type: integer `3`"),
        (changed("b", dtype="F8_E4M3"), "invalid shape, data type, or offset"),
        (changed("b", shape=[-2, -3]), "invalid value: integer `-2`"),
        (changed("b", shape=[2, 3.0]), "invalid type: floating point `3.0`"),
        (changed("b", shape=[2, 4]), "invalid shape, data type, or offset"),
        (changed("b", data_offsets=[8, 32]), "invalid offset for tensor `b`"),
        (changed("a", data_offsets=[20, 24]), "invalid offset for tensor `a`"),
        (changed("none", shape=[0] * 65), "maximum"),
        ({}, "file not fully covered"),
    ],
)
def test_headers_that_lie_are_refused(header, reason, tmp_path):
    path = safetensors_writer.write(tmp_path / "x.safetensors", TENSORS, header)
    assert reason in refusal(path)


def test_files_that_end_early_are_refused(tmp_path):
    path = safetensors_writer.write(tmp_path / "x.safetensors", TENSORS)
    content = path.read_bytes()
    for length, reason in [
        (len(content) - 1, "file not fully covered"),
        (100, "invalid header length"),
        (8, "invalid header length"),
        (3, "header too small"),
        (0, "header too small"),
    ]:
        path.write_bytes(content[:length])
        assert reason in refusal(path)
    path.write_bytes(b"<html> no weights </html>")
    assert "header too large" in refusal(path)
    with pytest.raises(UserError, match="there is no file"):
        files.read_tensors(tmp_path / "none")
