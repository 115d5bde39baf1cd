"""Metrics of features: Fréchet and kernel distance, inception score, precision and recall."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float64, Real
from scipy.special import log_softmax, logsumexp

from lzn_jax.errors import UserError


class Gaussian(NamedTuple):
    """Mean and covariance of features."""

    mean: Float64[np.ndarray, " d"]
    covariance: Float64[np.ndarray, "d d"]


def gaussian_of(features: Real[np.ndarray, "n d"], *, rows: int = 4096) -> Gaussian:
    """Mean and unbiased covariance. Sums over blocks of rows bound the memory of float64.

    Raises UserError for fewer than 2 samples, ValueError for features that are not finite.
    """
    if len(features) < 2:
        raise UserError(f"a Fréchet distance needs at least 2 samples, got {len(features)}")
    if not np.all(np.isfinite(features)):
        raise ValueError("features must be finite")
    mean = features.mean(axis=0, dtype=np.float64)
    scatter = np.zeros((len(mean), len(mean)))
    for start in range(0, len(features), rows):
        deviations = features[start : start + rows] - mean
        scatter += deviations.T @ deviations
    return Gaussian(mean, scatter / (len(features) - 1))


def frechet_distance(a: Gaussian, b: Gaussian) -> float:
    """|m_a - m_b|² + tr(C_a + C_b - 2 (C_a C_b)^{1/2}) >= 0, of means m and covariances C.

    The trace of the square root is the sum of the singular values of C_a^{1/2} C_b^{1/2}, whose
    factors come from symmetric eigendecompositions. It is real even for singular covariances, where
    tr (C_a^{1/2} C_b C_a^{1/2})^{1/2} would contain the square root of a rounding error.
    """
    overlap = np.linalg.svd(_root(a.covariance) @ _root(b.covariance), compute_uv=False).sum()
    covariance_term = np.trace(a.covariance) + np.trace(b.covariance) - 2 * overlap
    return float(max(np.sum((a.mean - b.mean) ** 2) + covariance_term, 0.0))


def _root(covariance: np.ndarray) -> np.ndarray:
    """Symmetric square root. Eigenvalues that rounding makes negative count as zero."""
    eigenvalues, vectors = np.linalg.eigh(covariance)
    return (vectors * np.sqrt(np.maximum(eigenvalues, 0.0))) @ vectors.T


def kernel_inception_distance(
    reference: Float[np.ndarray, "n d"],
    generated: Float[np.ndarray, "m d"],
    *,
    seed: int,
    subsets: int = 100,
    subset_size: int = 1000,
) -> float:
    """Mean of KID over subsets drawn without replacement. It is unbiased and can be negative.

    Raises UserError for fewer than 2 samples.
    """
    size = min(subset_size, len(reference), len(generated))
    if size < 2:
        raise UserError(f"KID needs at least 2 samples of each set, got {size}")
    rng, values = np.random.default_rng(seed), []
    for _ in range(subsets):
        pair = (rng.choice(points, size, replace=False) for points in (reference, generated))
        values.append(squared_mmd(*pair))
    return float(np.mean(values))


def squared_mmd(x: Float[np.ndarray, "n d"], y: Float[np.ndarray, "m d"]) -> float:
    """Unbiased squared MMD for n, m >= 2, which excludes pairs of a sample with itself."""
    x, y = x.astype(np.float64), y.astype(np.float64)
    within, across = [], (x @ y.T / x.shape[1] + 1) ** 3
    for z in (x, y):
        kernel = (z @ z.T / z.shape[1] + 1) ** 3
        within.append((np.sum(kernel) - np.trace(kernel)) / (len(z) * (len(z) - 1)))
    return float(sum(within) - 2 * np.mean(across))


def inception_score(logits: Float[np.ndarray, "n c"], *, split_size: int = 5000) -> float:
    """Mean score, in [1, c], over splits of `split_size` consecutive images.

    The last split may be smaller, as in the evaluation of Dhariwal and Nichol (arXiv:2105.05233).
    Log probabilities are valid logits. Raises UserError if there are no images.
    """
    if len(logits) == 0:
        raise UserError("an inception score needs at least 1 sample, got 0")
    scores = []
    for start in range(0, len(logits), split_size):
        log_p = log_softmax(logits[start : start + split_size].astype(np.float64), axis=1)
        log_mean = logsumexp(log_p, axis=0) - np.log(len(log_p))
        # 0 log 0 = 0.
        log_ratio = np.subtract(log_p, log_mean, out=np.zeros_like(log_p), where=np.isfinite(log_p))
        scores.append(np.exp(np.mean(np.sum(np.exp(log_p) * log_ratio, axis=1))))
    return float(np.mean(scores))


# Generous bound on the rounding error of a squared distance, relative to the sum of the squared
# norms. A sample on the surface of a ball counts as inside, as does a sample equal to the centre of
# a ball of radius zero.
_ROUNDING = 1e-12
_BLOCK_ROWS = 256  # with all columns in memory at once


def precision_recall(
    reference: Float[np.ndarray, "n d"], generated: Float[np.ndarray, "m d"], *, k: int = 3
) -> tuple[float, float]:
    """Share of generated samples inside a ball of a reference sample, and the reverse share.

    The closed ball of a sample reaches to its k-th nearest other sample of the set.
    Raises UserError if a set contains k samples or fewer.
    """
    centre = reference.mean(axis=0, dtype=np.float64)  # distances near zero round less
    real, fake = reference - centre, generated - centre
    real_radii, fake_radii = _squared_radii(real, k), _squared_radii(fake, k)
    is_real, is_covered = np.zeros(len(fake), bool), np.zeros(len(real), bool)
    for rows, distances, norms in _squared_distances(real, fake):
        least = distances - _ROUNDING * norms
        is_real |= np.any(least <= real_radii[rows, None], axis=0)
        is_covered[rows] = np.any(least <= fake_radii, axis=1)
    return float(is_real.mean()), float(is_covered.mean())


def _squared_radii(points: np.ndarray, k: int) -> np.ndarray:
    """Squared distance of each point to its k-th nearest other point."""
    if (count := len(points)) <= k:
        raise UserError(f"precision and recall need at least {k + 1} samples, got {count}")
    radii = np.empty(count)
    for rows, distances, _ in _squared_distances(points, points):
        np.fill_diagonal(distances[:, rows], np.inf)
        radii[rows] = np.partition(distances, k - 1)[:, k - 1]
    return radii


def _squared_distances(
    x: np.ndarray, y: np.ndarray
) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
    """Blocks of rows, their squared distances to all of y, and sums of the squared norms."""
    for start in range(0, len(x), _BLOCK_ROWS):
        rows = slice(start, start + _BLOCK_ROWS)
        norms = np.add.outer(np.sum(x[rows] ** 2, axis=1), np.sum(y**2, axis=1))
        yield rows, norms - 2 * (x[rows] @ y.T), norms


def cmmd(reference: Float[np.ndarray, "n d"], generated: Float[np.ndarray, "m d"]) -> float:
    """1000 times the squared MMD of two sets of unit-norm embeddings, >= 0 up to rounding."""
    sigma, real, fake = 10.0, reference.astype(np.float64), generated.astype(np.float64)

    def mean_kernel(x: np.ndarray, y: np.ndarray) -> float:
        """Mean of the kernel minus 1. The 1 cancels in the MMD but would cost precision."""
        blocks = (distances for _, distances, _ in _squared_distances(x, y))
        sums = [float(np.sum(np.expm1(-block / (2 * sigma**2)))) for block in blocks]
        return sum(sums) / (len(x) * len(y))

    return 1000 * (mean_kernel(real, real) + mean_kernel(fake, fake) - 2 * mean_kernel(real, fake))
