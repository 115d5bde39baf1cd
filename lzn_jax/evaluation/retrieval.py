"""Retrieval: recall@k of texts by their images, and of images by their texts."""

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from lzn_jax import plots
from lzn_jax.data import Examples, Images
from lzn_jax.data.examples import evenly_spaced
from lzn_jax.data_types.text import NAME
from lzn_jax.trained_model import TrainedModel

RANKS = (1, 10)
SHOWN, NEAREST = 8, 5  # queries in the picture, a way, and what is found by each
_ROWS_AT_A_TIME = 1024


def measure(model: TrainedModel, test: Examples, path: Path) -> dict[str, float]:
    """`retrieval_image_to_text_r1`, `_r10` and the reverse, and a picture of what is found.

    Equal texts count alike.
    """
    texts, source = model.space.types[NAME].samples(test), model.main_type
    pictures = model.space.types[source].samples(test)
    images, names = embedded(model, pictures, source), embedded(model, texts, NAME)
    there, back = f"{source}_to_{NAME}", f"{NAME}_to_{source}"
    rows = _shown(images, names, pictures, texts, texts)
    rows += _shown(names, images, texts, pictures, texts)
    plots.retrieval(path, rows)
    found = {there: recalls(images, names, texts), back: recalls(names, images, texts)}
    return {f"retrieval_{n}_r{k}": share for n, each in found.items() for k, share in each.items()}


def embedded(model: TrainedModel, samples: Any, source: str) -> Float[np.ndarray, "n q"]:
    """What retrieval compares: middles of zones among the samples' own anchors.

    Of a model trained by CLIP's loss the anchors themselves.
    """
    anchors = model.anchors(samples, source=source)
    if model.space.baseline:
        return anchors
    return model.latents(anchors, 0.0, source=source, among=anchors[:0])


def _shown(
    queries: np.ndarray, candidates: np.ndarray, asked: Images, there: Images, names: np.ndarray
) -> list[tuple[Any, list[Any], list[bool]]]:
    """Some samples that are asked for, the nearest of those that are there, and which are right."""
    rows = evenly_spaced(min(SHOWN, len(names)), len(names))
    nearest = np.argsort(-_cosines(queries[rows], candidates), axis=1)[:, :NEAREST]
    pairs = zip(rows, nearest, strict=True)
    return [
        (asked[row], list(there[some]), (names[some] == names[row]).tolist()) for row, some in pairs
    ]


def recalls(
    queries: Float[np.ndarray, "n d"], candidates: Float[np.ndarray, "n d"], names: np.ndarray
) -> dict[int, float]:
    """Shares of queries that have a candidate of their own name among the RANKS nearest by cosine.

    Where others are as near as the own, the own comes last.
    """
    _, groups = np.unique(names, return_inverse=True)
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
    """How many others are at least as near as the nearest of the own."""
    best = np.max(np.where(is_own, cosines, -np.inf), axis=1, keepdims=True)
    return np.sum(~(cosines < best) & ~is_own, axis=1)  # nothing is found by a NaN
