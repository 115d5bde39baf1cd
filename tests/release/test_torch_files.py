"""PyTorch's files without PyTorch: what they hold, and that nothing in a hostile one runs."""

import os
import pickle
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch_writer
from torch_writer import Raw, View, call, name

from lzn_jax.errors import UserError
from lzn_jax.release import torch_files

GOLDEN = Path(__file__).parents[1] / "golden"
SIX = np.arange(6, dtype=np.float32)


def _save(path, value, **options):
    torch_writer.write(path, value, **options)
    return path


@pytest.fixture
def path(tmp_path):
    return tmp_path / "file.pt"


def test_containers_numbers_and_strings(path):
    value = {"a": [1, -2, 2.5, None, True, "é"], "b": {"c": (3, (), [])}, 7: False}
    assert torch_files.read(_save(path, value)) == value


@pytest.mark.parametrize("dtype", torch_writer.STORAGES, ids=str)
def test_types_of_tensors(path, dtype):
    array = np.array([[0, 1, 2], [3, 4, 5]]).astype(dtype)
    tensor = torch_files.read(_save(path, {"t": array}))["t"]
    assert tensor.dtype == dtype
    np.testing.assert_array_equal(tensor.astype(np.float64), array.astype(np.float64))


def test_shapes_of_tensors(path):
    arrays = [np.full((), 3.0), np.zeros((0, 4)), np.arange(24.0).reshape(2, 3, 4)]
    for read, array in zip(torch_files.read(_save(path, arrays)), arrays, strict=True):
        np.testing.assert_array_equal(read, array)
        assert read.shape == array.shape


def test_views_share_a_storage(path):
    views = {
        "transposed": View("w", 0, (3, 2), (1, 3)),
        "part": View("w", 4, (2,), (1,)),
        "column": View("w", 1, (2,), (3,)),
        "repeated": View("w", 5, (4, 2), (0, 0)),
    }
    read = torch_files.read(_save(path, views, storages={"w": SIX}))
    np.testing.assert_array_equal(read["transposed"], SIX.reshape(2, 3).T)
    np.testing.assert_array_equal(read["part"], [4, 5])
    np.testing.assert_array_equal(read["column"], [1, 4])
    np.testing.assert_array_equal(read["repeated"], np.full((4, 2), 5))
    assert np.shares_memory(read["transposed"], read["part"])
    with pytest.raises(ValueError, match="read-only"):
        read["part"][0] = 1


def test_parameters_and_protocol_4(path):
    def text(value):
        return b"\x8c" + bytes([len(value)]) + value.encode()

    parameter = call(
        Raw(text("torch._utils") + text("_rebuild_parameter") + b"\x93"),
        Raw(torch_writer._push(View("w", 0, (6,), (1,)), {})),
        True,
        {},
    )
    read = torch_files.read(_save(path, {"p": parameter}, storages={"w": SIX}))
    np.testing.assert_array_equal(read["p"], SIX)


def test_a_file_from_before_pytorch_1_6(path):
    value = {
        "a": np.arange(6.0).reshape(2, 3),
        "b": [np.array([True, False]), 2.5],
        "c": View("w", 1, (2,), (3,)),
        "d": View("w", 0, (3, 2), (1, 3)),
    }
    torch_writer.write_stream(path, value, storages={"w": SIX})
    read = torch_files.read(path, streams=True)
    np.testing.assert_array_equal(read["a"], value["a"])
    np.testing.assert_array_equal(read["b"][0], [True, False])
    assert read["b"][1] == 2.5
    np.testing.assert_array_equal(read["c"], [1, 4])
    np.testing.assert_array_equal(read["d"], SIX.reshape(2, 3).T)
    assert np.shares_memory(read["c"], read["d"])


def test_a_file_from_before_pytorch_1_6_must_be_asked_for(path):
    torch_writer.write_stream(path, {"a": SIX})
    with pytest.raises(UserError, match="not in PyTorch's zip format"):
        torch_files.read(path)


