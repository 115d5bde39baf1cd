"""Data sets prepared by TensorFlow Datasets, here tiny ones that the test prepares itself."""

import json
import pickle
import re
import shutil
import sys

import numpy as np
import pytest
from ml_collections import ConfigDict

from lzn_jax import data
from lzn_jax.data import tfds as source
from lzn_jax.data.batches import TrainingBatches, whole_image
from lzn_jax.data.pixels import EncodedImages

pytest.importorskip("tensorflow_datasets", reason="pip install -e '.[tfds]'")
pytest.importorskip("array_record", reason="pip install -e '.[tfds]'")
from tfds_writer import prepare

MODES = ("RGB", "L", "RGBA", "P", "LA")
TEXTS = {5: ["five", "a dark square"], 6: [], 7: ["seven", "é🙂", "a dark square"]}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """`shapes` has 12 training and 4 test images, `squares` has 3 of 2x2 without classes.

    `spoken` has TEXTS beside them.
    """
    folder = tmp_path_factory.mktemp("tfds")
    rows = [(10 * i, MODES[i % 5], i % 3) for i in range(16)]
    splits = {"train": rows[:12], "validation": rows[12:]}
    prepare(folder, "shapes", (None, None, 3), splits, ["one", "two", "three"])
    squares = {"train": [(level, "L", None) for level in (5, 6, 7)]}
    prepare(folder, "squares", (2, 2, 1), squares, None)
    prepare(folder, "spoken", (None, None, 1), squares, None, texts=TEXTS)
    return folder


def _config(folder, **changes):
    fields = {"name": "tfds", "path": str(folder), "tfds_name": "shapes", "image_size": 2}
    fields |= {"centre_crop": 1.0, "channels": 3, "num_classes": 3, "flip": False, "workers": 0}
    fields |= {"train_split": "train", "test_split": "validation"}
    return ConfigDict(fields | {"skip_unreadable": False, "captions": False} | changes)


SPOKEN = {"tfds_name": "spoken", "channels": 1, "num_classes": 1, "captions": True}


def _spoken(folder, **changes):
    return _config(folder, **SPOKEN | {"skip_unreadable": True} | changes)


@pytest.mark.parametrize(("split", "levels"), [("train", range(12)), ("test", range(12, 16))])
def test_records_of_every_mode_become_images_and_labels(prepared, split, levels):
    examples = data.load(_config(prepared), split)
    assert isinstance(examples.images, EncodedImages)
    assert examples.images.shape == (len(levels), 2, 2, 3)
    images = examples.images[:]
    assert np.ptp(images, axis=(1, 2, 3)).max() == 0
    shown = images[:, 0, 0, 0] // 10
    assert sorted(shown) == list(levels)
    np.testing.assert_array_equal(examples.labels, shown % 3)
    assert data.class_names(_config(prepared)) == ("one", "two", "three")


def test_parts_of_splits_are_splits(prepared):
    config = _config(prepared, train_split="train[:25%]", test_split="train[25%:]+validation")
    train, test = data.load(config, "train"), data.load(config, "test")
    assert (len(train.images), len(test.images)) == (3, 13)
    shown = np.concatenate([train.images[:], test.images[:]])[:, 0, 0, 0] // 10
    assert sorted(shown) == list(range(16))


def test_a_single_class_needs_no_labels(prepared):
    assert data.load(_config(prepared, num_classes=1), "train").labels.tolist() == [0] * 12
    config = _config(prepared, tfds_name="squares", channels=1, num_classes=1)
    examples = data.load(config, "train")
    assert isinstance(examples.images, np.ndarray)  # of the right size already
    assert sorted(examples.images[:, 0, 0, 0]) == [5, 6, 7]
    assert examples.labels.tolist() == [0, 0, 0]
    assert data.class_names(config) == ("",)
    config.centre_crop = 0.5  # what training crops is the whole image
    assert isinstance(data.load(config, "train").images, EncodedImages)


@pytest.mark.parametrize("skip_unreadable", [False, True])
def test_a_damaged_record_is_an_error_when_labels_are_read(
    prepared, tmp_path, fault_of, skip_unreadable
):
    folder = tmp_path / "shapes" / "1.0.0"
    shutil.copytree(prepared / "shapes" / "1.0.0", folder)
    (file,) = folder.glob("*train*")
    intact = file.read_bytes()
    second = intact.index(b"PNG", intact.index(b"PNG") + 1)  # each record holds one PNG file
    file.write_bytes(intact[:second] + b"png" + intact[second + 3 :])
    line = fault_of(_config(tmp_path, skip_unreadable=skip_unreadable))
    assert line.startswith("shapes's split train has a damaged record (Corrupted ")
    assert line.endswith("): prepare it again")
    images = data.load(_config(tmp_path, num_classes=1), "train").images
    assert "record 1 of shapes's split train (its record is damaged" in fault_of(
        read=lambda: images[:]
    )


