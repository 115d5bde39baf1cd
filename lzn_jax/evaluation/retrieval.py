"""Retrieval: of how many images the own text is among the nearest, and the other way round."""

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from lzn_jax import plots
from lzn_jax.data import Examples, Images
from lzn_jax.data.examples import evenly_spaced
from lzn_jax.latent_space import Model
from lzn_jax.tasks import Tasks

RANKS = (1, 10)
SHOWN, NEAREST = 8, 5  # queries in the picture, a way, and what is found by each
_ROWS_AT_A_TIME = 1024


class RetrievalQuality:
    """Compares images and texts of a test set: their latents or, trained by CLIP's loss, anchors.

    Latents are middles of zones among the test set's own anchors.
    """

    def __init__(self, tasks: Tasks) -> None:
        self.tasks, self.space = tasks, tasks.space
        self._compares_anchors = tasks.config.get("objective") == "infonce"

    def __call__(self, model: Model, test: Examples, path: Path) -> dict[str, float]:
        """`retrieval_image_to_text_r1`, `_r10` and the reverse, and a picture of what is found.

        Equal texts count alike.
        """
        assert test.texts is not None
        texts, pictures = test.texts, test.images
        images = self.embedded(model, pictures, "image")
        names = self.embedded(model, self.tasks.encoded(texts, "text"), "text")
        found = {"image_to_text": (images, names), "text_to_image": (names, images)}
        samples = {"image_to_text": (pictures, texts), "text_to_image": (texts, pictures)}
        plots.retrieval(path, [r for n in found for r in _shown(*found[n], *samples[n], texts)])
        return {
            f"retrieval_{name}": share for name, share in both_ways(images, names, texts).items()
        }

    def embedded(self, model: Model, samples: Images, source: str) -> Float[np.ndarray, "n q"]:
        """What is compared of samples: latents among their own anchors, or the anchors."""
        anchors = self.space.anchors(model.variables, samples, source)
        return anchors if self._compares_anchors else self.space.latents({}, anchors, 0.0)


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


def both_ways(
    images: Float[np.ndarray, "n d"], names: Float[np.ndarray, "n d"], texts: np.ndarray
) -> dict[str, float]:
    """`image_to_text_r1`, `_r10` and the reverse, of n pairs."""
    ways = {"image_to_text": (images, names), "text_to_image": (names, images)}
    return {
        f"{way}_r{k}": share
        for way, pair in ways.items()
        for k, share in recalls(*pair, texts).items()
    }


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