STREAMS = {
    "version": ({"version": 1002}, "its version is not 1001"),
    "byte order": ({"system": {"little_endian": False}}, "byte order is not little"),
    "no system": ({"system": 3}, "byte order is not little"),
    "import": ({"value": call(name("os", "system"), "true")}, "'os.system'"),
    "import in the system": ({"system": call(name("os", "system"), "true")}, "'os.system'"),
    "import in the keys": ({"keys": call(name("os", "system"), "true")}, "'os.system'"),
    "key of no tensor": ({"keys": ["0", "1"]}, "a storage that no tensor uses"),
    "key that is no string": ({"keys": [[]]}, "a storage that no tensor uses"),
    "no keys": ({"keys": []}, "lacks the storage 0"),
    "keys that are no list": ({"keys": 7}, "lacks the storage 0"),
    "truncated pickle": ({"end": 300}, "its pickle is damaged"),
    "truncated storage": ({"end": -1}, "ends within the storage 0"),
    "no storages": ({"end": -32}, "storage 0 has the wrong length"),
    "beyond": ({"value": View("0", 1, (6,), (1,)), "storages": {"0": SIX}}, "beyond its storage"),
    "large": (
        {"value": View("0", 0, (1,), (1,), size=2**30), "storages": {"0": SIX}},
        "wrong length",
    ),
    "two sizes": (
        {
            "value": [View("0", 0, (1,), (1,), size=6), View("0", 0, (1,), (1,), size=5)],
            "storages": {"0": SIX},
        },
        "wrong length",
    ),
}


@pytest.mark.parametrize("case", STREAMS)
def test_wrong_files_from_before_pytorch_1_6_are_refused_in_one_line(path, case):
    options, words = STREAMS[case]
    torch_writer.write_stream(path, **{"value": {"t": SIX}, **options})
    with pytest.raises(UserError, match=words) as refusal:
        torch_files.read(path, streams=True)
    assert "\n" not in str(refusal.value)
    assert str(path) in str(refusal.value)


def test_only_wanted_tensors_are_read(path):
    value = {"encoder": {"a": SIX, "b": SIX + 1}, "ema": [SIX + 2, SIX + 3]}
    _save(path, value)
    entries = _entries(path)
    for key in ("0", "1", "2"):  # what is not asked for may even be missing
        del entries[f"archive/data/{key}"]
    torch_writer.write_zip(path, entries)
    asked = []
    read = torch_files.read(path, lambda tensor: asked.append(tensor) or tensor == ("ema", 1))
    assert asked == [("encoder", "a"), ("encoder", "b"), ("ema", 0), ("ema", 1)]
    np.testing.assert_array_equal(read["ema"][1], SIX + 3)
    rest = [read["encoder"]["a"], read["encoder"]["b"], read["ema"][0]]
    assert [(tensor.shape, tensor.dtype) for tensor in rest] == 3 * [((6,), np.float32)]


def test_a_checkpoint_that_pytorch_wrote():
    """PyTorch numbers storages as it comes to them: the order of the lines."""
    checkpoint = torch_files.read(GOLDEN / "ckpt_gen_fourier_tiny.pt")
    entries = _entries(GOLDEN / "ckpt_gen_fourier_tiny.pt")
    lines = (GOLDEN / "ckpt_gen_fourier_tiny_structure.txt").read_text().splitlines()
    tensors = 0
    for line in lines:
        place, kind, *rest = line.split("\t")
        value = eval(place, {"ckpt": checkpoint})
        if kind == "tensor":
            assert (str(value.shape), str(value.dtype)) == (rest[0], rest[1])
            stored = np.frombuffer(entries[f"ckpt_gen_fourier_tiny/data/{tensors}"], value.dtype)
            np.testing.assert_array_equal(value, stored.reshape(value.shape))
            tensors += 1
        elif kind in ("float", "int", "bool"):
            assert repr(value) == rest[0]
    assert tensors == 518


