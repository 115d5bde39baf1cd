"""Latent alignment: the loss that moves zones of one type into zones of another (§2.2.2, B.1)."""

import functools
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from lzn_jax.zoning.devices import (
    Towards,
    Tree,
    by_rows,
    integrate,
    mixture_cotangent,
    place_rows,
    zero_sums,
)
from lzn_jax.zoning.flow import (
    Mixture,
    Points,
    Record,
    Trajectory,
    View,
    all_log_assignments,
    flow,
    flow_vjp,
)
from lzn_jax.zoning.latents import (
    checked_indices,
    classify,
    compute_latents,
    mixture_and_points,
    public,
)
from lzn_jax.zoning.solvers import AdamsBashforth, OneStep, Solver


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
def log_assignments(
    latents: Float[Array, "m q"],
    anchors: Float[Array, "n q"],
    *,
    solver: Solver,
    log_weights: Float[Array, " n"] | None = None,
) -> Float[Array, "s m n"]:
    """Log soft assignment of each latent to every anchor before each step of the flow (§2.2.2).

    The result (S, m, n) is -inf for a removed anchor, whose entries propagate no gradient.
    `compute_latents` explains the arguments, dtypes and errors.
    """
    mixture, latents = mixture_and_points(log_weights, anchors=anchors, latents=latents)
    # Logits relative to the anchor at the latent's end are small numbers. Logits relative to
    # another anchor are differences of large numbers.
    fixed = jax.lax.stop_gradient((latents, *mixture))
    nearest = classify(*fixed[:2], solver=solver, log_weights=fixed[2])
    mixture, points, _ = place_rows(mixture, Points(latents, own_M=nearest))
    log_p_MxSxN = _log_assignments(solver.towards_anchors, mixture, points)
    return log_p_MxSxN[: len(latents)].swapaxes(0, 1)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _log_assignments(towards: Towards, mixture: Mixture, points: Points) -> Array:
    return _log_assignments_fwd(towards, mixture, points)[0]


def _log_assignments_fwd(
    towards: Towards, mixture: Mixture, points: Points
) -> tuple[Array, tuple[Mixture, Points, Record]]:
    def block(view, table, points, record, linear, sums):
        del linear
        _, record = flow(view, table, points)

        def step(row):
            return all_log_assignments(view, points.own_M, *row)

        rows = (record.u_MxSxQ.swapaxes(0, 1), table.r_SxP, record.log_total_MxS.T)
        return (jax.lax.map(step, rows).swapaxes(0, 1), record), sums

    (log_p_MxSxN, record), _ = by_rows(block, towards, mixture, points)
    return log_p_MxSxN, (mixture, points, record)


def _log_assignments_bwd(
    towards: Towards, residuals: Tree, d_log_p_MxSxN: Array
) -> tuple[Mixture, Points]:
    mixture, points, record = residuals

    def block(view, table, points, record, d_log_p, sums):
        d_end = jnp.zeros_like(points.start_MxQ)
        return flow_vjp(view, table, points, record, d_end, d_log_p, sums)

    d_points, sums = by_rows(block, towards, mixture, points, record, d_log_p_MxSxN, zero_sums)
    return mixture_cotangent(sums), d_points


_log_assignments.defvjp(_log_assignments_fwd, _log_assignments_bwd)


