"""Latent alignment: make zones of one data type lie inside the zones of another (§2.2.2, B.1)."""

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
    """Log soft assignment of each latent to its target before each step's update (§2.2.2).

    Args:
      latents, anchors: (m, q), (n, q).
      targets: (m,) index of the anchor that each latent should belong to, from the end if negative.
      solver: `Euler`, `DPMSolver` or `AdamsBashforth`, S steps.
      log_weights: (n,) unnormalised log mixture weights, -inf removes an anchor (and gives -inf
        where it is a target); None is uniform.

    Returns:
      (S, m), in float64 if an input is float64, else in float32.

    Raises:
      ValueError: shapes do not fit each other.
    """
    mixture, points, direction = _beside_targets(latents, anchors, targets, solver, log_weights)
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
    """Log P of each latent for every anchor: its best assignment to it after the cut-off (§2.2.2).

    What `alignment_loss` takes for the target, for all anchors at once: to rank them. It has no
    derivative: NotImplementedError where one is asked for. Arguments, dtype and other errors as for
    `alignment_loss`; of a removed anchor -inf.
    """
    dropped = _dropped(cutoff, solver)
    mixture, latents = mixture_and_points(log_weights, anchors=anchors, latents=latents)
    # From where a latent ends logits are small numbers; from elsewhere, differences of large ones.
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
    """How many first steps a cut-off leaves out; raises ValueError for one out of range."""
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
    """Minus the mean over latents of (log) P_i, the best assignment after a cut-off (§2.2.2, B.1).

    P_i = max over steps s >= int(cutoff S) of latent i's soft assignment to its target.
    Step 0 assigns by the weights alone: unless it is dropped, a latent that all later steps assign
    worse than that has no gradient.

    Args:
      latents, anchors, targets, solver, log_weights: as for `assignment_log_probs`.
      cutoff: share of the steps, in [0, 1), that are dropped at the start of the flow. Of Euler's
        0.2 drop as much of it as 0.6 of `AdamsBashforth`'s.
      form: 'log' for -mean log P_i, 'prob' for -mean P_i.
      is_present: (m,) False leaves a latent out of all means, such as one without a target; with
        none left the loss is 0. None is True for each.

    Returns:
      The loss, and a dict with `assignment_accuracy` (share of latents whose last recorded
      assignment is largest at the target) and `ode_error` (mean of |end of the flow - target
      anchor| / |target anchor|), which have no gradient: JAX takes them for constants.

    Raises:
      ValueError: no latents, shapes do not fit each other, cutoff out of range, unknown form.
    """
    dropped = _dropped(cutoff, solver)
    if form not in ("log", "prob"):
        raise ValueError(f"form must be 'log' or 'prob', got {form!r}")
    mixture, points, direction = _beside_targets(latents, anchors, targets, solver, log_weights)
    if latents.shape[0] == 0:
        raise ValueError("the loss is a mean over latents, got none")
    if is_present is None:
        is_present = jnp.ones(len(latents), bool)
    if is_present.shape != latents.shape[:1]:
        raise ValueError(f"is_present must be ({len(latents)},), got {is_present.shape}")
    counts = is_present.astype(points.start_MxQ.dtype)  # 0 for points that `place_rows` adds
    totals = _align(direction, _Objective(dropped, form), *place_rows(mixture, points, counts))
    loss, *metrics = totals / jnp.maximum(jnp.sum(counts), 1)
    accuracy, error = jax.lax.stop_gradient(metrics)
    return loss, {"assignment_accuracy": accuracy, "ode_error": error}


def _beside_targets(
    latents: Array, anchors: Array, targets: Array, solver: Solver, log_weights: Array | None
) -> tuple[Mixture, Points, Direction]:
    """Latents in the zone coordinates of their targets, ready to be decoded.

    Seen from the target the own logit is exact, however certain the assignment.
    """
    mixture, latents = mixture_and_points(log_weights, anchors=anchors, latents=latents)
    targets = checked_indices("targets", targets, mixture, latents)
    return mixture, Points(latents, own_M=targets), Direction(solver, "anchors")


class _Objective(NamedTuple):
    dropped: int
    form: str

    def of(self, log_own_MxS: Array) -> Array:
        """What each point adds to the loss."""
        log_p = jnp.max(log_own_MxS[:, self.dropped :], axis=1)
        return -(log_p if self.form == "log" else jnp.exp(log_p))

    def totals(self, trajectory: Trajectory, view: View, counts_M: Array) -> Float[Array, "3"]:
        """Sums over the points that count: the loss, right assignments, errors of end points."""
        miss_M = jnp.linalg.norm(trajectory.end_MxQ - view.centres_MxQ, axis=1)
        values = (
            self.of(trajectory.log_own_MxS),
            trajectory.log_own_MxS[:, -1] >= trajectory.log_other_M,
            miss_M / jnp.linalg.norm(view.centres_MxQ, axis=1),
        )
        # No product: what does not count may be infinite, as the point that it is a copy of.
        return jnp.stack([jnp.sum(jnp.where(counts_M > 0, value, 0)) for value in values])


def _zero_totals(mixture: Mixture) -> Array:
    return jnp.zeros_like(mixture.log_weights_N, shape=3)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _align(
    direction: Direction, objective: _Objective, mixture: Mixture, points: Points, counts_M: Array
) -> Float[Array, "3"]:
    """The objective's totals.

    Each point adds to the loss by itself, so the forward pass of the derivative takes a block of
    points down the flow and back at once, and keeps gradients instead of states.
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
        _, pull = jax.vjp(objective.of, trajectory.log_own_MxS)
        d_end, (d_log_own,) = jnp.zeros_like(trajectory.end_MxQ), pull(counts)
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
    d_loss = d_totals[0]  # metrics are for reading
    return *jax.tree.map(lambda gradient: d_loss * gradient, gradients), None


_align.defvjp(_align_fwd, _align_bwd)