def _entries(path):
    with zipfile.ZipFile(path) as archive:
        return {entry: archive.read(entry) for entry in archive.namelist()}


class _Attack:
    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call


def _with_pickle(path, program):
    torch_writer.write_zip(path, {"archive/data.pkl": program})


def _system(path):
    _with_pickle(path, pickle.dumps(_Attack(os.system, (f"touch {path}.ran",)), protocol=2))


def _execute(path):
    _with_pickle(
        path, pickle.dumps(_Attack(exec, (f"open({str(path) + '.ran'!r}, 'w').close()",)), 4)
    )


def _old_instance(path):  # INST imports and calls in one instruction
    _with_pickle(path, b"(S'touch " + str(path).encode() + b".ran'\nios\nsystem\n.")


def _new_object(path):
    _save(path, Raw(name("collections", "OrderedDict") + b")\x81"))


def _attribute_by_build(path):
    rebuild = name("torch._utils", "_rebuild_tensor_v2")
    _save(path, Raw(rebuild + b"N}X\x0c\x00\x00\x00__defaults__Ns\x86b"))


def _attributes_by_build(path):  # into the object's own dict, past what setattr refuses
    _save(
        path,
        Raw(name("collections", "OrderedDict") + b"}X\x04\x00\x00\x00nameX\x01\x00\x00\x00xsb"),
    )


def _larger_by_build(path):  # a view that was checked, then moved
    tensor = Raw(torch_writer._push(View("w", 0, (6,), (1,)), {}))
    _save(path, Raw(tensor + b"N}X\x06\x00\x00\x00offsetK\x7fs\x86b"), storages={"w": SIX})


def _name_as_arguments(path):
    _save(path, Raw(name("collections", "OrderedDict") + name("torch", "FloatStorage") + b"R"))


def _memory_by_length(path):
    _save(path, Raw(b"\x96" + struct.pack("<Q", 2**40)))


def _deep_key(path):
    _save(path, Raw(b"}N" + b"\x85" * 10**6 + b"Ns"))


def _extension(path):
    _save(path, Raw(b"\x82\x01"))


def _dotted(path):
    _save(path, Raw(name("torch", "FloatStorage.__class__")))


def _numpy_function(path):
    _save(path, call(name("numpy", "load"), "x.npy"))


def _call_of_a_storage(path):
    _save(path, call(name("torch", "FloatStorage"), 3))


def _name_as_value(path):
    _save(path, [name("torch", "FloatStorage")])


def _mark_as_value(path):
    _save(path, Raw(b"]((e0(a"))


def _holds_itself(path):
    _save(path, Raw(b"]q\x00h\x00a"))


def _doubling(path):  # 2^60 items in 500 bytes: each list holds the one before it twice
    levels = [b"](h%ch%ceq%c" % (i, i, i + 1) for i in range(60)]
    _save(path, (Raw(b"]q\x00"), *map(Raw, levels)))


def _too_deep(path):
    _save(path, Raw(b"]" * 5000 + b"a" * 4999))


def _beyond_the_storage(path):
    _save(path, View("w", 1, (6,), (1,)), storages={"w": SIX})


def _beyond_by_stride(path):
    _save(path, View("w", 0, (2, 2), (4, 2)), storages={"w": SIX})


def _before_the_storage(path):
    _save(path, View("w", 3, (2,), (-4,)), storages={"w": SIX})


def _negative_size(path):
    _save(path, View("w", 0, (-1,), (1,)), storages={"w": SIX})


def _endless_view(path):
    _save(path, View("w", 0, (2**30, 2**30, 2**30), (0, 0, 0)), storages={"w": SIX})


def _size_that_is_no_number(path):
    _save(path, View("w", 0, (1.0,), (1,)), storages={"w": SIX})


def _storage_larger_than_its_bytes(path):
    _save(path, View("w", 0, (100,), (1,), size=100), storages={"w": SIX})