@public
def align(
    left: Float[Array, "n q"],
    right: Float[Array, "n q"],
    noise_scale: Float[Array, ""] | float,
    key: PRNGKeyArray,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """The alignment loss of n pairs in both directions, for 2 to 10,000 pairs (ours).

    Row i of `left` and row i of `right` are the anchors of pair i. Latents of each side are drawn
    at α = `noise_scale`. `alignment_loss_at` without a sharpness aligns them with the zones of the
    other side. The key is consumed. Returns means over both directions.
    """
    pairs, solver = jnp.arange(len(left)), AdamsBashforth(10)

    def one_way(source: Array, target: Array, key: Array) -> tuple[Array, dict[str, Array]]:
        noise = noise_scale * jax.random.normal(key, source.shape, source.dtype)
        latents = compute_latents(source, noise, solver=solver)
        return alignment_loss_at(latents, target, pairs)

    to_right, to_left = jax.random.split(key)
    both = one_way(left, right, to_right), one_way(right, left, to_left)
    return jax.tree.map(lambda *values: sum(values) / 2, *both)


def _dropped(cutoff: float, solver: Solver) -> int:
    """Number of first steps that the cut-off drops. Raises ValueError if out of range."""
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
    target. The assignment at step 0 depends only on the weights. A latent whose maximum is at step
    0 receives no gradient.

    Args:
      latents, anchors, targets, solver, log_weights: as for `assignment_log_probs`.
      cutoff: share of the steps, in [0, 1), dropped at the start of the flow. 0.6 with
        `AdamsBashforth` suits about ten zones. 0.2 with `Euler` suits up to thousands of zones if
        anchors match the prior's scale. `align` suits any number and scale.
      form: 'log' for -mean log P_i, 'prob' for -mean P_i.
      is_present: (m,) False excludes a latent from all means, for example without a target. If all
        are excluded, the loss is 0. None means True for all.

    Returns:
      The loss, and a dict with `assignment_accuracy` (share of latents whose last recorded
      assignment is largest at the target) and `ode_error` (mean of |end of the flow - target
      anchor| / |target anchor|), both without gradient.

    Raises:
      ValueError: if there are no latents, shapes do not fit each other, cutoff is out of range or
        form is unknown.
    """
    objective = _Objective(_dropped(cutoff, solver), form)
    return _loss(latents, anchors, targets, solver, objective, log_weights, is_present)


@public
def alignment_loss_at(
    latents: Float[Array, "m q"],
    anchors: Float[Array, "n q"],
    targets: Int[Array, " m"],
    *,
    sharpness: float | None = None,
    form: Literal["log", "prob"] = "log",
    log_weights: Float[Array, " n"] | None = None,
    is_present: Bool[Array, " m"] | None = None,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """The alignment loss with assignments at one inverse temperature r = (1-t)/t (ours).

    One Euler step from the prior, the assignment of a latent z is a softmax over anchors with the
    logits

        r z·(a_j - ā) - ½ r² |a_j - ā|² + log p_j,    ā = Σ_j p_j a_j.

    `alignment_loss` explains results, errors and other arguments.

    Args:
      sharpness: r > 0. A small r compares a latent with all zones, a large r only with the nearest.
        None means r = sqrt(2 log n) / rms |a_j - ā|, without gradient, which suits any number of
        zones.
    """
    solver = OneStep(sharpness)
    return _loss(latents, anchors, targets, solver, _Objective(1, form), log_weights, is_present)


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
    """Mixture of the anchors, and latents whose centres are their targets.

    The logit of the target is then exact, however certain the assignment.
    """
    mixture, latents = mixture_and_points(log_weights, anchors=anchors, latents=latents)
    return mixture, Points(latents, own_M=checked_indices("targets", targets, mixture, latents))


class _Objective(NamedTuple):
    """The loss of each point's best assignment."""

    first: int  # step that is not dropped
    form: str  # 'log' or 'prob'

    def losses(self, log_own_MxS: Array) -> Array:
        """Loss of each point (M,)."""
        log_p_M = jnp.max(log_own_MxS[:, self.first :], axis=1)
        return -(log_p_M if self.form == "log" else jnp.exp(log_p_M))

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
    towards: Towards, objective: _Objective, gradients: Tree, d_totals: Array
) -> tuple[Tree, ...]:
    del towards, objective
    d_loss = d_totals[0]  # the metrics have no gradient
    return *jax.tree.map(lambda gradient: d_loss * gradient, gradients), None


_align.defvjp(_align_fwd, _align_bwd)
