"""Folders of images: layouts, splits, labels and texts."""

import json
import os
import pickle
import re

import numpy as np
import pytest
from ml_collections import ConfigDict

from lzn_jax import data
from lzn_jax.data import load_pairs_alone, pixels
from lzn_jax.errors import UserError


def levels(examples):
    """Which of the images of `folder_of` these are."""
    return examples.images[:][:, 0, 0, 0].tolist()


FLAT = ("c.png", "a.PNG", "b.bmp", ".hidden.png")
SPLITS = ("train/x/a.png", "train/y/b.png", "T/y/c.png", "LICENSE.png", "T/x/d.png")
# As it is distributed: its test images are without labels, in a flat folder.
IMAGENET = ("train/x/a.png", "train/y/b.png", "val/x/c.png", "val/y/d.png", "test/e.png",
            "validation/x/f.png", "validation/y/g.png")  # fmt: skip
TWO, TESTED = {"num_classes": 2}, {"num_classes": 2, "holdout": None}


@pytest.mark.parametrize(
    ("names", "changes", "train", "test", "classes"),
    [
        (FLAT, {}, {"": [1, 2, 0]}, {"": [1, 2, 0]}, ("",)),
        (("dog/b.png", "cat/c.png", "dog/a.png", "cat/sub/a.png"), TWO,
         {"cat": [1, 3], "dog": [2, 0]}, {"cat": [1, 3], "dog": [2, 0]}, ("cat", "dog")),
        *(([name.replace("T", folder) for name in SPLITS], TESTED,
           {"x": [0], "y": [1]}, {"x": [4], "y": [2]}, ("x", "y"))
          for folder in ("test", "val", "validation")),
        (IMAGENET, TESTED, {"x": [0], "y": [1]}, {"x": [2], "y": [3]}, ("x", "y")),
        (IMAGENET, {"class_name": "y", "holdout": None}, {"y": [1]}, {"y": [3]}, ("y",)),
        # A single class needs no class folders.
        (IMAGENET, {"holdout": None}, {"": [0, 1]}, {"": [4]}, ("",)),
    ],
)  # fmt: skip
def test_folders_are_splits_and_classes_in_the_order_of_names(
    folder_of, tmp_path, names, changes, train, test, classes
):
    config = folder_of(*names, **changes)
    (tmp_path / "notes.txt").write_text("no image")
    assert data.class_names(config) == classes
    for split, expected in (("train", train), ("test", test)):
        found = data.load(config, split)
        assert found.labels.dtype == np.int32
        shown = {}
        for label, level in zip(found.labels, levels(found), strict=True):
            shown.setdefault(classes[label], []).append(level)
        assert list(shown.items()) == list(expected.items())


def test_labels_have_the_names_of_classes_or_their_numbers(folder_of, tmp_path):
    for name in (b"cat", b"d\xffg"):
        os.mkdir(os.path.join(os.fsencode(tmp_path), name))
    names = [data.label_names(folder_of(num_classes=k)) for k in (1, 2, 3)]
    assert names == [["0"], ["cat", "d?g"], ["0", "1", "2"]]


def _splits(config):
    return [levels(data.load(config, split)) for split in ("train", "test")]


@pytest.mark.parametrize("holdout", [1, 2, 5, 11])
def test_held_out_images_are_drawn_by_class_and_not_trained_on(folder_of, holdout):
    names = [f"{'abb'[i % 3]}/{i:02}.png" for i in range(18)]
    config = folder_of(*names, num_classes=2, holdout=holdout)
    train, test = _splits(config)
    assert (sorted(train + test), len(test)) == (list(range(18)), holdout)
    assert abs(np.sum(np.array(test) % 3 == 0) - holdout / 3) < 1
    assert _splits(config) == [train, test]
    others = [_splits(ConfigDict({**config, "holdout_seed": k}))[1] for k in range(9)]
    assert len(set(map(tuple, others))) > 1
    config.holdout = 0
    assert [sorted(part) for part in _splits(config)] == [list(range(18))] * 2


