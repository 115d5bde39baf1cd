"""Latent zoning as pure functions of arrays, without networks, configs or meshes (paper §2.2).

All tasks of a Latent Zoning Network use two operations:

* *latent computation*, from anchors to latents: `compute_latents`, `latents_in_context`;
* *latent alignment*, from latents to anchors: `align`, `alignment_loss`, `alignment_loss_at`,
  `assignment_log_probs`, `log_assignments`.

`decode` and `classify` follow the flow from a latent to the anchor of its zone. `distinct` lets
equal samples share one anchor. `accuracy` measures a solver, also one of your own (`OnGrid`). Read
`plain` first: it implements the paper's algorithm by Euler's method.
"""

from collections.abc import Callable

from lzn_jax.zoning import plain
from lzn_jax.zoning.accuracy import Accuracy, accuracy
from lzn_jax.zoning.alignment import (
    align,
    alignment_loss,
    alignment_loss_at,
    assignment_log_probs,
    log_assignments,
)
from lzn_jax.zoning.latents import (
    Distinct,
    classify,
    compute_latents,
    decode,
    distinct,
    latents_in_context,
)
from lzn_jax.zoning.solvers import AdamsBashforth, DPMSolver, Euler, OnGrid, Solver

# Solvers by their names in configs.
SOLVERS: dict[str, Callable[..., Solver]] = {
    "euler": Euler,
    "dpm": DPMSolver,
    "adams": AdamsBashforth,
}

__all__ = [
    "SOLVERS",
    "Accuracy",
    "AdamsBashforth",
    "DPMSolver",
    "Distinct",
    "Euler",
    "OnGrid",
    "Solver",
    "accuracy",
    "align",
    "alignment_loss",
    "alignment_loss_at",
    "assignment_log_probs",
    "classify",
    "compute_latents",
    "decode",
    "distinct",
    "latents_in_context",
    "log_assignments",
    "plain",
]
