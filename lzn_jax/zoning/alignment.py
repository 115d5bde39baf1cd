"""Latent alignment: make zones of one data type lie inside the zones of another (§2.2.2, B.1)."""

import functools
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from lzn_jax.zoning.flow import Trajectory, integrate, make_zones
from lzn_jax.zoning.latents import _check_shapes, _promote
from lzn_jax.zoning.solvers import Solver


@functools.partial(jax.jit, static_argnames="solver")
def assignment_log_probs(
    latents: Float[Array, "m q"],
    anchors: Float[Array, "n q"],
    targets: Int[Array, " m"],
    *,
    solver: Solver,
    log_weights: Float[Array, " n"] | None = None,
) -> Float[Array, "s m"]:
    """Log soft assignment of each latent to its target before each step's update (§2.2.2).

    Args:
      latents: (m, q).
      anchors: (n, q).
      targets: (m,) index of the anchor that each latent should belong to.
      solver: `Euler` or `DPMSolver`, S steps.
      log_weights: (n,) unnormalised log mixture weights, -inf removes an anchor (and gives -inf
        where it is a target); None is uniform.

    Returns:
      (S, m), in float64 if an input is float64, else in float32.

    Raises:
      ValueError: shapes do not fit each other.
    """
    trajectory, _ = _decode_beside_target(latents, anchors, targets, solver, log_weights)
    return trajectory.log_own_SxM


@functools.partial(jax.jit, static_argnames=("solver", "cutoff", "form"))
def alignment_loss(
    latents: Float[Array, "m q"],
    anchors: Float[Array, "n q"],
    targets: Int[Array, " m"],
    *,
    solver: Solver,
    cutoff: float = 0.2,
    form: Literal["log", "prob"] = "log",
    log_weights: Float[Array, " n"] | None = None,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """Minus the mean over latents of (log) P_i, the best assignment after a cut-off (§2.2.2, B.1).

    P_i = max over steps s >= int(cutoff S) of latent i's soft assignment to its target.

    Args:
      latents, anchors, targets, solver, log_weights: as for `assignment_log_probs`.
      cutoff: share of the steps, in [0, 1), that are dropped at the start of the flow.
      form: 'log' for -mean log P_i, 'prob' for -mean P_i.

    Returns:
      The loss, and a dict with `assignment_accuracy` (share of latents whose last recorded
      assignment is largest at the target) and `ode_error` (mean of |end of the flow - target
      anchor| / |target anchor|).

    Raises:
      ValueError: shapes do not fit each other, no step is left after the cut-off, unknown form.
    """
    dropped = int(cutoff * solver.num_steps)
    if not 0 <= dropped < solver.num_steps:
        raise ValueError(f"cutoff must be in [0, 1), got {cutoff}")
    if form not in ("log", "prob"):
        raise ValueError(f"form must be 'log' or 'prob', got {form!r}")
    trajectory, miss = _decode_beside_target(latents, anchors, targets, solver, log_weights)
    log_p = jnp.max(trajectory.log_own_SxM[dropped:], axis=0)
    loss = -jnp.mean(log_p if form == "log" else jnp.exp(log_p))

    is_largest = trajectory.log_own_SxM[-1] >= trajectory.log_other_SxM[-1]
    relative_miss = jnp.linalg.norm(miss, axis=1) / jnp.linalg.norm(anchors[targets], axis=1)
    metrics = {
        "assignment_accuracy": jnp.mean(is_largest.astype(loss.dtype)),
        "ode_error": jnp.mean(relative_miss.astype(loss.dtype)),
    }
    return loss, jax.lax.stop_gradient(metrics)


def _decode_beside_target(
    latents: Array, anchors: Array, targets: Array, solver: Solver, log_weights: Array | None
) -> tuple[Trajectory, Array]:
    """Decodes latents in the zone coordinates of their targets; also end point minus target.

    Seen from the target the own logit is exact, however certain the assignment.
    """
    latents, anchors, log_weights = _promote(latents, anchors, log_weights)
    _check_shapes(anchors, latents, log_weights, "latents")
    if targets.shape != latents.shape[:1]:
        raise ValueError(f"targets must be ({latents.shape[0]},), got {targets.shape}")
    table = solver.towards_anchors()
    zones = make_zones(anchors, log_weights, None, targets)
    start = (latents - (1 - table.t_start) * zones.centers_MxQ) / table.t_start
    trajectory = integrate(zones, table, start)
    return trajectory, trajectory.offset_MxQ - table.t_end * zones.centers_MxQ