def test_images_can_be_indexed_as_an_array(folder_of, monkeypatch):
    config = folder_of(*(f"{i}.png" for i in range(7)), image_size=3, channels=3)
    images = data.load(config, "train").images
    array = np.asarray(images)
    assert images.shape == array.shape == (7, 3, 3, 3)
    assert images.dtype == array.dtype == np.uint8
    assert array[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 4, 5, 6]
    for rows in (2, np.int64(2), -1, slice(1, 5, 2), slice(None), [4, 0, 4], np.array([], int),
                 np.arange(7) > 4):  # fmt: skip
        np.testing.assert_array_equal(images[rows], array[rows])
    with pytest.raises(IndexError):
        images[7]
    monkeypatch.setattr(pixels, "MAX_BYTES_IN_MEMORY", 7 * 3 * 3 * 3 - 1)
    with pytest.raises(UserError, match="7 images of 3 pixels"):
        np.asarray(images)


def test_a_worker_gets_many_names_in_few_bytes(folder_of):
    images = data.load(folder_of(*(f"{i:03}.png" for i in range(200))), "train").images
    assert len(pickle.dumps(images)) < 200 * 7 + 2000


def test_an_unreadable_image_is_an_error_or_replaced_wherever_it_is_indexed(
    folder_of, fault_of, tmp_path, caplog
):
    config = folder_of("0.png", "1.png", "2.png", "3.png", broken=["1.png"])
    images = data.load(config, "test").images
    assert images[0].max() == 0
    (tmp_path / "3.png").unlink()
    for rows, fault in (
        (1, "1.png (its format is unknown)"),
        (slice(3), "1.png (its format is unknown)"),
        (3, "3.png (No such file or directory)"),
    ):
        assert f"{tmp_path}/{fault}" in fault_of(read=lambda rows=rows: images[rows])
    images.data.skip_unreadable = True
    for _ in range(2):
        assert images[:][:, 0, 0, 0].tolist() == [0, 2, 2, 0]
    assert sorted(line.rpartition("/")[2] for line in caplog.messages) == ["1.png", "3.png"]


@pytest.mark.parametrize("target", ["..", "../.."])
def test_a_cycle_of_links_is_one_line_and_a_link_to_itself_is_no_folder(
    folder_of, fault_of, tmp_path, target
):
    config = folder_of("a/b/0.png", "c/1.png", num_classes=2)
    (tmp_path / "a" / "itself").symlink_to("itself")
    (tmp_path / "itself").symlink_to("itself")
    assert levels(data.load(config, "train")) == [0, 1]
    (tmp_path / "a" / "b" / "loop").symlink_to(target)
    for config.num_classes in (1, 2):
        assert re.search("loop.* is a folder above it, by a link", fault_of(config))


def _pairs(examples):
    return list(zip(levels(examples), examples.texts.tolist(), strict=True))


