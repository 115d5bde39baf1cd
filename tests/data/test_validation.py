"""A part of the training examples, set apart to choose settings on."""

import json

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from lzn_jax import configuration, data
from lzn_jax.data import set_apart
from lzn_jax.data.pixels import EncodedImages
from lzn_jax.errors import UserError

LABELS = np.random.default_rng(0).permutation(np.repeat([0, 1, 2, 3], [10, 40, 100, 57]))


@pytest.mark.parametrize("count", [1, 7, 60, 206])
def test_the_part_has_its_count_and_the_proportions_of_classes(count):
    chosen = set_apart(LABELS, None, count, seed=3)
    assert chosen.sum() == count
    shares = count * np.bincount(LABELS) / len(LABELS)
    assert np.abs(np.bincount(LABELS[chosen], minlength=4) - shares).max() < 1


def test_a_seed_is_a_choice():
    first, again, other = (set_apart(LABELS, None, 60, seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    # Independent choices share 60 * 60 / 207 examples.
    assert 5 < (first & other).sum() < 35


def test_a_class_has_its_share_of_examples_whatever_its_groups():
    sizes = np.array([1, 9] * 40)
    many = np.repeat(np.arange(80), sizes)
    groups, labels = np.r_[many, 100 + np.arange(400)], np.repeat([0, 1], 400)
    for seed in range(5):
        chosen = set_apart(labels, groups, 200, seed)
        # The last group of each class is whole.
        assert abs(chosen[:400].mean() - chosen[400:].mean()) < (sizes.max() + 1) / 400


@pytest.mark.parametrize("seed", range(5))
def test_groups_are_never_divided_and_at_most_the_last_one_exceeds_the_count(seed):
    rng = np.random.default_rng(seed)
    groups = rng.permutation(np.repeat(np.arange(50) * 7, rng.integers(1, 6, 50)))
    chosen = set_apart(np.zeros(len(groups), int), groups, 30, seed)
    assert not set(groups[chosen]) & set(groups[~chosen])
    assert 30 <= chosen.sum() < 35


def test_something_must_be_left_to_train_on():
    for groups in (None, np.zeros(len(LABELS), int)):
        count = len(LABELS) if groups is None else 1
        with pytest.raises(UserError, match=rf"must leave some of 207 .*, got {count}$"):
            set_apart(LABELS, groups, count, seed=0)


def _digits(**changes):
    return ConfigDict({"name": "digits", "captions": True, "validation_seed": 0} | changes)


def _rows(*parts):
    return sorted(
        (image.tobytes(), int(label), str(text))
        for part in parts
        for image, label, text in zip(part.images, part.labels, part.texts, strict=True)
    )


def test_training_and_validation_digits_are_all_training_digits_and_the_test_set_stays():
    parts = [data.load(_digits(validation=287), split) for split in ("train", "validation")]
    assert [len(part.labels) for part in parts] == [1150, 287]
    # As rows with their captions, which the ruler of all training digits has measured.
    assert _rows(*parts) == _rows(data.load(_digits(), "train"))
    tests = [data.load(_digits(validation=count), "test") for count in (0, 287)]
    assert _rows(tests[0]) == _rows(tests[1])


def test_the_seed_of_a_config_draws_its_validation_digits():
    first, again, other = (
        data.load(_digits(validation=287, validation_seed=seed), "validation") for seed in (0, 0, 1)
    )
    assert _rows(first) == _rows(again) != _rows(other)


def test_there_is_no_validation_split_of_no_examples():
    with pytest.raises(UserError, match=r"no validation split: set data\.validation"):
        data.load(_digits(validation=0), "validation")


def test_texts_of_an_image_stay_together_and_no_image_is_decoded_for_it(tmp_path):
    lines = []
    for level in range(20):
        Image.fromarray(np.full((2, 2), level, np.uint8)).save(tmp_path / f"{level:02}.png")
        for text in "abc"[: 1 + level % 3]:
            lines.append(json.dumps({"file_name": f"{level:02}.png", "text": f"{text} {level}"}))
    (tmp_path / "metadata.jsonl").write_text("\n".join(lines))
    fields = {"name": "image_folder", "path": str(tmp_path), "image_size": 2, "channels": 1}
    fields |= {"num_classes": 1, "class_name": None, "holdout": 5, "captions": True}
    fields |= {"skip_unreadable": False, "validation": 9, "validation_seed": 1}
    train, part = (data.load(ConfigDict(fields), split) for split in ("train", "validation"))
    assert isinstance(part.images, EncodedImages)
    for split in (train, part):
        levels = split.images[:][:, 0, 0, 0].tolist()
        assert levels == [int(text.split()[1]) for text in split.texts]
    levels = [set(split.images[:][:, 0, 0, 0].tolist()) for split in (train, part)]
    assert not levels[0] & levels[1]
    assert len(levels[0] | levels[1]) == 15
    assert 9 <= len(part.texts) < 12


def test_an_unreadable_image_of_a_part_is_replaced_by_one_of_its_class(tmp_path):
    for level in range(40):
        path = tmp_path / "ab"[level % 2] / f"{level:02}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(np.full((2, 2), level, np.uint8)).save(path)
    fields = {"name": "image_folder", "path": str(tmp_path), "image_size": 2, "channels": 1}
    fields |= {"num_classes": 2, "class_name": None, "holdout": 4, "skip_unreadable": True}
    part = data.load(ConfigDict(fields | {"validation": 20, "validation_seed": 0}), "train")
    for row in range(0, 16, 3):
        with open(part.images.source.name(row), "w"):
            pass
    levels = part.images[:][:, 0, 0, 0]
    assert len(set(levels.tolist())) < 16
    np.testing.assert_array_equal(levels % 2, part.labels)


def test_context_anchors_are_at_most_the_examples_that_are_left(caplog):
    caplog.set_level("INFO")
    for count, size in ((0, 1437), (1, 1436), (1437 - 16, 16)):
        config = configuration.load("configs/digits_joint.py", [f"data.validation={count}"])
        fitted = data.fit_context(config)
        assert fitted.latent.context_size == size
        data.load_data(fitted)
        with pytest.raises(AttributeError):
            fitted.latent.context_size = 1
    assert caplog.text.count("latent.context_size is") == 2
    small = configuration.load(
        "configs/digits_joint.py", ["data.validation=287", "latent.context_size=100"]
    )
    assert data.fit_context(small).latent.context_size == 100


def test_what_is_measured_is_the_validation_split_where_there_is_one():
    config = configuration.load(
        "configs/digits_joint.py", ["data.validation=287", "latent.context_size=16"]
    )
    train, measured = data.load_data(config)
    assert (len(train.labels), len(measured.labels)) == (1150, 287)
    assert data.measured_set(config.data) == "validation"
    config = configuration.load("configs/digits_joint.py")
    assert [len(part.labels) for part in data.load_data(config)] == [1437, 360]
    assert data.measured_set(config.data) == "test"
