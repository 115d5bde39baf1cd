"""Latent alignment: the loss that moves zones of one type into zones of another (§2.2.2, B.1)."""

import functools
import math
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from lzn_jax.zoning.devices import (
    Towards,
    by_rows,
    integrate,
    mixture_cotangent,
    place_rows,
    zero_sums,
)
from lzn_jax.zoning.flow import Mixture, Points, Trajectory, View, flow, flow_vjp, log_assignments
from lzn_jax.zoning.latents import checked_indices, classify, mixture_and_points, public
from lzn_jax.zoning.solvers import EulerThrough, Solver


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

    `targets` (m,) are indices of anchors. The result (S, m) is -inf where the target is removed.
    `compute_latents` explains the other arguments, dtypes and errors.
    """
    mixture, points = _mixture_and_points(latents, anchors, targets, log_weights)
    return integrate(mixture, points, solver.towards_anchors).log_own_MxS.T


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

    This is the log P of `alignment_loss` for all anchors, to rank them; -inf for a removed anchor.
    A derivative raises NotImplementedError.
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

    return by_rows(block, solver.towards_anchors, mixture, points)[0][: len(latents)]


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
    objective = _Objective(_dropped(cutoff, solver), ((solver.num_steps - 1, 1.0),), form)
    return _loss(latents, anchors, targets, solver, objective, log_weights, is_present)


@public
def alignment_loss_at(
    latents: Float[Array, "m q"],
    anchors: Float[Array, "n q"],
    targets: Int[Array, " m"],
    *,
    sharpness: tuple[float, ...] = (1.0,),
    weights: tuple[float, ...] = (),
    form: Literal["log", "prob"] = "log",
    log_weights: Float[Array, " n"] | None = None,
    is_present: Bool[Array, " m"] | None = None,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """The alignment loss with assignments at given inverse temperatures r = (1-t)/t (ours).

    Euler's method goes from the prior, r = 0, through each r. At the first r, the assignment of a
    latent z is a softmax over anchors with the logits

        r z·(a_j - ā) - ½ r² |a_j - ā|² + log p_j,    ā = Σ_j p_j a_j.

    With several r, term k has in place of P_i the best assignment at the first k of them, and the
    loss is the weighted mean of the terms. `alignment_loss` explains results, errors and other
    arguments.

    Args:
      sharpness: r > 0, increasing. Small r compare a latent with all zones, large r with the
        nearest.
      weights: weight of each term, >= 0 and not all 0; () means equal weights.
    """
    solver = EulerThrough(sharpness)
    weights = weights or (1.0,) * len(sharpness)
    if len(weights) != len(sharpness) or min(weights) < 0 or not 0 < sum(weights) < math.inf:
        raise ValueError(f"weights must be one number >= 0 per sharpness, not all 0, got {weights}")
    terms = ((k, weight / sum(weights)) for k, weight in enumerate(weights, 1) if weight)
    objective = _Objective(1, tuple(terms), form)
    return _loss(latents, anchors, targets, solver, objective, log_weights, is_present)


def _loss(
    latents: Array,
    anchors: Array,
    targets: Array,
    solver: Solver,
    objective: "_Objective",
    log_weights: Array | None,
    is_present: Array | None,
) -> tuple[Array, dict[str, Array]]:
    if objective.form not in ("log", "prob"):
        raise ValueError(f"form must be 'log' or 'prob', got {objective.form!r}")
    mixture, points = _mixture_and_points(latents, anchors, targets, log_weights)
    if latents.shape[0] == 0:
        raise ValueError("the loss is a mean over latents, got none")
    if is_present is None:
        is_present = jnp.ones(len(latents), bool)
    if is_present.shape != latents.shape[:1]:
        raise ValueError(f"is_present must be ({len(latents)},), got {is_present.shape}")
    counts = is_present.astype(points.start_MxQ.dtype)  # `place_rows` pads with 0
    totals = _align(solver.towards_anchors, objective, *place_rows(mixture, points, counts))
    loss, *metrics = totals / jnp.maximum(jnp.sum(counts), 1)
    accuracy, error = jax.lax.stop_gradient(metrics)
    return loss, {"assignment_accuracy": accuracy, "ode_error": error}


def _mixture_and_points(
    latents: Array, anchors: Array, targets: Array, log_weights: Array | None
) -> tuple[Mixture, Points]:
    """The mixture, and latents with their targets as centres.

    The logit of the target is then exact, however certain the assignment.
    """
    mixture, latents = mixture_and_points(log_weights, anchors=anchors, latents=latents)
    return mixture, Points(latents, own_M=checked_indices("targets", targets, mixture, latents))


class _Objective(NamedTuple):
    """Weighted sum of terms, each of the best assignment between two steps."""

    first: int  # step of every term
    terms: tuple[tuple[int, float], ...]  # last step and weight of each
    form: str  # 'log' or 'prob'

    def losses(self, log_own_MxS: Array) -> Array:
        """Loss of each point (M,)."""
        total_M = jnp.zeros_like(log_own_MxS[:, 0])
        for last, weight in self.terms:
            log_p_M = jnp.max(log_own_MxS[:, self.first : last + 1], axis=1)
            total_M -= weight * (log_p_M if self.form == "log" else jnp.exp(log_p_M))
        return total_M

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
    towards: Towards, objective: _Objective, mixture: Mixture, points: Points, counts_M: Array
) -> Float[Array, "3"]:
    """Totals of the objective.

    The loss is a sum over points, so the forward pass of the derivative integrates each block of
    points forwards and backwards at once, and stores gradients instead of states.
    """

    def block(view, table, points, record, counts, totals):
        del record
        trajectory, _ = flow(view, table, points)
        return (), totals + objective.totals(trajectory, view, counts)

    return by_rows(block, towards, mixture, points, (), counts_M, _zero_totals)[1]


def _align_fwd(
    towards: Towards, objective: _Objective, mixture: Mixture, points: Points, counts_M: Array
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

    d_points, (totals, sums) = by_rows(block, towards, mixture, points, (), counts_M, zeros)
    return totals, (mixture_cotangent(sums), d_points)


def _align_bwd(
    towards: Towards, objective: _Objective, gradients: Any, d_totals: Array
) -> tuple[Any, ...]:
    del towards, objective
    d_loss = d_totals[0]  # the metrics have no gradient
    return *jax.tree.map(lambda gradient: d_loss * gradient, gradients), None


_align.defvjp(_align_fwd, _align_bwd)