@pytest.mark.parametrize("file", ["metadata.jsonl", "metadata.csv"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_each_row_is_an_example_in_the_order_of_the_images(folder_of, tmp_path, file, encoding):
    config = folder_of("b.png", "sub/a.png", captions=True)
    rows = [("sub/a.png", 'é🙂, "so"'), ("./b.png", "two\nlines"), ("sub/a.png", "$x$")]
    lines = [json.dumps({"file_name": name, "text": text, "id": 7}) for name, text in rows]
    if file == "metadata.csv":
        quoted = [(name, text.replace('"', '""')) for name, text in rows]
        lines = ["text,id,file_name", *(f'"{text}",7,{name}' for name, text in quoted)]
    (tmp_path / file).write_text("\n".join(lines) + "\n", encoding=encoding)
    train = data.load(config, "train")
    assert _pairs(train) == [(0, "two\nlines"), (1, 'é🙂, "so"'), (1, "$x$")]
    assert train.labels.tolist() == [0, 0, 0]
    assert train.left_out == ()
    config.captions = False  # metadata are not read
    (tmp_path / file).write_text("nonsense")
    assert data.load(config, "train").texts is None


@pytest.mark.parametrize("at_root", [False, True])
def test_splits_and_classes_have_their_own_texts(folder_of, tmp_path, at_root):
    """A file in each split's folder, or one beside them whose names hold the folder."""
    images = ["train/cat/a.png", "train/dog/b.png", "test/cat/c.png", "test/dog/d.png"]
    rows = [(name, f"text of {name}") for name in reversed(images)]
    config = folder_of(*images, texts=rows, num_classes=2, holdout=None)
    if not at_root:
        lines = (tmp_path / "metadata.jsonl").read_text().splitlines()
        for split in ("train", "test"):
            own = [line.replace(f'"{split}/', '"') for line in lines if f'"{split}/' in line]
            (tmp_path / split / "metadata.jsonl").write_text("\n".join(own))
    train, test = data.load(config, "train"), data.load(config, "test")
    assert _pairs(train) == [(i, f"text of {images[i]}") for i in (0, 1)]
    assert _pairs(test) == [(i, f"text of {images[i]}") for i in (2, 3)]
    assert train.labels.tolist() == test.labels.tolist() == [0, 1]
    config.num_classes, config.class_name = 1, "dog"
    assert _pairs(data.load(config, "train")) == [(1, f"text of {images[1]}")]


@pytest.mark.parametrize("holdout", [1, 2])
def test_a_held_out_image_takes_all_its_texts_along(folder_of, holdout):
    names = [f"{i}.png" for i in range(5)]
    rows = [(n, f"{n} said {j}") for j in range(3) for n in names if (n, j) != ("4.png", 2)]
    config = folder_of(*names, texts=rows, holdout=holdout)
    train, test = _pairs(data.load(config, "train")), _pairs(data.load(config, "test"))
    assert len({level for level, _ in test}) == holdout
    assert sorted(train + test) == sorted((int(name[0]), text) for name, text in rows)
    assert not {level for level, _ in train} & {level for level, _ in test}


@pytest.mark.parametrize("holdout", [12, 20, 100])
def test_pairs_are_held_out_by_text(folder_of, holdout):
    """Texts that repeat in the order of names had been drawn as evenly as the names."""
    names = [f"{i:03}.png" for i in range(120)]
    texts = [(name, f"text {i % 6}") for i, name in enumerate(names)]
    config = folder_of(*names, texts=texts, holdout=holdout)
    for split, count in (("train", 120 - holdout), ("test", holdout)):
        found = data.load(config, split).texts.tolist()
        counts = [found.count(f"text {k}") for k in range(6)]
        assert sum(counts) == count
        assert max(counts) - min(counts) <= 1


def test_metadata_above_the_data_sets_folder_are_not_its_own(folder_of, fault_of, tmp_path):
    config = folder_of("data/a.png", texts=[("data/a.png", "a")])
    config.path = str(tmp_path / "data")
    assert "data has no metadata.jsonl or metadata.csv" in fault_of(config)


def test_images_without_a_text_are_none_of_those_to_hold_out_of(folder_of, fault_of):
    texts = [(f"{i}.png", f"{i}") for i in (0, 1, 8)]
    config = folder_of(*(f"{i}.png" for i in range(9)), texts=texts, skip_unreadable=True)
    config.holdout = 1
    (test,), train = (_pairs(data.load(config, split)) for split in ("test", "train"))
    assert sorted([test, *train]) == [(0, "0"), (1, "1"), (8, "8")]
    config.holdout = 3
    assert fault_of(config, "test").startswith("data.holdout must leave some of 3 ")


def test_what_is_no_pair_is_an_error_or_left_out_and_named(folder_of, fault_of, tmp_path, caplog):
    rows = [("a.png", "one"), ("gone.png", "x"), ("a.png", "one"), ("b.png", " "), ("b.png", "b")]
    rows += [("nowhere/d.png", "y"), ("c.png", "")]
    silent = [f"silent/{i:02}.png" for i in range(22)]
    config = folder_of("a.png", "b.png", "c.png", *silent, texts=rows)
    assert fault_of(config).startswith(
        "28 texts or images form no pair, the first is a text without its image: gone.png in line 2"
    )
    caplog.clear()
    config.skip_unreadable = True
    examples = data.load(config, "train")
    assert _pairs(examples) == [(0, "one"), (1, "b")]
    faults = [
        *("a text without its image: gone.png in line 2 of ", "a repeated pair: a.png in line 3"),
        *("an empty text: b.png in line 4", "a text without its image: nowhere/d.png in line 6"),
        *("an empty text: c.png in line 7", f"an image without a text: {tmp_path}/c.png"),
        *(f"an image without a text: {tmp_path}/{name}" for name in silent),
    ]
    for found, fault in zip(examples.left_out, faults, strict=True):
        assert found.startswith(fault)
    expected = [f"left out, not a pair: {fault}" for fault in examples.left_out[:20]]
    assert caplog.messages == [*expected, "left out in total: 28 texts and images"]
    config.skip_unreadable = False
    assert load_pairs_alone(config, "train").left_out == examples.left_out


CSV = "file_name,text\n"
JSON = '{"file_name": "a.png", "text": "a"}\n'


def _metadata(**files):
    """A folder of an image and metadata: content by the end of the name."""
    return ["a.png"], {"holdout": 0, "captions": True}, files


FAULTS = {  # a line for each folder of images: names, fields, metadata
    "there is no folder .*/missing:": ([], {"path": "missing"}, {}),
    "has no folder test, val, validation: set data.holdout": (["train/x/a.png"], {}, {}),
    "z is no folder: the class folders .* x": (["train/x/a.png"], {"class_name": "z"}, {}),
    "data.holdout must leave some of 1 ": (["a.png"], {"holdout": 1}, {}),
    "data.holdout=1 leaves no training image of the class [ab]: lower it": (
        ["a/a.png", "b/b.png"], {"holdout": 1, "num_classes": 2}, {}),
    r"class folders in .*, 1 \(x\)": (["x/a.png"], {"num_classes": 2, "holdout": 0}, {}),
    r"class folders in .*, 0 \(none\), or 1": (["a.png"], {"num_classes": 2, "holdout": 0}, {}),
    r"class folders in .*x, 0 \(none\), or 1": (
        ["x/a.png"], {"num_classes": 2, "class_name": "x", "holdout": 0}, {}),
    "z is a class without training images": ([*IMAGENET, "val/z/a.png"], {"num_classes": 2}, {}),
    "y holds no images": (IMAGENET[:3], {"num_classes": 2}, {}),
    "test/x holds no images": ([*IMAGENET[:2], "test/a.png"], {"num_classes": 2}, {}),
    "has no metadata.jsonl or metadata.csv with file_name and text: write one": _metadata(),
    "holds both .*: remove one": _metadata(csv=CSV, jsonl=JSON),
    "after line 1: Expecting": _metadata(jsonl=f"{JSON}{{'file_name': 'a.png'}}"),
    "after line 0: too deeply nested": _metadata(jsonl="[" * 10**5),
    "line 3 of .* must have file_name and text": _metadata(jsonl=f"{JSON}\n[1]"),
    "line 2 of .*l must have file_name": _metadata(jsonl=f"{JSON}null"),
    "line 1 .* strings": _metadata(jsonl='{"file_name": "a.png", "text": ["a", "b"]}'),
    r"no image has a text, the first is .*a\.png": _metadata(jsonl=""),
    "line 2 of .*v must have file_name and text": _metadata(csv="file,text\na.png,a\n"),
    "line 3 .* texts in quotes": _metadata(csv=f"{CSV}a.png,a\na.png,b, c\n"),
    "line 2 of .*csv must have file_name and text": _metadata(csv=f"{CSV}a.png\n"),
    "after .*unexpected end of data": _metadata(csv=f'{CSV}a.png,"a\n'),
    "'utf-8' codec": _metadata(csv=f"{CSV}a.png,é\n".encode("latin-1")),
}  # fmt: skip


@pytest.mark.parametrize("message", FAULTS)
def test_what_is_wrong_with_a_folder_is_named_in_one_line(folder_of, fault_of, tmp_path, message):
    names, changes, metadata = FAULTS[message]
    config = folder_of(*names, **{"holdout": None, **changes})
    for suffix, content in metadata.items():
        content = content if isinstance(content, bytes) else content.encode()
        (tmp_path / f"metadata.{suffix}").write_bytes(content)
    line = fault_of(config, "train", "test")
    assert re.search(message, line), line
