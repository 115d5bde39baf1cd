"""Folders of images: layouts, splits, labels, and files decoded when they are asked for."""

import pickle

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from lzn_jax import data
from lzn_jax.data import pixels
from lzn_jax.data.folder import survey
from lzn_jax.errors import UserError


def _config(path, **changes):
    fields = {"name": "image_folder", "path": str(path), "image_size": 2, "channels": 1}
    fields |= {"num_classes": 1, "class_name": None, "holdout": None, "flip": False}
    return ConfigDict(fields | {"workers": 0, "skip_unreadable": False} | changes)


def _make(root, *names):
    """Image number k in the order given is all k."""
    for level, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((2, 2), level, np.uint8)).save(path)
    return root


def _levels(split):
    return split.images[:][:, 0, 0, 0].tolist()


def test_a_flat_folder_is_one_class_in_the_order_of_names(tmp_path):
    _make(tmp_path, "c.png", "a.PNG", "b.bmp", ".hidden.png")
    (tmp_path / "notes.txt").write_text("no image")
    train = data.load(_config(tmp_path, holdout=0), "train")
    assert _levels(train) == [1, 2, 0]
    assert train.labels.tolist() == [0, 0, 0]
    assert train.labels.dtype == np.int32
    assert data.class_names(_config(tmp_path, holdout=0)) == ("",)


def test_class_folders_number_the_labels_by_name(tmp_path):
    _make(tmp_path, "dog/b.png", "cat/c.png", "dog/a.png", "cat/sub/a.png")
    config = _config(tmp_path, num_classes=2, holdout=0)
    train = data.load(config, "train")
    assert _levels(train) == [1, 3, 2, 0]
    assert train.labels.tolist() == [0, 0, 1, 1]
    assert data.class_names(config) == ("cat", "dog")


@pytest.mark.parametrize("test_folder", ["test", "val", "validation"])
def test_train_and_test_folders_are_the_splits(tmp_path, test_folder):
    _make(tmp_path, "train/x/a.png", "train/y/b.png", f"{test_folder}/y/c.png", "LICENSE.png",
          f"{test_folder}/x/d.png")  # fmt: skip
    config = _config(tmp_path, num_classes=2)
    train, test = data.load(config, "train"), data.load(config, "test")
    assert (_levels(train), train.labels.tolist()) == ([0, 1], [0, 1])
    assert (_levels(test), test.labels.tolist()) == ([4, 2], [0, 1])


@pytest.mark.parametrize(
    ("changes", "levels"),
    [
        ({"num_classes": 2}, [2, 3]),
        ({"class_name": "y"}, [3]),
        ({}, [4]),  # a single class needs no class folders
    ],
)
def test_classes_are_tested_where_there_are_class_folders(tmp_path, changes, levels):
    """ImageNet as it is distributed: its test images are without labels, in a flat folder."""
    _make(tmp_path, "train/x/a.png", "train/y/b.png", "val/x/c.png", "val/y/d.png", "test/e.png",
          "validation/x/f.png", "validation/y/g.png")  # fmt: skip
    assert _levels(data.load(_config(tmp_path, **changes), "test")) == levels


def test_one_class_folder_may_be_taken_alone(tmp_path):
    _make(tmp_path, "train/cat/a.png", "train/dog/b.png", "val/cat/c.png", "val/dog/d.png")
    config = _config(tmp_path, class_name="dog")
    assert _levels(data.load(config, "train")) == [1]
    assert _levels(data.load(config, "test")) == [3]
    assert data.class_names(config) == ("dog",)


def test_a_single_class_takes_all_images_at_any_depth(tmp_path):
    _make(tmp_path, "train/cat/a.png", "train/dog/0/1/b.png", "test/c.png")
    train = data.load(_config(tmp_path), "train")
    assert (_levels(train), train.labels.tolist()) == ([0, 1], [0, 0])


def _splits(config):
    return [_levels(data.load(config, split)) for split in ("train", "test")]


@pytest.mark.parametrize("holdout", [1, 2, 5, 11])
def test_held_out_images_are_drawn_by_class_and_not_trained_on(tmp_path, holdout):
    _make(tmp_path, *(f"{'abb'[i % 3]}/{i:02}.png" for i in range(18)))
    config = _config(tmp_path, num_classes=2, holdout=holdout)
    train, test = _splits(config)
    assert (sorted(train + test), len(test)) == (list(range(18)), holdout)
    assert abs(np.sum(np.array(test) % 3 == 0) - holdout / 3) < 1
    assert _splits(config) == [train, test]
    others = [_splits(_config(tmp_path, holdout=holdout, holdout_seed=k))[1] for k in range(9)]
    assert len(set(map(tuple, others))) > 1


def test_without_a_holdout_both_splits_are_all_images(tmp_path):
    _make(tmp_path, *(f"{i}.png" for i in range(7)))
    assert _splits(_config(tmp_path, holdout=0)) == [list(range(7))] * 2


def test_images_can_be_indexed_as_an_array(tmp_path):
    _make(tmp_path, *(f"{i}.png" for i in range(7)))
    images = data.load(_config(tmp_path, holdout=0, image_size=3, channels=3), "train").images
    array = np.asarray(images)
    assert images.shape == array.shape == (7, 3, 3, 3)
    assert images.dtype == array.dtype == np.uint8
    assert array[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 4, 5, 6]
    for rows in (2, np.int64(2), -1, slice(1, 5, 2), slice(None), [4, 0, 4], np.array([], int),
                 np.arange(7) > 4):  # fmt: skip
        np.testing.assert_array_equal(images[rows], array[rows])
    with pytest.raises(IndexError):
        images[7]


