"""Quality of texts from main samples, and the reverse, for texts without a known structure."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from lzn_jax.data import Examples
from lzn_jax.data.examples import evenly_spaced
from lzn_jax.data_types.text import NAME
from lzn_jax.evaluation.retrieval import RANKS, embedded, incidence, recalls
from lzn_jax.tokenizers import Tokenizer
from lzn_jax.trained_model import TrainedModel

MAX_WRITTEN = 1000  # test pairs, evenly spaced


def measure(model: TrainedModel, test: Examples) -> dict[str, float]:
    """`image_to_text_exact` and `_words` (an F1 score); `text_to_image_r1` and `_r10`.

    Names have the main type in place of `image`. Generated texts are compared with the tokenizer's
    canonical form of the test texts. Generated samples are compared with texts by the run's
    encoders. Leaves out pairs whose text has no tokens.
    """
    source, types = model.main_type, model.space.types
    tokenizer = model.space.encoders[NAME].tokenizer
    samples = types[NAME].samples(test)
    rows = compared(tokenizer, samples)
    if len(rows) == 0:
        return {}
    texts = [str(text) for text in samples[rows]]
    written = model.translate(types[source].samples(test)[rows], source, NAME)
    metrics = agreement(written, tokenizer.canonical(texts), source)
    if source in model.space.decoders:
        metrics |= recognised(model, model.translate(texts, NAME, source), texts)
    return metrics


def recognised(model: TrainedModel, samples: Any, texts: Sequence[str]) -> dict[str, float]:
    """`text_to_image_r1`, `_r10`: recall@k from generated main samples to their texts."""
    queries, targets = embedded(model, samples, model.main_type), embedded(model, texts, NAME)
    by_text = incidence(np.array(texts))
    by_rank = recalls(queries, targets, by_text, by_text)
    return {f"{NAME}_to_{model.main_type}_r{k}": by_rank[k] for k in RANKS}


def compared(tokenizer: Tokenizer, texts: np.ndarray) -> Int[np.ndarray, " k"]:
    """Indices of the texts to compare: at most MAX_WRITTEN, all with tokens."""
    rows = tokenizer.readable(texts)
    return rows[evenly_spaced(min(len(rows), MAX_WRITTEN), len(rows))]


def agreement(
    written: Sequence[str], expected: Sequence[str], source: str = "image"
) -> dict[str, float]:
    """`image_to_text_exact`, the share of exact matches, and `_words`, the mean F1 of words."""
    return {
        f"{source}_to_{NAME}_exact": float(np.mean(np.array(written) == np.array(expected))),
        f"{source}_to_{NAME}_words": words_in_common(written, expected),
    }


def words_in_common(written: Sequence[str], expected: Sequence[str]) -> float:
    """Mean F1 score of the bags of words of pairs of texts; 1 if all bags are equal."""
    scores = []
    for pair in zip(written, expected, strict=True):
        first, second = (Counter(text.lower().split()) for text in pair)
        both = (first & second).total()
        scores.append(2 * both / max((first + second).total(), 1))
    return float(np.mean(scores))