def _storage_missing(path):
    _save(path, View("v", 0, (6,), (1,)), storages={"w": SIX})


def _storage_elsewhere(path):
    _save(path, View("../../w", 0, (6,), (1,)), storages={"w": SIX})


def _storage_of_negative_size(path):
    _save(path, View("w", 0, (0,), (1,), size=-1), storages={"w": SIX})


def _too_many_dimensions(path):
    _save(path, View("w", 0, 65 * (1,), 65 * (1,)), storages={"w": SIX})


def _unknown_type(path):
    _save(path, View("w", 0, (6,), (1,), kind="QInt8Storage"), storages={"w": SIX})


def _compressed(path):
    _save(path, {"t": np.zeros(10**6, np.float32)}, compression=zipfile.ZIP_DEFLATED)


def _big_endian(path):
    _save(path, {"t": SIX}, byteorder=b"big")


def _legacy(path):  # what torch.save wrote before PyTorch 1.6
    path.write_bytes(pickle.dumps(119547037146038801333356, protocol=2) + b"rest")


def _empty(path):
    path.write_bytes(b"")


def _text(path):
    path.write_text("Not found")


def _truncated(path):
    _save(path, {"t": SIX})
    path.write_bytes(path.read_bytes()[:-30])


def _changed_byte(path):
    _save(path, {"t": SIX})
    path.write_bytes(path.read_bytes().replace(SIX.tobytes(), (SIX + 1).tobytes()))


def _zip_behind_a_program(path):
    _save(path, {"t": SIX})
    path.write_bytes(b"#!/bin/sh\n" + path.read_bytes())


def _other_zip(path):
    torch_writer.write_zip(path, {"word/document.xml": b""})


def _two_pickles(path):
    torch_writer.write_zip(path, {"a/data.pkl": b"N.", "b/data.pkl": b"N."})


def _cut_pickle(path):
    _with_pickle(path, torch_writer.program({"a": [1, 2]}, {})[:-4])


def _huge_string(path):
    _save(path, Raw(b"X" + struct.pack("<I", 2**32 - 1) + b"abc"))


def _unmatched(path):
    _save(path, Raw(b"}NNNu"))


def _unhashable_key(path):
    _save(path, Raw(b"}]Ns"))


def _tensor_as_key(path):
    tensor = Raw(torch_writer._push(View("w", 0, (6,), (1,)), {}))
    _save(path, Raw(b"}" + tensor + b"Ns"), storages={"w": SIX})


def _memory_by_memo(path):
    _save(path, Raw(b"Nr\xff\xff\xff\x7f" + b"j\xff\xff\xff\x7e"))


def _folder(path):
    path.mkdir()


HOSTILE = {
    _system: "'posix.system'",
    _execute: "'builtins.exec'|'__builtin__.exec'",
    _old_instance: "instruction STRING",
    _new_object: "instruction NEWOBJ",
    _attribute_by_build: "no attribute '__defaults__'",
    _attributes_by_build: "no attribute '__dict__'",
    _larger_by_build: "can't set attribute|no setter",
    _name_as_arguments: "call that PyTorch does not write",
    _memory_by_length: "damaged: expected 1099511627776 bytes",
    _deep_key: "too many tuples",
    _extension: "instruction EXT1",
    _dotted: "not a tensor or plain container",
    _numpy_function: "'numpy.load'",
    _call_of_a_storage: "call that PyTorch does not write",
    _name_as_value: "a _Name as a value",
    _mark_as_value: "damaged|as a value|instruction",
    _holds_itself: "contain themselves",
    _doubling: "contain themselves",
    _too_deep: "nested too deep",
    _beyond_the_storage: "beyond its storage",
    _beyond_by_stride: "beyond its storage",
    _before_the_storage: "whole numbers",
    _negative_size: "whole numbers",
    _endless_view: "too large",
    _size_that_is_no_number: "whole numbers",
    _storage_larger_than_its_bytes: "wrong length",
    _storage_missing: "data/v is damaged",
    _storage_elsewhere: "w is damaged",
    _storage_of_negative_size: "not a storage",
    _too_many_dimensions: "too long",
    _unknown_type: "'torch.QInt8Storage'",
    _compressed: "compressed",
    _big_endian: "byte order",
    _legacy: "not in PyTorch's zip format",
    _empty: "not in PyTorch's zip format",
    _text: "not in PyTorch's zip format",
    _truncated: "damaged",
    _changed_byte: "CRC",
    _zip_behind_a_program: "not in PyTorch's zip format",
    _other_zip: "one data.pkl",
    _two_pickles: "one data.pkl",
    _cut_pickle: "pickle is damaged",
    _huge_string: "pickle is damaged",
    _unmatched: "pickle is damaged",
    _unhashable_key: "pickle is damaged",
    _tensor_as_key: "neither a string nor a number",
    _memory_by_memo: "more memory than instructions",
    _folder: "directory",
}


