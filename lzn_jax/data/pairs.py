"""Pairs of an image and a text, each of them an example; an image may have several texts."""

import logging
from collections import Counter
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from lzn_jax.configuration import UserError
from lzn_jax.data.examples import MAX_NAMED

MISSING = -1  # in the place of an image that is not there

_log = logging.getLogger(__name__)


class Pairs(NamedTuple):
    """What a data set says of its images, by image.

    Attributes:
      rows: (p,) the image of each pair.
      texts: (p,) strings of any length, none of them empty.
      left_out: in words, what is no pair.
    """

    rows: Int[np.ndarray, " p"]
    texts: np.ndarray
    left_out: tuple[str, ...]


def make(said: Iterable[tuple[int, str, str]], count: int, name: Callable[[int], str]) -> Pairs:
    """Pairs of `count` images out of (image, text, where that is said).

    Texts of MISSING images, empty ones, repetitions of a pair, and images without a text are no
    pairs: the log counts them and names the first 20 of a kind. Raises UserError where none is one.
    """
    kept: dict[tuple[int, str], None] = {}
    left_out = []
    for image, text, where in said:
        if image == MISSING:
            left_out.append(f"a text without its image: {where}")
        elif not text.strip():
            left_out.append(f"an empty text: {where}")
        elif (image, text) in kept:
            left_out.append(f"a pair again: {where}")
        else:
            kept[image, text] = None
    rows = np.array([image for image, _ in kept], np.int64)
    silent = np.setdiff1d(np.arange(count), rows).tolist()
    left_out += [f"an image without a text: {name(image)}" for image in silent]
    _tell(left_out)
    if len(rows) == 0:
        raise UserError(f"no image has a text, the first is {name(0)}: write texts, or see data")
    order = np.argsort(rows, kind="stable")
    texts = np.array([text for _, text in kept], object)
    return Pairs(rows[order], texts[order], tuple(left_out))


def _tell(left_out: Iterable[str]) -> None:
    counts: Counter[str] = Counter()
    for fault in left_out:
        kind = fault.partition(":")[0]
        counts[kind] += 1
        if counts[kind] <= MAX_NAMED:
            _log.warning("no pair, left out: %s", fault)
    for kind, count in counts.items():
        _log.warning("no pairs, left out: %s, %d in all", kind, count)
