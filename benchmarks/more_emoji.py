"""The data set `more_emoji`: emoji in a second set of drawings and with keywords, for training.

    apt-get install fonts-noto-color-emoji unicode-cldr-core
    python benchmarks/evidence.py emoji_text --seeds 2 --config.training.num_steps=300 \
        --variants more_{emoji,noto,keywords,both} --folder results/more_emoji

An extension, which measures whether data limits `emoji_text`. Test examples are the 332 validation
emoji of `emoji_text`, drawn by OpenMoji and with their names. Each training emoji is an example for
each of its drawings and texts: OpenMoji's and, with `data.noto`, Noto's; the name and, with
`data.keywords`, CLDR's keywords. Licences: fonts-noto-color-emoji OFL 1.1, CLDR Unicode-3.0.
"""

import itertools
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from lzn_jax import data as data_module
from lzn_jax import parts
from lzn_jax.data import Examples, emoji
from lzn_jax.errors import UserError

VALIDATION, VALIDATION_SEED = 332, 0
MAX_BYTES = 80  # of a text in emoji_text
FONT = Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")
FONT_SIZE, CANVAS = 109, (136, 128)  # the only size of its bitmaps
ANNOTATIONS = Path("/usr/share/unicode/cldr/common")

ATTRIBUTION = emoji.ATTRIBUTION
class_names = emoji.class_names


def load(data: Any, split: str) -> Examples:
    """Training examples in all drawings and texts, or the validation emoji of `emoji_text`."""
    known = emoji.load(data, "train")
    is_apart = data_module.set_apart(known.labels, known.groups, VALIDATION, VALIDATION_SEED)
    if split == "test":
        return known.at(np.flatnonzero(is_apart))
    known = known.at(np.flatnonzero(~is_apart))
    assert known.texts is not None
    characters = _characters(known.texts)
    drawings, texts = [known.images], [known.texts]
    if data.noto:
        _require(FONT, "fonts-noto-color-emoji")
        drawings.append(np.stack([draw(each, data.image_size) for each in characters]))
    if data.keywords:
        _require(ANNOTATIONS, "unicode-cldr-core")
        words = _keywords()
        texts.append(np.array([words.get(_key(each), "") for each in characters], object))
    pairs = list(itertools.product(drawings, texts))
    rows = np.tile(np.arange(len(known.labels)), len(pairs))
    examples = known.at(rows)._replace(
        images=np.concatenate([images for images, _ in pairs]),
        texts=np.concatenate([column for _, column in pairs]),
    )
    return examples.at(np.flatnonzero(examples.texts != ""))


def _require(path: Path, package: str) -> None:
    if not path.exists():
        raise UserError(f"there is no {path}: apt-get install {package}")


def draw(character: str, size: int) -> np.ndarray:
    font = ImageFont.truetype(FONT, FONT_SIZE, layout_engine=ImageFont.Layout.RAQM)
    if font.getbbox(character)[2] > CANVAS[0]:
        raise UserError(f"{FONT} has no drawing of {character}: two glyphs were found")
    image = Image.new("RGB", (CANVAS[0], CANVAS[0]), "white")
    top = (CANVAS[0] - CANVAS[1]) // 2
    ImageDraw.Draw(image).text((0, top), character, font=font, embedded_color=True)
    return np.asarray(image.resize((size, size), Image.Resampling.BOX))


def _characters(names: np.ndarray) -> list[str]:
    import emoji as library  # an optional package

    whole = library.STATUS["fully_qualified"]
    entries = library.EMOJI_DATA.items()
    found = {entry["en"]: each for each, entry in entries if entry["status"] == whole}
    return [found[f":{name.replace(' ', '_')}:"] for name in names]


def _key(character: str) -> str:
    return character.replace("\ufe0f", "")


def _keywords() -> dict[str, str]:
    """CLDR's English keywords by emoji, as many as fit into a text."""
    found = {}
    for folder in ("annotations", "annotationsDerived"):
        for element in ElementTree.parse(ANNOTATIONS / folder / "en.xml").iter("annotation"):
            if element.get("type") is None:
                found[element.attrib["cp"]] = _cut((element.text or "").split(" | "))
    return found


def _cut(words: list[str]) -> str:
    while len(" ".join(words).encode()) > MAX_BYTES:
        words = words[:-1]
    return " ".join(words)


FIELDS = {
    "data.noto": parts.flag("Noto's drawings are training images as well", False),
    "data.keywords": parts.flag("CLDR's keywords are training texts as well", False),
}
EMOJI_FIELDS = parts.fields("data", "emoji", {})
parts.add("data", "more_emoji", sys.modules[__name__], {**EMOJI_FIELDS, **FIELDS})
