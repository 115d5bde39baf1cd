"""Muon as an optimiser: orthogonal updates of matrices, AdamW for all other parameters."""

import optax
from optax import contrib

from lzn_jax import parts


def muon(learning_rate: optax.Schedule, momentum: float) -> optax.GradientTransformation:
    """Muon with updates of the size of Adam's, so that learning rates of Adam fit."""
    return contrib.muon(learning_rate, beta=momentum, consistent_rms=0.2)


parts.add("optimizer", "muon", muon, {".momentum": parts.share_below_1("momentum of Muon", 0.95)})
