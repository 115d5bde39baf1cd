"""Latent zoning as pure functions of arrays, without networks, configs or meshes (paper §2.2).

All tasks of a Latent Zoning Network use two operations:

* *latent computation*, from anchors to latents: `compute_latents`, `latents_in_context`;
* *latent alignment*, from latents to anchors: `alignment_loss`, `alignment_loss_at`,
  `assignment_log_probs`.

`decode` and `classify` follow the flow from a latent to the anchor of its zone;
`best_assignment_log_probs` ranks all anchors; `distinct` lets equal samples share one anchor.
`plain` has the same functions in the fewest lines: read it first.
"""

from collections.abc import Callable

from lzn_jax.zoning import plain
from lzn_jax.zoning.alignment import (
    alignment_loss,
    alignment_loss_at,
    assignment_log_probs,
    best_assignment_log_probs,
)
from lzn_jax.zoning.latents import (
    Distinct,
    classify,
    compute_latents,
    decode,
    distinct,
    latents_in_context,
)
from lzn_jax.zoning.solvers import AdamsBashforth, DPMSolver, Euler, Solver

# Solvers by their names in configs.
SOLVERS: dict[str, Callable[..., Solver]] = {
    "euler": Euler,
    "dpm": DPMSolver,
    "adams": AdamsBashforth,
}

__all__ = [
    "SOLVERS",
    "AdamsBashforth",
    "DPMSolver",
    "Distinct",
    "Euler",
    "Solver",
    "alignment_loss",
    "alignment_loss_at",
    "assignment_log_probs",
    "best_assignment_log_probs",
    "classify",
    "compute_latents",
    "decode",
    "distinct",
    "latents_in_context",
    "plain",
]
