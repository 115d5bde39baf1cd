"""PyTorch's files without PyTorch: what they hold, and that nothing in a hostile one runs."""

import os
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch_writer
from torch_writer import Parameter, View, write, write_stream

from lzn_jax import torch_files
from lzn_jax.errors import UserError

GOLDEN = Path(__file__).parent / "golden"
SIX = np.arange(6, dtype=np.float32)
GLOBAL = b"ccollections\nOrderedDict\n"
W = {"w": SIX}  # a storage


@pytest.fixture
def path(tmp_path):
    return tmp_path / "file.pt"


def test_containers_numbers_and_strings(path):
    state = OrderedDict(c=(3, (), []))
    state._metadata = "an attribute of a module's state dict"
    value = {"a": [1, -2, 2.5, None, True, "é"], "b": state, 7: False}
    assert torch_files.read(write(path, value)) == {**value, "b": {"c": (3, (), [])}}
    saved = GLOBAL + b")R}X\x05\x00\x00\x00itemsK\x07sb."  # in place of a method
    assert torch_files.read(write(path, None, saved=saved)) == {}


@pytest.mark.parametrize("dtype", torch_writer.STORAGES, ids=str)
def test_types_and_shapes_of_tensors(path, dtype):
    six = np.array([[0, 1, 2], [3, 4, 5]]).astype(dtype)
    arrays = [six, np.ones((), dtype), np.zeros((0, 4), dtype), np.arange(24).reshape(2, 3, 4)]
    for read, array in zip(torch_files.read(write(path, arrays)), arrays, strict=True):
        np.testing.assert_array_equal(read, array, strict=True)


VIEWS = {
    "transposed": (View("w", 0, (3, 2), (1, 3)), SIX.reshape(2, 3).T),
    "part": (View("w", 4, (2,), (1,)), SIX[4:]),
    "column": (View("w", 1, (2,), (3,)), SIX[[1, 4]]),
    "repeated": (View("w", 5, (4, 2), (0, 0)), np.full((4, 2), np.float32(5))),
    "parameter": (Parameter(View("w", 0, (6,), (1,))), SIX),
}


@pytest.mark.parametrize("is_stream", [False, True])
def test_views_share_a_storage(path, is_stream):
    views = {name: view for name, (view, _) in VIEWS.items()}
    (write_stream if is_stream else write)(path, views, storages=W)
    read = torch_files.read(path, streams=True)
    for name, (_, expected) in VIEWS.items():
        np.testing.assert_array_equal(read[name], expected, strict=True)
    assert np.shares_memory(read["transposed"], read["part"])
    with pytest.raises(ValueError, match="read-only"):
        read["part"][0] = 1


def test_a_file_from_before_pytorch_1_6_must_be_asked_for(path):
    value = {"a": SIX.reshape(2, 3), "b": [np.array([True, False]), 2.5]}
    read = torch_files.read(write_stream(path, value), streams=True)
    np.testing.assert_array_equal(read["a"], value["a"])
    np.testing.assert_array_equal(read["b"][0], [True, False])
    with pytest.raises(UserError, match="not a whole file in PyTorch's zip format"):
        torch_files.read(path)


def test_only_wanted_tensors_are_read(path):
    value = {"encoder": {"a": View("not there", 0, (6,), (1,))}, "ema": [SIX + 2, SIX + 3]}
    asked = []
    write(path, value)
    read = torch_files.read(path, lambda tensor: asked.append(tensor) or tensor == ("ema", 1))
    assert asked == [("encoder", "a"), ("ema", 0), ("ema", 1)]
    np.testing.assert_array_equal(read["ema"][1], SIX + 3)
    assert not isinstance(read["ema"][0], np.ndarray)


def test_a_checkpoint_that_pytorch_wrote():
    """PyTorch numbers storages as it comes to them: the order of the lines."""
    checkpoint = torch_files.read(GOLDEN / "ckpt_gen_fourier_tiny.pt")
    archive = zipfile.ZipFile(GOLDEN / "ckpt_gen_fourier_tiny.pt")
    lines = (GOLDEN / "ckpt_gen_fourier_tiny_structure.txt").read_text().splitlines()
    tensors = 0
    for line in lines:
        place, kind, *rest = line.split("\t")
        value = eval(place, {"ckpt": checkpoint})
        if kind == "tensor":
            assert (str(value.shape), str(value.dtype)) == (rest[0], rest[1])
            stored = archive.read(f"ckpt_gen_fourier_tiny/data/{tensors}")
            np.testing.assert_array_equal(value.ravel(), np.frombuffer(stored, value.dtype))
            tensors += 1
        elif kind in ("float", "int", "bool"):
            assert repr(value) == rest[0]
    assert tensors == 518


