"""The reader of safetensors files: what it returns and what it refuses."""

import jax.numpy as jnp
import numpy as np
import pytest

from lzn_jax.errors import UserError
from lzn_jax.run import files

TENSORS = {
    "turned": np.arange(6, dtype=np.float32).reshape(2, 3).T,
    "a": np.array([[1.5], [-2]], jnp.bfloat16),
    "half": np.array([0.25], np.float16),
    "count": np.array(7),
    "none": np.zeros((0, 4), np.float64),
    "flags": np.array([True, False, True]),
}


@pytest.fixture
def path(tmp_path):
    files.write_tensors(tmp_path / "x.safetensors", TENSORS)
    return tmp_path / "x.safetensors"


def test_tensors_come_back_in_type_shape_and_value(path):
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


def test_a_file_by_hand(tmp_path):
    """The example of the format's description, byte by byte."""
    (tmp_path / "x").write_bytes(WHOLE)
    np.testing.assert_array_equal(files.read_tensors(tmp_path / "x")["x"], [1, -3])
