"""Latent alignment: the loss that moves zones of one type into zones of another (§2.2.2, B.1)."""

import functools
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from lzn_jax.zoning.arguments import checked_indices, mixture_and_points, public
from lzn_jax.zoning.flow import (
    Mixture,
    Points,
    Trajectory,
    View,
    flow,
    flow_vjp,
    log_assignments,
)
from lzn_jax.zoning.integrate import Direction, by_rows, integrate, mixture_cotangent, zero_sums
from lzn_jax.zoning.latents import classify
from lzn_jax.zoning.rows import place_rows
from lzn_jax.zoning.solvers import Solver


@public
def assignment_log_probs(
    latents: Float[Array, "m q"],
    anchors: Float[Array, "n q"],
    targets: Int[Array, " m"],
    *,
    solver: Solver,
    log_weights: Float[Array, " n"] | None = None,
) -> Float[Array, "s m"]:
    """Log soft assignment of each latent to its target before each step of the flow (§2.2.2).

    Args:
      latents, anchors: (m, q), (n, q).
      targets: (m,) index of each latent's target anchor, from the end if negative.
      solver: `Euler`, `DPMSolver` or `AdamsBashforth` with S steps.
      log_weights: (n,) unnormalised log mixture weights; -inf removes an anchor, and the result is
        -inf if it is a target. None means uniform.

    Returns:
      (S, m), in float64 if an input is float64, else in float32.

    Raises:
      ValueError: if shapes do not fit each other.
    """
    mixture, points, direction = _flow_inputs(latents, anchors, targets, solver, log_weights)
    return integrate(mixture, points, direction).log_own_MxS.T


@public
def best_assignment_log_probs(
    latents: Float[Array, "m q"],
    anchors: Float[Array, "n q"],
    *,
    solver: Solver,
    cutoff: float = 0.2,
    log_weights: Float[Array, " n"] | None = None,
) -> Float[Array, "m n"]:
    """Largest log assignment of each latent to each anchor after the cut-off (§2.2.2).

    This is the log P that `alignment_loss` uses for the target, for all anchors, to rank them; -inf
    for a removed anchor. Arguments, dtype and errors are those of `alignment_loss`; a derivative
    raises NotImplementedError.
    """
    dropped = _dropped(cutoff, solver)
    mixture, latents = mixture_and_points(log_weights, anchors=anchors, latents=latents)
    # Relative to the anchor at its end, a latent's logits are small numbers; relative to others,
    # they are differences of large ones.
    nearest = classify(latents, anchors, solver=solver, log_weights=log_weights)
    mixture, points, _ = place_rows(mixture, Points(latents, own_M=nearest))

    def block(view, table, points, record, linear, sums):
        del linear
        _, record = flow(view, table, points)

        def step(best_MxN, row):
            u_MxQ, r, log_total_M = row
            log_p_MxN = log_assignments(view, points.own_M, u_MxQ, r, log_total_M)
            return jnp.maximum(best_MxN, log_p_MxN), None

        rows = (record.u_MxSxQ.swapaxes(0, 1), table.r_SxP, record.log_total_MxS.T)
        least_MxN = jnp.full_like(view.squared_MxN, -jnp.inf)
        rows = jax.tree.map(lambda a: a[dropped:], rows)
        return jax.lax.scan(step, least_MxN, rows)[0], sums

    return by_rows(block, Direction(solver, "anchors"), mixture, points)[0][: len(latents)]


def _dropped(cutoff: float, solver: Solver) -> int:
    """Number of first steps that the cut-off drops; raises ValueError if it is out of range."""
    if not 0 <= cutoff < 1:
        raise ValueError(f"cutoff must be in [0, 1), got {cutoff}")
    return int(cutoff * solver.num_steps)