@pytest.mark.parametrize("attack", HOSTILE, ids=lambda attack: attack.__name__[1:])
def test_wrong_files_are_refused_in_one_line(path, attack):
    attack(path)
    with pytest.raises(UserError, match=HOSTILE[attack]) as refusal:
        torch_files.read(path)
    assert "\n" not in str(refusal.value)
    assert str(path) in str(refusal.value)
    assert not Path(f"{path}.ran").exists()


def test_attributes_of_a_dict_do_not_stand_in_for_its_methods(path):
    items, ordered = b"X\x05\x00\x00\x00items", name("collections", "OrderedDict")
    _save(path, Raw(ordered + b")R}" + items + ordered + b"sb" + items + b"K\x07s"))
    assert torch_files.read(path) == {"items": 7}


def test_the_attacks_would_work_on_the_standard_library(path):
    for attack in (_system, _execute, _old_instance):
        attack(path)
        pickle.loads(_entries(path)["archive/data.pkl"])
        Path(f"{path}.ran").unlink()


def test_a_missing_file_is_named(path):
    with pytest.raises(UserError, match=f"there is no file {path}"):
        torch_files.read(path)


def test_changed_bytes_end_in_a_refusal_or_a_value(tmp_path):
    """Whatever a file holds, the reader raises nothing but UserError."""
    original = _save(tmp_path / "original.pt", {"a": [1, "b", SIX], "c": (SIX, 2.5)}).read_bytes()
    entries = _entries(tmp_path / "original.pt")
    rng = np.random.default_rng(0)
    changed = tmp_path / "changed.pt"
    refused = 0
    for trial in range(600):
        content = entries["archive/data.pkl"] if trial % 2 else original
        content = bytearray(content)
        for position in rng.integers(0, len(content), rng.integers(1, 4)):
            content[position] = rng.integers(0, 256)
        if trial % 2:  # past the archive's checksums
            torch_writer.write_zip(changed, entries | {"archive/data.pkl": bytes(content)})
        else:
            changed.write_bytes(content)
        try:
            torch_files.read(changed)
        except UserError:
            refused += 1
    assert 300 < refused < 600


def test_changed_bytes_of_a_stream_end_in_a_refusal_or_a_value(path):
    torch_writer.write_stream(path, {"a": [1, "b", SIX], "c": (SIX, 2.5)})
    original, rng = path.read_bytes(), np.random.default_rng(0)
    refused = 0
    for _ in range(600):
        content = bytearray(original)
        for position in rng.integers(0, len(content), rng.integers(1, 4)):
            content[position] = rng.integers(0, 256)
        path.write_bytes(content)
        try:
            torch_files.read(path, streams=True)
        except UserError:
            refused += 1
    assert 300 < refused < 600


def test_reading_imports_no_pytorch(path):
    _save(path, {"t": SIX})
    code = "import sys; from lzn_jax.release import torch_files;"
    code += f"torch_files.read({str(path)!r});"
    code += "sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
