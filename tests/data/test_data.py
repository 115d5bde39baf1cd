"""Validation splits, pairs, and what is measured."""

import numpy as np
import pytest
from ml_collections import ConfigDict

from lzn_jax import configuration, data
from lzn_jax.data import decoded, set_apart
from lzn_jax.data.pixels import EncodedImages
from lzn_jax.errors import UserError

ROWS = np.arange(3)


def test_a_pair_whose_own_image_cannot_be_read_is_not_measured(folder_of, caplog):
    made = {"broken": ["b.png"], "texts": [(f"{name}.png", name) for name in "abc"]}
    names = ("a.png", "b.png", "c.png")
    found = decoded(data.load(folder_of(*names, **made, skip_unreadable=True), "train"), ROWS)
    assert (found.texts.tolist(), found.images[:, 0, 0, 0].tolist()) == (["a", "c"], [0, 2])
    assert len(found.labels) == 2
    (line,) = caplog.messages
    assert line.endswith("b.png")
    with pytest.raises(UserError, match=r"b\.png \(its format is unknown\)"):
        decoded(data.load(folder_of(*names, **made), "train"), ROWS)


LABELS = np.random.default_rng(0).permutation(np.repeat([0, 1, 2, 3], [10, 40, 100, 57]))


@pytest.mark.parametrize("count", [1, 7, 60, 206])
def test_the_part_has_its_count_and_the_proportions_of_classes(count):
    chosen, again, other = (set_apart(LABELS, None, count, seed) for seed in (3, 3, 4))
    assert chosen.sum() == count
    shares = count * np.bincount(LABELS) / len(LABELS)
    assert np.abs(np.bincount(LABELS[chosen], minlength=4) - shares).max() < 1
    np.testing.assert_array_equal(chosen, again)
    if count == 60:  # independent choices share 60 * 60 / 207 examples
        assert 5 < (chosen & other).sum() < 35


@pytest.mark.parametrize("seed", range(5))
def test_a_class_has_its_share_of_examples_and_groups_are_never_divided(seed):
    sizes = np.array([1, 9] * 40)
    many = np.repeat(np.arange(80), sizes)
    groups, labels = np.r_[many, 100 + np.arange(400)], np.repeat([0, 1], 400)
    chosen = set_apart(labels, groups, 200, seed)
    # The last group of each class is whole.
    assert abs(chosen[:400].mean() - chosen[400:].mean()) < (sizes.max() + 1) / 400
    rng = np.random.default_rng(seed)
    groups = rng.permutation(np.repeat(np.arange(50) * 7, rng.integers(1, 6, 50)))
    chosen = set_apart(np.zeros(len(groups), int), groups, 30, seed)
    assert not set(groups[chosen]) & set(groups[~chosen])
    assert 30 <= chosen.sum() < 35  # at most the last group exceeds the count


def _digits(split, **changes):
    """Rows of digits with their captions, which the ruler of all training digits has measured."""
    fields = {"name": "digits", "captions": True, "validation_seed": 0}
    part = data.load(ConfigDict(fields | changes), split)
    rows = zip(part.images, part.labels, part.texts, strict=True)
    return sorted((image.tobytes(), int(label), str(text)) for image, label, text in rows)


def test_the_seed_of_a_config_draws_validation_digits_of_the_training_digits():
    train, part = (_digits(split, validation=287) for split in ("train", "validation"))
    assert (len(train), len(part)) == (1150, 287)
    assert sorted(train + part) == _digits("train")
    assert _digits("test", validation=287) == _digits("test")
    again, other = (_digits("validation", validation=287, validation_seed=k) for k in (0, 1))
    assert part == again != other


def test_no_split_is_empty():
    with pytest.raises(UserError, match=r"no validation split: set data\.validation"):
        _digits("validation", validation=0)
    for groups, count in ((None, len(LABELS)), (np.zeros(len(LABELS), int), 1)):
        with pytest.raises(UserError, match=rf"must leave some of 207 .*, got {count}$"):
            set_apart(LABELS, groups, count, seed=0)


def test_texts_of_an_image_stay_together_and_no_image_is_decoded_for_it(folder_of):
    names = [f"{level:02}.png" for level in range(20)]
    texts = [(n, f"{t} {level}") for level, n in enumerate(names) for t in "abc"[: 1 + level % 3]]
    config = folder_of(*names, texts=texts, holdout=5, validation=9, validation_seed=1)
    parts = [data.load(config, split) for split in ("train", "validation")]
    shown = []
    for part in parts:
        assert isinstance(part.images, EncodedImages)
        shown.append([int(text.split()[1]) for text in part.texts])
        assert part.images[:][:, 0, 0, 0].tolist() == shown[-1]
    assert not set(shown[0]) & set(shown[1])
    assert len(set(shown[0]) | set(shown[1])) == 15
    assert 9 <= len(shown[1]) < 12


def test_context_anchors_are_at_most_the_examples_that_are_left(caplog):
    caplog.set_level("INFO")
    for changes, size in (
        (["data.validation=0"], 1437),
        (["data.validation=1421"], 16),
        (["data.validation=287", "latent.context_size=100"], 100),
    ):
        fitted = data.fit_context(configuration.load("configs/digits_joint.py", changes))
        assert fitted.latent.context_size == size
        data.check_context(fitted, len(data.load(fitted.data, "train").labels), "")
        with pytest.raises(AttributeError):
            fitted.latent.context_size = 1
    assert caplog.text.count("latent.context_size is") == 1


@pytest.mark.parametrize(("count", "name"), [(0, "test"), (287, "validation")])
def test_what_is_measured_is_the_validation_split_where_there_is_one(count, name):
    changes = [f"data.validation={count}", "latent.context_size=16"]
    config = configuration.load("configs/digits_joint.py", changes)
    sizes = [len(part.labels) for part in data.load_data(config)]
    assert sizes == ([1150, 287] if count else [1437, 360])
    assert data.measured_set(config.data) == name
