"""Retrieval: recall@k from main samples to their texts, such as from images, and the reverse."""

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.sparse import csr_array

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

    Names have the main type in place of `image`. Images are distinct, and all texts of an image are
    right, as on Flickr30k and COCO. Equal texts belong to the same images.
    """
    source, space = model.main_type, model.space
    texts = space.types[NAME].samples(test)
    rows, by_sample, by_text = pairs(test, texts)
    samples = space.types[source].samples(test.at(rows))
    points, text_points = embedded(model, samples, source), embedded(model, texts, NAME)
    tasks = {
        f"{source}_to_{NAME}": (points, text_points, by_sample, by_text),
        f"{NAME}_to_{source}": (text_points, points, by_text, by_sample),
    }
    shown = np.asarray(space.types[source].shown(samples))
    sides = ((shown, texts), (texts, shown))
    rows_of = [_examples(*task, *side) for task, side in zip(tasks.values(), sides, strict=True)]
    plots.retrieval(path, [*rows_of[0], *rows_of[1]])
    return {
        f"retrieval_{name}_r{k}": recall
        for name, task in tasks.items()
        for k, recall in recalls(*task).items()
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
    of_queries: csr_array,
    of_candidates: csr_array,
    asked: np.ndarray,
    results: np.ndarray,
) -> list[tuple[Any, list[Any], list[bool]]]:
    """A few queries, each with the nearest candidates and whether these are right."""
    rows = evenly_spaced(min(SHOWN, len(queries)), len(queries))
    order = np.argsort(-_cosines(queries[rows], candidates), axis=1)[:, :NEAREST]
    is_right = _share_a_text(of_queries[rows], of_candidates)
    return [
        (asked[row], list(results[nearest]), right[nearest].tolist())
        for row, nearest, right in zip(rows, order, is_right, strict=True)
    ]


def pairs(
    examples: Examples, texts: np.ndarray
) -> tuple[Int[np.ndarray, " k"], csr_array, csr_array]:
    """Rows of the k distinct images, and the `incidence` of these images and of all texts."""
    ids = np.arange(len(texts)) if examples.image_ids is None else examples.image_ids
    _, rows, image = np.unique(ids, return_index=True, return_inverse=True)
    return rows, incidence(texts, image), incidence(texts)


def incidence(texts: np.ndarray, image: Int[np.ndarray, " n"] | None = None) -> csr_array:
    """Which of the distinct texts each image has, given the image of each text.

    By default each text is a row of its own.
    """
    _, text = np.unique(texts, return_inverse=True)
    rows = np.arange(len(text)) if image is None else image
    return csr_array((np.ones(len(text), np.int32), (rows, text)))


def recalls(
    queries: Float[np.ndarray, "m d"],
    candidates: Float[np.ndarray, "n d"],
    of_queries: csr_array,
    of_candidates: csr_array,
) -> dict[int, float]:
    """Share of queries with a right candidate among the k nearest, by k in RANKS.

    A candidate is right if it shares a text with the query, by the `incidence` of both. Nearest by
    cosine similarity; in ties, right candidates come last.
    """
    ranks = []
    for start in range(0, len(queries), _ROWS_AT_A_TIME):
        chosen = slice(start, start + _ROWS_AT_A_TIME)
        is_right = _share_a_text(of_queries[chosen], of_candidates)
        ranks.append(_ranks(_cosines(queries[chosen], candidates), is_right))
    return {k: float(np.mean(np.concatenate(ranks) < k)) for k in RANKS}


def _share_a_text(of_queries: csr_array, of_candidates: csr_array) -> Bool[np.ndarray, "m n"]:
    is_shared: np.ndarray = (of_queries @ of_candidates.T).toarray() > 0
    return is_shared


def _cosines(
    queries: Float[np.ndarray, "m d"], candidates: Float[np.ndarray, "n d"]
) -> Float[np.ndarray, "m n"]:
    queries, candidates = (
        x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-30)
        for x in (queries, candidates)
    )
    return queries @ candidates.T


def _ranks(cosines: Float[np.ndarray, "b n"], is_right: Bool[np.ndarray, "b n"]) -> np.ndarray:
    """Number of wrong candidates at least as near as the nearest right one."""
    best = np.max(np.where(is_right, cosines, -np.inf), axis=1, keepdims=True)
    return np.sum(~(cosines < best) & ~is_right, axis=1)  # a NaN counts as nearer
