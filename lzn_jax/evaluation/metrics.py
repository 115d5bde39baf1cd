"""Metrics of features: Fréchet and kernel distance, Inception Score, precision and recall."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float64, Real
from scipy.special import log_softmax, logsumexp

from lzn_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Statistics:
    """Count, mean and scatter (sum of outer products of deviations from the mean) of features."""

    count: int
    mean: Float64[np.ndarray, " d"]
    scatter: Float64[np.ndarray, "d d"]

    @property
    def covariance(self) -> Float64[np.ndarray, "d d"]:
        """Unbiased covariance; raises UserError for fewer than 2 samples."""
        if self.count < 2:
            raise UserError(f"a Fréchet distance needs at least 2 samples, got {self.count}")
        return self.scatter / (self.count - 1)


def statistics_of(features: Real[np.ndarray, "n d"]) -> Statistics:
    """Statistics of one batch of n >= 1 samples; raises ValueError for non-finite features."""
    if not np.all(np.isfinite(features)):
        raise ValueError("features must be finite")
    features = features.astype(np.float64)
    mean = features.mean(axis=0)
    deviations = features - mean
    return Statistics(len(features), mean, deviations.T @ deviations)


def merge(a: Statistics, b: Statistics) -> Statistics:
    """Statistics of the union of two disjoint samples.

    No large numbers are subtracted, so a common offset of all features costs no precision (Chan,
    Golub and LeVeque, "Updating formulae and a pairwise algorithm for computing sample variances",
    1979).
    """
    count = a.count + b.count
    shift = b.mean - a.mean
    between = np.outer(shift, shift) * (a.count * (b.count / count))
    return Statistics(count, a.mean + shift * (b.count / count), a.scatter + b.scatter + between)


def frechet_distance(a: Statistics, b: Statistics) -> float:
    """|m_a - m_b|² + tr(C_a + C_b - 2 (C_a C_b)^{1/2}) of means m and covariances C; >= 0.

    The trace of the square root is the sum of the singular values of C_a^{1/2} C_b^{1/2}, whose
    factors come from symmetric eigendecompositions. It is real even for singular covariances, where
    tr (C_a^{1/2} C_b C_a^{1/2})^{1/2} would contain the square root of a rounding error.

    Raises UserError for fewer than 2 samples, ValueError for different numbers of features.
    """
    if a.mean.shape != b.mean.shape:
        raise ValueError(f"{len(a.mean)} features cannot be compared with {len(b.mean)}")
    roots = _root(a.covariance) @ _root(b.covariance)
    overlap = np.linalg.svd(roots, compute_uv=False).sum()
    covariance_term = np.trace(a.covariance) + np.trace(b.covariance) - 2 * overlap
    return float(max(np.sum((a.mean - b.mean) ** 2) + covariance_term, 0.0))


def to_arrays(statistics: Statistics, prefix: str = "") -> dict[str, np.ndarray]:
    """Arrays by name, for a file."""
    return {f"{prefix}{name}": np.asarray(value) for name, value in vars(statistics).items()}


def from_arrays(arrays: Mapping[str, np.ndarray], prefix: str = "") -> Statistics:
    """Inverse of `to_arrays`."""
    count, mean, scatter = (arrays[f"{prefix}{name}"] for name in ("count", "mean", "scatter"))
    return Statistics(int(count), mean, scatter)


def _root(covariance: np.ndarray) -> np.ndarray:
    """Symmetric square root; eigenvalues below zero, which rounding causes, count as zero."""
    eigenvalues, vectors = np.linalg.eigh(covariance)
    return (vectors * np.sqrt(np.maximum(eigenvalues, 0.0))) @ vectors.T


class KID(NamedTuple):
    """Mean and standard deviation over the subsets; the mean can be negative."""

    mean: float
    std: float


def kernel_inception_distance(
    reference: Float[np.ndarray, "n d"],
    generated: Float[np.ndarray, "m d"],
    *,
    seed: int,
    subsets: int = 100,
    subset_size: int = 1000,
) -> KID:
    """KID over subsets drawn without replacement, no larger than the smaller set.

    The estimate is unbiased at any subset size. Raises UserError for fewer than 2 samples.
    """
    size = min(subset_size, len(reference), len(generated))
    if size < 2:
        raise UserError(f"KID needs at least 2 samples of each set, got {size}")
    rng = np.random.default_rng(seed)
    values = [
        squared_mmd(
            rng.choice(reference, size, replace=False), rng.choice(generated, size, replace=False)
        )
        for _ in range(subsets)
    ]
    return KID(float(np.mean(values)), float(np.std(values)))


def squared_mmd(x: Float[np.ndarray, "n d"], y: Float[np.ndarray, "m d"]) -> float:
    """Unbiased squared MMD, which excludes pairs of a sample with itself; n and m must be >= 2."""
    x, y = x.astype(np.float64), y.astype(np.float64)
    return float(_mean_of_others(x) + _mean_of_others(y) - 2 * np.mean(_kernel(x, y)))


def _mean_of_others(x: np.ndarray) -> float:
    kernel = _kernel(x, x)
    return (np.sum(kernel) - np.trace(kernel)) / (len(x) * (len(x) - 1))


def _kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return (x @ y.T / x.shape[1] + 1) ** 3


def inception_score(logits: Float[np.ndarray, "n c"], *, split_size: int = 5000) -> float:
    """Mean score, in [1, c], over splits of `split_size` consecutive images.

    The last split may be smaller, as in the evaluation of Dhariwal and Nichol (arXiv:2105.05233).
    Log probabilities are valid logits. Raises UserError if there are no images.
    """
    if len(logits) == 0:
        raise UserError("an inception score needs at least 1 sample, got 0")
    splits = range(0, len(logits), split_size)
    return float(np.mean([_score(logits[start : start + split_size]) for start in splits]))


def _score(logits: np.ndarray) -> float:
    log_p = log_softmax(logits.astype(np.float64), axis=1)
    log_mean = logsumexp(log_p, axis=0) - np.log(len(log_p))
    # 0 log 0 = 0.
    log_ratio = np.subtract(log_p, log_mean, out=np.zeros_like(log_p), where=np.isfinite(log_p))
    return float(np.exp(np.mean(np.sum(np.exp(log_p) * log_ratio, axis=1))))


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


SIGMA = 10.0
SCALE = 1000.0


def cmmd(
    reference: Float[np.ndarray, "n d"],
    generated: Float[np.ndarray, "m d"],
    *,
    block_size: int = 2048,
) -> float:
    """1000 times the squared MMD of two sets of unit-norm embeddings; >= 0 up to rounding.

    Computed in float64, in blocks of `block_size`² pairs. Raises ValueError for embeddings whose
    norm differs from 1 by more than 1e-2, which admits half precision.
    """
    for embeddings in (reference, generated):
        norms = np.linalg.norm(embeddings.astype(np.float64), axis=1)
        if not np.allclose(norms, 1.0, rtol=0, atol=1e-2):
            raise ValueError("embeddings must have norm 1")
    within = _mean_kernel(reference, reference, block_size)
    within += _mean_kernel(generated, generated, block_size)
    return SCALE * (within - 2 * _mean_kernel(reference, generated, block_size))


def _mean_kernel(x: np.ndarray, y: np.ndarray, block_size: int) -> float:
    """Mean over all pairs of the kernel minus 1; the 1 cancels in the MMD but costs precision."""
    total = 0.0
    for i in range(0, len(x), block_size):
        rows = x[i : i + block_size].astype(np.float64)
        for j in range(0, len(y), block_size):
            columns = y[j : j + block_size].astype(np.float64)
            norms = np.add.outer(np.sum(rows**2, axis=1), np.sum(columns**2, axis=1))
            squared_distances = norms - 2 * (rows @ columns.T)
            total += float(np.sum(np.expm1(-squared_distances / (2 * SIGMA**2))))
    return total / (len(x) * len(y))
