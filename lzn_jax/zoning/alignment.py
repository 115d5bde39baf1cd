"""Latent alignment: make zones of one data type lie inside the zones of another (§2.2.2, B.1)."""

import functools
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from lzn_jax.zoning.flow import Mixture, Points, Trajectory, View, flow, flow_vjp, make_view
from lzn_jax.zoning.integrate import (
    Way,
    by_rows,
    integrate,
    make_mixture,
    mixture_cotangent,
    zero_sums,
)
from lzn_jax.zoning.latents import _check_shapes, _checked_indices, _promote
from lzn_jax.zoning.rows import on_auto_axes
from lzn_jax.zoning.solvers import Solver


@functools.partial(jax.jit, static_argnames="solver")
@jax.named_scope("zoning")
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
      targets: (m,) index of the anchor that each latent should belong to, from the end if negative.
      solver: `Euler` or `DPMSolver`, S steps.
      log_weights: (n,) unnormalised log mixture weights, -inf removes an anchor (and gives -inf
        where it is a target); None is uniform.

    Returns:
      (S, m), in float64 if an input is float64, else in float32.

    Raises:
      ValueError: shapes do not fit each other.
    """
    mixture, points, way = _beside_targets(latents, anchors, targets, solver, log_weights)
    return integrate(mixture, points, way).log_own_MxS.T


@functools.partial(jax.jit, static_argnames=("solver", "cutoff", "form"))
@jax.named_scope("zoning")
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
    Step 0 assigns by the weights alone: unless it is dropped, a latent that all later steps assign
    worse than that has no gradient.

    Args:
      latents, anchors, targets, solver, log_weights: as for `assignment_log_probs`.
      cutoff: share of the steps, in [0, 1), that are dropped at the start of the flow.
      form: 'log' for -mean log P_i, 'prob' for -mean P_i.

    Returns:
      The loss, and a dict with `assignment_accuracy` (share of latents whose last recorded
      assignment is largest at the target) and `ode_error` (mean of |end of the flow - target
      anchor| / |target anchor|).

    Raises:
      ValueError: no latents, shapes do not fit each other, cutoff out of range, unknown form.
    """
    if not 0 <= cutoff < 1:
        raise ValueError(f"cutoff must be in [0, 1), got {cutoff}")
    if form not in ("log", "prob"):
        raise ValueError(f"form must be 'log' or 'prob', got {form!r}")
    mixture, points, way = _beside_targets(latents, anchors, targets, solver, log_weights)
    if latents.shape[0] == 0:
        raise ValueError("the loss is a mean over latents, got none")
    align = functools.partial(_align, way, _Objective(int(cutoff * solver.num_steps), form))
    return on_auto_axes(align, mixture, points, is_by_row=False)


def _beside_targets(
    latents: Array, anchors: Array, targets: Array, solver: Solver, log_weights: Array | None
) -> tuple[Mixture, Points, Way]:
    """Latents in the zone coordinates of their targets, ready to be decoded.

    Seen from the target the own logit is exact, however certain the assignment.
    """
    latents, anchors, log_weights = _promote(latents, anchors, log_weights)
    _check_shapes(anchors, latents, log_weights, "latents")
    targets = _checked_indices(targets, anchors, latents, "targets")
    way = Way(solver, "anchors")
    mixture = make_mixture(anchors, log_weights)
    return mixture, Points(latents, own_M=targets), way


class _Objective(NamedTuple):
    dropped: int
    form: str

    def of(self, log_own_MxS: Array) -> Array:
        """What each point adds to the loss."""
        log_p = jnp.max(log_own_MxS[:, self.dropped :], axis=1)
        return -(log_p if self.form == "log" else jnp.exp(log_p))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _align(
    way: Way, objective: _Objective, mixture: Mixture, points: Points
) -> tuple[Array, dict[str, Array]]:
    """Loss and metrics.

    Each point adds to the loss by itself, so the forward pass of the derivative takes a block of
    points down the flow and back at once, and keeps gradients instead of states.
    """

    def rows(shared, points, linear, sums):
        del linear
        mixture, origin, table = shared
        view = make_view(mixture, origin, points)
        trajectory, _ = flow(view, table, points, way.solver.precision)
        metrics = _row_metrics(trajectory, view)
        return (objective.of(trajectory.log_own_MxS), metrics), sums

    (values, metrics), _ = by_rows(rows, mixture, way)(points, ())
    return jnp.mean(values), _means(metrics)


def _align_fwd(
    way: Way, objective: _Objective, mixture: Mixture, points: Points
) -> tuple[Any, tuple[Mixture, Points]]:
    def rows(shared, points, weights, sums):
        mixture, origin, table = shared
        view, precision = make_view(mixture, origin, points), way.solver.precision
        trajectory, record = flow(view, table, points, precision)
        metrics = _row_metrics(trajectory, view)
        values, pull = jax.vjp(objective.of, trajectory.log_own_MxS)
        d_end, (d_log_own,) = jnp.zeros_like(trajectory.end_MxQ), pull(weights)
        d_points, sums = flow_vjp(view, table, points, record, d_end, d_log_own, sums, precision)
        return (values, metrics, d_points), sums

    loss_and_gradient = by_rows(rows, mixture, way, zero_sums)
    weights = jnp.full_like(points.start_MxQ[:, 0], 1 / len(points.start_MxQ))
    (values, metrics, d_points), sums = loss_and_gradient(points, weights)
    return (jnp.mean(values), _means(metrics)), (mixture_cotangent(sums), d_points)


def _align_bwd(
    way: Way, objective: _Objective, gradients: tuple[Mixture, Points], cotangent: Any
) -> tuple[Mixture, Points]:
    del way, objective
    d_loss, _ = cotangent  # metrics are for reading
    return jax.tree.map(lambda gradient: d_loss * gradient, gradients)


_align.defvjp(_align_fwd, _align_bwd)


def _row_metrics(trajectory: Trajectory, view: View) -> dict[str, Array]:
    miss_M = jnp.linalg.norm(trajectory.end_MxQ - view.centers_MxQ, axis=1)
    return {
        "assignment_accuracy": trajectory.log_own_MxS[:, -1] >= trajectory.log_other_M,
        "ode_error": miss_M / jnp.linalg.norm(view.centers_MxQ, axis=1),
    }


def _means(rows: dict[str, Array]) -> dict[str, Array]:
    dtype = rows["ode_error"].dtype
    return {name: jnp.mean(values.astype(dtype)) for name, values in rows.items()}