def test_labels_and_texts_of_a_large_split_are_read_once(prepared, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(source, "_CACHE_ABOVE", 2)
    shapes, spoken = (data.load(c, "train") for c in (_config(prepared), _spoken(prepared)))
    monkeypatch.setattr(source, "progress", None)
    np.testing.assert_array_equal(data.load(_config(prepared), "train").labels, shapes.labels)
    assert data.load(_spoken(prepared), "train").texts.tolist() == spoken.texts.tolist()


@pytest.mark.parametrize("size", [2, 4])  # decoded when asked for, or kept in memory
def test_each_text_of_a_record_is_an_example(prepared, size, caplog):
    examples = data.load(_spoken(prepared, image_size=size), "train")
    said = {}
    for image, text in zip(examples.images[:], examples.texts, strict=True):
        assert image.shape == (size, size, 1)
        said.setdefault(int(image.max()), []).append(text)
    assert said == {level: texts for level, texts in TEXTS.items() if texts}
    assert examples.labels.tolist() == [0] * 5
    assert "left out, not a pair: an image without a text: record " in caplog.text
    config = _spoken(prepared, image_size=size, validation=1, validation_seed=0)
    found = [
        {(int(image.max()), text) for image, text in zip(part.images[:], part.texts, strict=True)}
        for part in (data.load(config, "train"), data.load(config, "validation"))
    ]
    assert sorted(found, key=len) == [{(level, text) for text in TEXTS[level]} for level in (5, 7)]


def test_batches_are_the_same_from_a_copy_for_a_worker(prepared):
    config = _config(prepared)
    examples, found = data.load(config, "train"), []
    copy = examples._replace(images=pickle.loads(pickle.dumps(examples.images)))
    for each in (examples, copy):
        with TrainingBatches(each, 8, 3, whole_image(config)) as batches:
            found.append([next(batches) for _ in range(3)])
    for alone, worker in zip(*found, strict=True):
        np.testing.assert_array_equal(alone["labels"], alone["images"][:, 0, 0, 0] // 10 % 3)
        for name, values in alone.items():
            np.testing.assert_array_equal(worker[name], values)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tfds_name": "nonsense"}, "holds no data set nonsense .* tfds build nonsense"),
        ({"tfds_name": "cifar10"}, "holds no data set cifar10 .* tfds build cifar10"),
        ({"path": "/nowhere"}, "/nowhere holds no data set shapes"),
        ({"train_split": "dev"}, r"no split 'dev' \(.*\): its splits are train, validation"),
        ({"train_split": "train[["}, r"no split 'train\[\['"),
        ({"num_classes": 2}, "data.num_classes must be 3 with shapes, got 2"),
        ({"tfds_name": "squares", "num_classes": 3}, "data.num_classes must be 1 with squares"),
        (SPOKEN | {"tfds_name": "squares"}, "squares must have exactly one text feature, got none"),
        (SPOKEN, "1 texts or images form no pair, the first is an image without"),
    ],
)
def test_what_is_not_there_is_named_in_one_line(prepared, fault_of, changes, message):
    assert re.search(message, fault_of(_config(prepared, **changes)))


def test_files_and_packages_that_are_missing_are_an_error(
    prepared, tmp_path, fault_of, monkeypatch
):
    version = tmp_path / "shapes" / "1.0.0"
    version.mkdir(parents=True)
    for path in (prepared / "shapes" / "1.0.0").glob("*.json"):
        content = json.loads(path.read_text())
        if "fileFormat" in content:
            content["fileFormat"] = "tfrecord"
        (version / path.name).write_text(json.dumps(content))
    line = fault_of(_config(tmp_path))
    assert "no data set shapes that is readable without TensorFlow" in line
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    assert "pip install tensorflow-datasets array_record" in fault_of(_config(prepared))


@pytest.mark.parametrize(
    ("name", "version", "shape"),
    [("fashion_mnist", "3.0.1", (28, 28, 1)), ("cifar10", "3.0.2", (32, 32, 3))],
)
def test_small_data_sets_may_come_from_tfds(tmp_path, fault_of, name, version, shape):
    rows = [(i % 200, "L" if shape[2] == 1 else "RGB", i % 10) for i in range(30)]
    prepare(tmp_path, name, shape, {"train": rows, "test": rows[:20]}, list("abcdefghij"), version)
    fields = {"name": name.removesuffix("_mnist"), "path": str(tmp_path), "num_classes": 10}
    config = ConfigDict(fields | {"image_size": shape[0], "channels": shape[2]})
    if name == "fashion_mnist":
        assert "got (20, 28, 28) and 20 labels" in fault_of(config, "test")
        return
    examples = data.load(config, "test")
    assert examples.images.shape == (20, *shape)
    np.testing.assert_array_equal(examples.images[:, 9, 9, 0] % 10, examples.labels)
    assert sorted(examples.images[:, 0, 0, 0]) == list(range(20))
