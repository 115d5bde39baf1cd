"""Inception score: exp of the mean KL divergence between class probabilities and their average.

Salimans, Goodfellow, Zaremba, Cheung, Radford and Chen, "Improved techniques for training GANs",
NeurIPS 2016 (arXiv:1606.03498), section 4.
"""

import numpy as np
from jaxtyping import Float
from scipy.special import log_softmax, logsumexp

from lzn_jax.configuration import UserError


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
