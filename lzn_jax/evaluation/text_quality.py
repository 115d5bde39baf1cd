"""Texts written of images and images made of texts, where no ruler knows what texts are made of."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int, UInt8

from lzn_jax.data import Examples
from lzn_jax.data.examples import evenly_spaced
from lzn_jax.data_types.text import NAME
from lzn_jax.evaluation.retrieval import RANKS, embedded, recalls
from lzn_jax.tokenizers import Tokenizer
from lzn_jax.trained_model import TrainedModel

MAX_WRITTEN = 1000  # test pairs, at even steps


def measure(model: TrainedModel, test: Examples) -> dict[str, float]:
    """`image_to_text_exact` and `_words`, an F1; `text_to_image_r1` and `_r10`.

    Words are compared as the run's tokenizer writes them. Generated images retrieve their texts by
    the run's own encoders. Pairs whose text has no tokens are left out.
    """
    source, tokenizer = model.main_type, model.space.encoders[NAME].tokenizer
    rows = compared(tokenizer, model.space.types[NAME].samples(test))
    if len(rows) == 0:
        return {}
    texts = [str(text) for text in model.space.types[NAME].samples(test)[rows]]
    written = model.translate(model.space.types[source].samples(test)[rows], source, NAME)
    made = model.translate(texts, NAME, source)
    return {**agreement(written, tokenizer.canonical(texts)), **recognised(model, made, texts)}


def recognised(
    model: TrainedModel, made: UInt8[np.ndarray, "n h w c"], texts: Sequence[str]
) -> dict[str, float]:
    """`text_to_image_r1`, `_r10`: made images that find their texts by a model's encoders."""
    images, names = embedded(model, made, model.main_type), embedded(model, texts, NAME)
    found = recalls(images, names, np.array(texts))
    return {f"text_to_image_r{k}": found[k] for k in RANKS}


def compared(tokenizer: Tokenizer, texts: np.ndarray) -> Int[np.ndarray, " k"]:
    """Places of the texts that are compared: at most MAX_WRITTEN, all of which have tokens."""
    rows = tokenizer.readable(texts)
    return rows[evenly_spaced(min(len(rows), MAX_WRITTEN), len(rows))]


def agreement(written: Sequence[str], asked: Sequence[str]) -> dict[str, float]:
    """`image_to_text_exact`, the share of texts written as they are, and `_words`, an F1."""
    return {
        "image_to_text_exact": float(np.mean(np.array(written) == np.array(asked))),
        "image_to_text_words": words_in_common(written, asked),
    }


def words_in_common(written: Sequence[str], asked: Sequence[str]) -> float:
    """Mean F1 of the words of pairs of texts, whatever their order: 1 where all are the same."""
    scores = []
    for pair in zip(written, asked, strict=True):
        first, second = (Counter(text.lower().split()) for text in pair)
        both = (first & second).total()
        scores.append(2 * both / max((first + second).total(), 1))
    return float(np.mean(scores))