@public
def alignment_loss(
    latents: Float[Array, "m q"],
    anchors: Float[Array, "n q"],
    targets: Int[Array, " m"],
    *,
    solver: Solver,
    cutoff: float = 0.2,
    form: Literal["log", "prob"] = "log",
    log_weights: Float[Array, " n"] | None = None,
    is_present: Bool[Array, " m"] | None = None,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """Negative mean of P_i or log P_i, each latent's best assignment to its target (§2.2.2, B.1).

    P_i is the maximum over steps s >= int(cutoff S) of the soft assignment of latent i to its
    target. The assignment at step 0 depends on the weights alone: if it is not dropped and is the
    maximum, the latent has no gradient.

    Args:
      latents, anchors, targets, solver, log_weights: as for `assignment_log_probs`.
      cutoff: share of the steps, in [0, 1), dropped at the start of the flow. 0.2 with `Euler`
        drops the same part of the flow as 0.6 with `AdamsBashforth`.
      form: 'log' for -mean log P_i, 'prob' for -mean P_i.
      is_present: (m,) False excludes a latent from all means, for example if it has no target. If
        all are excluded, the loss is 0. None means True for all.

    Returns:
      The loss, and a dict with `assignment_accuracy` (share of latents whose last recorded
      assignment is largest at the target) and `ode_error` (mean of |end of the flow - target
      anchor| / |target anchor|), both without gradient.

    Raises:
      ValueError: if there are no latents, shapes do not fit each other, cutoff is out of range or
        form is unknown.
    """
    dropped = _dropped(cutoff, solver)
    if form not in ("log", "prob"):
        raise ValueError(f"form must be 'log' or 'prob', got {form!r}")
    mixture, points, direction = _flow_inputs(latents, anchors, targets, solver, log_weights)
    if latents.shape[0] == 0:
        raise ValueError("the loss is a mean over latents, got none")
    if is_present is None:
        is_present = jnp.ones(len(latents), bool)
    if is_present.shape != latents.shape[:1]:
        raise ValueError(f"is_present must be ({len(latents)},), got {is_present.shape}")
    counts = is_present.astype(points.start_MxQ.dtype)  # `place_rows` pads with 0
    totals = _align(direction, _Objective(dropped, form), *place_rows(mixture, points, counts))
    loss, *metrics = totals / jnp.maximum(jnp.sum(counts), 1)
    accuracy, error = jax.lax.stop_gradient(metrics)
    return loss, {"assignment_accuracy": accuracy, "ode_error": error}


def _flow_inputs(
    latents: Array, anchors: Array, targets: Array, solver: Solver, log_weights: Array | None
) -> tuple[Mixture, Points, Direction]:
    """Inputs of the flow from latents to anchors, with the targets as centres.

    The logit of the target is then exact, however certain the assignment.
    """
    mixture, latents = mixture_and_points(log_weights, anchors=anchors, latents=latents)
    targets = checked_indices("targets", targets, mixture, latents)
    return mixture, Points(latents, own_M=targets), Direction(solver, "anchors")


class _Objective(NamedTuple):
    dropped: int
    form: str

    def losses(self, log_own_MxS: Array) -> Array:
        """Loss of each point (M,)."""
        log_p = jnp.max(log_own_MxS[:, self.dropped :], axis=1)
        return -(log_p if self.form == "log" else jnp.exp(log_p))

    def totals(self, trajectory: Trajectory, view: View, counts_M: Array) -> Float[Array, "3"]:
        """Sums over points with a count of 1: losses, correct assignments, errors of the ends."""
        distance_M = jnp.linalg.norm(trajectory.end_MxQ - view.centres_MxQ, axis=1)
        values = (
            self.losses(trajectory.log_own_MxS),
            trajectory.log_own_MxS[:, -1] >= trajectory.log_other_M,
            distance_M / jnp.linalg.norm(view.centres_MxQ, axis=1),
        )
        # `where` instead of a product, because the values of excluded points may be infinite.
        return jnp.stack([jnp.sum(jnp.where(counts_M > 0, value, 0)) for value in values])


def _zero_totals(mixture: Mixture) -> Array:
    return jnp.zeros_like(mixture.log_weights_N, shape=3)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _align(
    direction: Direction, objective: _Objective, mixture: Mixture, points: Points, counts_M: Array
) -> Float[Array, "3"]:
    """Totals of the objective.

    The loss is a sum over points, so the forward pass of the derivative integrates each block of
    points forwards and backwards at once, and stores gradients instead of states.
    """

    def block(view, table, points, record, counts, totals):
        del record
        trajectory, _ = flow(view, table, points)
        return (), totals + objective.totals(trajectory, view, counts)

    return by_rows(block, direction, mixture, points, (), counts_M, _zero_totals)[1]


def _align_fwd(
    direction: Direction, objective: _Objective, mixture: Mixture, points: Points, counts_M: Array
) -> tuple[Array, tuple[Mixture, Points]]:
    def block(view, table, points, record, counts, sums):
        totals, mixture_sums = sums
        trajectory, record = flow(view, table, points)
        _, losses_vjp = jax.vjp(objective.losses, trajectory.log_own_MxS)
        d_end, (d_log_own,) = jnp.zeros_like(trajectory.end_MxQ), losses_vjp(counts)
        d_points, mixture_sums = flow_vjp(
            view, table, points, record, d_end, d_log_own, mixture_sums
        )
        return d_points, (totals + objective.totals(trajectory, view, counts), mixture_sums)

    def zeros(mixture):
        return _zero_totals(mixture), zero_sums(mixture)

    d_points, (totals, sums) = by_rows(block, direction, mixture, points, (), counts_M, zeros)
    return totals, (mixture_cotangent(sums), d_points)


def _align_bwd(
    direction: Direction, objective: _Objective, gradients: Any, d_totals: Array
) -> tuple[Any, ...]:
    del direction, objective
    d_loss = d_totals[0]  # the metrics have no gradient
    return *jax.tree.map(lambda gradient: d_loss * gradient, gradients), None


_align.defvjp(_align_fwd, _align_bwd)