class Attack:
    """A call that a pickle asks for."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


RAN = "open('ran', 'w').close()"
HOSTILE = {  # a value to pickle, or a pickle, and the content of the line
    "system": (Attack(os.system, "touch ran"), "'posix.system'"),
    "execute": (Attack(exec, RAN), "'builtins.exec'|'__builtin__.exec'"),
    "call by INST": (b"(S'touch ran'\nios\nsystem\n.", "'os.system'"),
    "attribute of a name": (b"\x8c\x05torch\x8c\x16FloatStorage.__class__\x93.", "__class__'"),
    "state of a class": (GLOBAL + b"}X\x04\x00\x00\x00nameX\x01\x00\x00\x00xsb.", "mappingproxy"),
    "tensor of no storage": (b"ctorch._utils\n_rebuild_tensor_v2\n(N)))tR.", "without a storage"),
    "class as a value": (b"]" + GLOBAL + b"a.", "a type as a value"),
}
WRONG = {
    "cut": (b"}q\x00X\x09\x00\x00\x00", "pickle data was truncated"),
    "beyond": (View("w", 0, (2, 2), (4, 2)), "size of buffer"),
    "before": (View("w", 3, (2,), (-4,)), "size of buffer"),
    "of no bytes": ([np.zeros(0, np.float32), View("1", 0, (6,), (1,))], "storage 1 is empty"),
    "missing": (View("../../w", 0, (6,), (1,)), "no item named 'archive/data/../../w'"),
    "type": (View("w", 0, (6,), (1,), "QInt8Storage"), "'torch.QInt8Storage'"),
}


@pytest.mark.parametrize("case", [*HOSTILE, *WRONG])
def test_wrong_files_are_refused_in_one_line_and_run_nothing(path, case, monkeypatch):
    monkeypatch.chdir(path.parent)
    value, words = (HOSTILE | WRONG)[case]
    write(path, value, storages=W, saved=value if isinstance(value, bytes) else None)
    with pytest.raises(UserError, match=words) as refusal:
        torch_files.read(path)
    assert "\n" not in str(refusal.value)
    assert f"{path} cannot be read as a PyTorch file: " in str(refusal.value)
    assert not Path("ran").exists()


@pytest.mark.parametrize("case", ["system", "execute", "call by INST"])
def test_the_attacks_would_work_on_the_standard_library(case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    attack = HOSTILE[case][0]
    pickle.loads(attack if isinstance(attack, bytes) else pickle.dumps(attack, 2))
    assert Path("ran").exists()


STREAMS = {
    "version": ({"version": 1002}, "not a stream of version 1001"),
    "import": ({"value": Attack(os.system, "true")}, "'posix.system'"),
    "import in the keys": ({"keys": Attack(os.system, "true")}, "'posix.system'"),
    "no keys": ({"keys": []}, "'0'"),
    "truncated pickle": ({"end": 200}, "truncated|Ran out"),
    "truncated storage": ({"end": -1}, "size of buffer"),
}


@pytest.mark.parametrize("case", STREAMS)
def test_wrong_files_from_before_pytorch_1_6_are_refused_in_one_line(path, case):
    options, words = STREAMS[case]
    write_stream(path, **{"value": {"t": SIX}, **options})
    with pytest.raises(UserError, match=words) as refusal:
        torch_files.read(path, streams=True)
    assert "\n" not in str(refusal.value)


FILES = {
    "empty": (lambda _: b"", "zip format"),
    "truncated": (lambda content: content[:-30], "zip format"),
    "changed byte": (lambda content: content.replace(SIX.tobytes(), (SIX + 1).tobytes()), "CRC"),
}


@pytest.mark.parametrize("case", FILES)
def test_damaged_files_are_refused(path, case):
    change, words = FILES[case]
    path.write_bytes(change(write(path, {"t": SIX}).read_bytes()))
    with pytest.raises(UserError, match=words):
        torch_files.read(path)


def test_other_archives_and_places_are_refused(path):
    with pytest.raises(UserError, match=f"there is no file {path}"):
        torch_files.read(path)
    with pytest.raises(UserError, match="directory"):
        torch_files.read(path.parent)
    write(path, 1, **{"other/data.pkl": b"N."})
    with pytest.raises(UserError, match=r"one data\.pkl"):
        torch_files.read(path)
