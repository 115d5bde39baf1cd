"""Fréchet distance between Gaussians fitted to features, from statistics of a stream of batches.

Heusel et al., "GANs trained by a two time-scale update rule converge to a local Nash equilibrium",
NeurIPS 2017 (arXiv:1706.08500), section 3. Computed in float64 on the host.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np
from jaxtyping import Float64, Real

from lzn_jax.configuration import UserError


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
