"""Kernel inception distance: unbiased squared MMD with a cubic kernel, over random subsets.

Bińkowski, Sutherland, Arbel and Gretton, "Demystifying MMD GANs", ICLR 2018 (arXiv:1801.01401),
section 4; kernel (x·y / d + 1)³ of d features.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from lzn_jax.configuration import UserError


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
