"""Retrieval: recall@k from main samples to their texts, such as from images, and the reverse."""

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from lzn_jax import plots
from lzn_jax.data import Examples
from lzn_jax.data.examples import evenly_spaced
from lzn_jax.data_types.text import NAME
from lzn_jax.trained_model import TrainedModel

RANKS = (1, 10)
SHOWN, NEAREST = 8, 5  # queries per direction in the figure, and results per query
_ROWS_AT_A_TIME = 1024


def measure(model: TrainedModel, test: Examples, path: Path) -> dict[str, float]:
    """`retrieval_image_to_text_r1`, `_r10` and the reverse; draws examples to `path`.

    Names have the main type in place of `image`. All samples with a query's text count as right.
    """
    source, space = model.main_type, model.space
    samples, texts = space.types[source].samples(test), space.types[NAME].samples(test)
    points, text_points = embedded(model, samples, source), embedded(model, texts, NAME)
    shown = np.asarray(space.types[source].shown(samples))
    rows = _examples(points, text_points, shown, texts, texts)
    rows += _examples(text_points, points, texts, shown, texts)
    plots.retrieval(path, rows)
    tasks = {
        f"{source}_to_{NAME}": (points, text_points),
        f"{NAME}_to_{source}": (text_points, points),
    }
    return {
        f"retrieval_{task}_r{k}": recall
        for task, points in tasks.items()
        for k, recall in recalls(*points, texts).items()
    }


def embedded(model: TrainedModel, samples: Any, source: str) -> Float[np.ndarray, "n q"]:
    """Points that retrieval compares: centres of zones cut by the anchors of the samples alone.

    For a model trained with CLIP's loss, the anchors themselves.
    """
    anchors = model.anchors(samples, source=source)
    if model.space.baseline:
        return anchors
    return model.latents(anchors, 0.0, source=source, among=anchors[:0])


def _examples(
    queries: np.ndarray,
    candidates: np.ndarray,
    asked: np.ndarray,
    results: np.ndarray,
    texts: np.ndarray,
) -> list[tuple[Any, list[Any], list[bool]]]:
    """A few queries, each with the nearest candidates and whether these have the query's text."""
    rows = evenly_spaced(min(SHOWN, len(texts)), len(texts))
    order = np.argsort(-_cosines(queries[rows], candidates), axis=1)[:, :NEAREST]
    return [
        (asked[row], list(results[nearest]), (texts[nearest] == texts[row]).tolist())
        for row, nearest in zip(rows, order, strict=True)
    ]


def recalls(
    queries: Float[np.ndarray, "n d"], candidates: Float[np.ndarray, "n d"], texts: np.ndarray
) -> dict[int, float]:
    """Share of queries with a candidate of the same text among the k nearest, by k in RANKS.

    Nearest by cosine similarity; in ties, candidates of the same text come last.
    """
    _, groups = np.unique(texts, return_inverse=True)
    ranks = []
    for start in range(0, len(groups), _ROWS_AT_A_TIME):
        chosen = slice(start, start + _ROWS_AT_A_TIME)
        ranks.append(_ranks(_cosines(queries[chosen], candidates), groups[chosen, None] == groups))
    return {k: float(np.mean(np.concatenate(ranks) < k)) for k in RANKS}


def _cosines(
    queries: Float[np.ndarray, "m d"], candidates: Float[np.ndarray, "n d"]
) -> Float[np.ndarray, "m n"]:
    queries, candidates = (
        x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-30)
        for x in (queries, candidates)
    )
    return queries @ candidates.T


def _ranks(cosines: Float[np.ndarray, "b n"], is_own: Bool[np.ndarray, "b n"]) -> np.ndarray:
    """Number of other candidates at least as near as the nearest own one."""
    best = np.max(np.where(is_own, cosines, -np.inf), axis=1, keepdims=True)
    return np.sum(~(cosines < best) & ~is_own, axis=1)  # a NaN counts as nearer
