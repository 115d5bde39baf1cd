"""Improved precision and recall of generated samples, from k-nearest-neighbour balls.

Kynkäänniemi, Karras, Laine, Lehtinen and Aila, "Improved precision and recall metric for assessing
generative models", NeurIPS 2019 (arXiv:1904.06991), equations 1 and 2.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float64

from lzn_jax.configuration import UserError

# Bound on the rounding error of a squared distance, relative to the sum of the squared norms, with
# a wide margin. A sample on the surface of a ball counts as inside, as does a sample equal to the
# centre of a ball of radius zero.
_ROUNDING = 1e-12


class PrecisionRecall(NamedTuple):
    """Both in [0, 1]."""

    precision: float  # share of generated samples inside a ball of a reference sample
    recall: float  # share of reference samples inside a ball of a generated sample


def precision_recall(
    reference: Float[np.ndarray, "n d"],
    generated: Float[np.ndarray, "m d"],
    *,
    k: int = 3,
    block_size: int = 2048,
) -> PrecisionRecall:
    """Precision and recall, with closed balls that reach to the k-th nearest other sample.

    Computes float64 distances in blocks of `block_size`², which bounds memory, in three passes
    over all pairs. Raises UserError if a set has k samples or fewer.
    """
    centre = reference.mean(axis=0, dtype=np.float64)
    reference_radii = _squared_radii(reference, centre, k, block_size)
    generated_radii = _squared_radii(generated, centre, k, block_size)
    is_real, is_covered = np.zeros(len(generated), bool), np.zeros(len(reference), bool)
    for rows in _blocks(len(reference), block_size):
        for columns in _blocks(len(generated), block_size):
            distances, rounding = _squared_distances(reference[rows], generated[columns], centre)
            least = distances - rounding
            is_real[columns] |= np.any(least <= reference_radii[rows, None], axis=0)
            is_covered[rows] |= np.any(least <= generated_radii[columns], axis=1)
    return PrecisionRecall(float(is_real.mean()), float(is_covered.mean()))


def _squared_radii(
    points: np.ndarray, centre: np.ndarray, k: int, block_size: int
) -> Float64[np.ndarray, " n"]:
    """Squared distance of each point to its k-th nearest other point."""
    if len(points) <= k:
        raise UserError(
            f"precision and recall with k = {k} need at least {k + 1} samples, got {len(points)}"
        )
    radii = np.empty(len(points))
    for rows in _blocks(len(points), block_size):
        nearest = np.empty((len(points[rows]), 0))
        for columns in _blocks(len(points), block_size):
            distances, _ = _squared_distances(points[rows], points[columns], centre)
            if rows == columns:
                np.fill_diagonal(distances, np.inf)
            candidates = np.concatenate([nearest, distances], axis=1)
            last = min(k, candidates.shape[1]) - 1
            nearest = np.partition(candidates, last)[:, : last + 1]
        radii[rows] = nearest.max(axis=1)
    return radii


def _squared_distances(
    rows: np.ndarray, columns: np.ndarray, centre: np.ndarray
) -> tuple[Float64[np.ndarray, "a b"], Float64[np.ndarray, "a b"]]:
    """Squared distances of all pairs, and bounds on their rounding errors."""
    rows, columns = rows - centre, columns - centre
    norms = np.add.outer(np.sum(rows**2, axis=1), np.sum(columns**2, axis=1))
    return norms - 2 * (rows @ columns.T), _ROUNDING * norms


def _blocks(count: int, size: int) -> Iterator[slice]:
    return (slice(start, start + size) for start in range(0, count, size))
