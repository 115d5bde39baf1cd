"""Examples that are pairs of an image and a text; an image may have several texts."""

import logging
from collections import Counter
from collections.abc import Callable, Iterable

import numpy as np
from jaxtyping import Int

from lzn_jax.configuration import UserError
from lzn_jax.data.examples import MAX_NAMED

MISSING = -1  # index of a missing image

# Image indices (p,), non-empty texts (p,), and descriptions of texts and images that form no pair.
Pairs = tuple[Int[np.ndarray, " p"], np.ndarray, tuple[str, ...]]

_log = logging.getLogger(__name__)


def make(entries: Iterable[tuple[int, str, str]], count: int, name: Callable[[int], str]) -> Pairs:
    """Pairs of `count` images, by image, given entries (image, text, description of the entry).

    Texts of MISSING images, empty texts, repeated pairs and images without a text are left out; the
    log counts them and lists the first 20 of each kind. Raises UserError if there is no pair.
    """
    kept: dict[tuple[int, str], None] = {}
    left_out = []
    for image, text, entry in entries:
        if image == MISSING:
            left_out.append(f"a text without its image: {entry}")
        elif not text.strip():
            left_out.append(f"an empty text: {entry}")
        elif (image, text) in kept:
            left_out.append(f"a repeated pair: {entry}")
        else:
            kept[image, text] = None
    rows = np.array([image for image, _ in kept], np.int64)
    without_text = np.setdiff1d(np.arange(count), rows).tolist()
    left_out += [f"an image without a text: {name(image)}" for image in without_text]
    _log_left_out(left_out)
    if len(rows) == 0:
        raise UserError(
            f"no image has a text, the first is {name(0)}: add texts or set data.captions to False"
        )
    order = np.argsort(rows, kind="stable")
    texts = np.array([text for _, text in kept], object)
    return rows[order], texts[order], tuple(left_out)


def _log_left_out(left_out: Iterable[str]) -> None:
    counts: Counter[str] = Counter()
    for fault in left_out:
        kind = fault.partition(":")[0]
        counts[kind] += 1
        if counts[kind] <= MAX_NAMED:
            _log.warning("left out, not a pair: %s", fault)
    for kind, count in counts.items():
        _log.warning("left out in total: %s (%d)", kind, count)
