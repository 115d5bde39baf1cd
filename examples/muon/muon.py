"""Muon as an optimiser: orthogonal updates of matrices, AdamW for all other parameters."""

from typing import Any

import optax
from optax import contrib

from lzn_jax import parts


def muon(training: Any, schedule: optax.Schedule) -> optax.GradientTransformation:
    """Muon with updates of the size of Adam's, so that learning rates of Adam fit."""
    return contrib.muon(schedule, beta=training.momentum, consistent_rms=0.2)


parts.add("optimizer", "muon", muon, {".momentum": parts.share_below_1("momentum of Muon", 0.95)})
