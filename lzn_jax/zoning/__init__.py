"""Latent zoning: pure functions of arrays, free of networks, configs and meshes (paper §2.2).

Two operations are enough for every task of a Latent Zoning Network:

* *latent computation*: `compute_latents`, `latents_in_context` (anchors -> latents);
* *latent alignment*: `alignment_loss`, built on `assignment_log_probs` (latents -> anchors).

`decode` and `classify` follow the flow to the anchor whose zone a latent lies in;
`best_assignment_log_probs` ranks all anchors; `distinct` lets equal samples share one anchor.
`plain` has the same in the fewest lines.
"""

from collections.abc import Callable

from lzn_jax.zoning import plain
from lzn_jax.zoning.adams import AdamsBashforth
from lzn_jax.zoning.alignment import (
    alignment_loss,
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
from lzn_jax.zoning.solvers import DPMSolver, Euler, Solver

# By the names that configs give them.
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
    "assignment_log_probs",
    "best_assignment_log_probs",
    "classify",
    "compute_latents",
    "decode",
    "distinct",
    "latents_in_context",
    "plain",
]
