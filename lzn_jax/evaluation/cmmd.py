"""CMMD: squared MMD with a Gaussian kernel between CLIP embeddings.

Jayasumana, Ramalingam, Veit, Glasner, Chakrabarti and Kumar, "Rethinking FID: Towards a better
evaluation metric for image generation", CVPR 2024 (arXiv:2401.09603), section 4.

As in the authors' code, and unlike KID, the estimate is the biased, minimum-variance one: the mean
over a set includes pairs of a sample with itself. The CMMD of a set with itself is therefore 0, and
that of two samples of one distribution is positive on average.
"""

import numpy as np
from jaxtyping import Float

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