def test_all_images_in_memory_have_a_limit(tmp_path, monkeypatch):
    _make(tmp_path, *(f"{i}.png" for i in range(7)))
    images = data.load(_config(tmp_path, holdout=0), "train").images
    monkeypatch.setattr(pixels, "MAX_BYTES_IN_MEMORY", 7 * 2 * 2)
    assert np.asarray(images).shape == (7, 2, 2, 1)
    monkeypatch.setattr(pixels, "MAX_BYTES_IN_MEMORY", 7 * 2 * 2 - 1)
    with pytest.raises(UserError, match="7 images of 2 pixels"):
        np.asarray(images)


def test_a_worker_gets_many_names_in_few_bytes(tmp_path):
    _make(tmp_path, *(f"{i:03}.png" for i in range(200)))
    images = data.load(_config(tmp_path, holdout=0), "train").images
    assert len(pickle.dumps(images)) < 200 * (7 + 4) + 2000  # a name and a label


def test_an_unreadable_image_is_an_error_or_replaced_wherever_it_is_indexed(tmp_path, caplog):
    _make(tmp_path, "a/0.png", "a/1.png", "b/2.png", "b/3.png")
    (tmp_path / "a" / "1.png").write_text("no image")
    config = _config(tmp_path, num_classes=2, holdout=0)
    images = data.load(config, "test").images
    assert images[0].max() == 0
    for rows in (1, slice(None)):
        with pytest.raises(UserError, match=r"1\.png \(its format is unknown\)"):
            images[rows]
    config.skip_unreadable = True
    images = data.load(config, "test").images
    for _ in range(2):
        assert images[:][:, 0, 0, 0].tolist() == [0, 0, 2, 3]
    assert [record.args[1] for record in caplog.records] == [str(tmp_path / "a" / "1.png")]


def test_a_file_that_vanishes_is_unreadable(tmp_path):
    _make(tmp_path, "0.png", "1.png")
    images = data.load(_config(tmp_path, holdout=0), "test").images
    (tmp_path / "1.png").unlink()
    with pytest.raises(UserError, match=r"1\.png \(No such file or directory\)"):
        images[:]


@pytest.mark.parametrize(
    ("names", "changes", "message"),
    [
        (["train/a.txt/b.png"], {"path": "missing"}, "there is no folder missing"),
        (["train/x/a.png"], {}, "has no folder test, val, validation: set data.holdout"),
        (["train/x/a.png", "val/notes/a.png"], {"class_name": "z"}, "no class folder z: .* x"),
        (["a.png"], {"holdout": 1}, "data.holdout must leave some of 1 "),
        (["a/a.png", "b/b.png"], {"holdout": 1, "num_classes": 2},
         "data.holdout=1 leaves no training image of the class [ab]: lower it"),
        (["x/a.png"], {"num_classes": 2, "holdout": 0}, r"class folders in .*, 1 \(x\)"),
        (["a.png"], {"num_classes": 2, "holdout": 0}, r"class folders in .*, 0 \(none\)"),
        (["x/a.png"], {"num_classes": 2, "class_name": "x", "holdout": 0}, "must be 1 with"),
        (["train/x/a.png", "train/y/a.png", "val/x/a.png", "val/y/a.png", "val/z/a.png"],
         {"num_classes": 2}, "z is a class without training images"),
        (["train/x/a.png", "train/y/a.png", "val/x/a.png"], {"num_classes": 2},
         "y holds no images"),
        (["train/x/a.png", "train/y/a.png", "test/a.png", "val/a.png"], {"num_classes": 2},
         "test/x holds no images"),
        (["train/x/a.png", "val/x/a.png"], {"class_name": "empty"}, "holds no images"),
    ],
)  # fmt: skip
def test_a_folder_of_another_layout_is_named_in_one_line(tmp_path, names, changes, message):
    _make(tmp_path, *names)
    for folder in ("train/empty", "val/empty"):
        if "class_name" in changes and (tmp_path / "val").is_dir():
            (tmp_path / folder).mkdir()
    config = _config(tmp_path)
    config.update(changes)
    with pytest.raises(UserError, match=message) as raised:
        data.load(config, "train"), data.load(config, "test")
    assert len(str(raised.value).splitlines()) == 1


@pytest.mark.parametrize("target", ["..", "../.."])
def test_a_cycle_of_links_is_one_line_and_a_link_to_itself_is_no_folder(tmp_path, target):
    _make(tmp_path, "a/b/0.png", "c/1.png")
    (tmp_path / "a" / "itself").symlink_to("itself")
    (tmp_path / "itself").symlink_to("itself")
    assert _levels(data.load(_config(tmp_path, num_classes=2, holdout=0), "train")) == [0, 1]
    (tmp_path / "a" / "b" / "loop").symlink_to(target)
    for classes in (1, 2):
        config = _config(tmp_path, num_classes=classes, holdout=0)
        with pytest.raises(UserError, match=r"loop.* is a folder above it, by a link"):
            data.load(config, "train")


def test_a_survey_reads_a_thousand_headers_of_many_files(tmp_path, monkeypatch):
    _make(tmp_path, *(f"{name}/{index}.png" for name in "xyz" for index in range(4)))
    assert survey(tmp_path, None) == (3, 2, True)
    assert survey(tmp_path, "y") == (1, 2, True)
    Image.new("RGB", (3, 2)).save(tmp_path / "x" / "1.png")
    assert survey(tmp_path, None) == (3, None, False)
    monkeypatch.setattr("lzn_jax.data.folder.MAX_HEADERS", 3)  # the middles of thirds
    assert survey(tmp_path, None) == (3, 2, True)
