"""The latent flow of any number of points: in blocks, over devices, differentiable once."""

import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from lzn_jax.zoning.flow import (
    Mixture,
    MixtureSums,
    Points,
    Trajectory,
    centred,
    flow,
    flow_vjp,
    make_view,
)
from lzn_jax.zoning.rows import in_blocks, over_devices, place_rows, rows_per_block
from lzn_jax.zoning.solvers import Solver, Tables


class Direction(NamedTuple):
    """A solver and the direction of its flow; static and hashable."""

    solver: Solver
    towards: Literal["prior", "anchors"]

    def tables(self, mixture: Mixture) -> Tables:
        """The solver's tables in this direction."""
        if self.towards == "prior":
            return self.solver.towards_prior(mixture)
        return self.solver.towards_anchors(mixture)


def integrate(mixture: Mixture, points: Points, direction: Direction) -> Trajectory:
    """Integrates the flow of all points."""
    count = len(points.start_MxQ)
    mixture, points, _ = place_rows(mixture, points)
    return jax.tree.map(lambda a: a[:count], _trajectory(direction, mixture, points))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _trajectory(direction: Direction, mixture: Mixture, points: Points) -> Trajectory:
    """The derivative stores one state per step and point, and recomputes the rest."""
    return _trajectory_fwd(direction, mixture, points)[0]


def _trajectory_fwd(
    direction: Direction, mixture: Mixture, points: Points
) -> tuple[Trajectory, Any]:
    def block(view, table, points, record, linear, sums):
        del record, linear
        return flow(view, table, points), sums

    (trajectory, record), _ = by_rows(block, direction, mixture, points)
    return trajectory, (mixture, points, record)


def _trajectory_bwd(
    direction: Direction, residuals: Any, cotangent: Trajectory
) -> tuple[Mixture, Points]:
    mixture, points, record = residuals

    def block(view, table, points, record, linear, sums):
        d_end, d_log_own = linear
        return flow_vjp(view, table, points, record, d_end, d_log_own, sums)

    linear = (cotangent.end_MxQ, cotangent.log_own_MxS)
    d_points, sums = by_rows(block, direction, mixture, points, record, linear, zero_sums)
    return mixture_cotangent(sums), d_points


_trajectory.defvjp(_trajectory_fwd, _trajectory_bwd)


def by_rows(
    function: Callable[..., tuple[Any, Any]],
    direction: Direction,
    mixture: Mixture,
    points: Points,
    record: Any = (),
    linear: Any = (),
    zero_sums: Callable[[Mixture], Any] = lambda mixture: (),
) -> tuple[Any, Any]:
    """Applies `function(view, table, points, record, linear, sums)` to all points in blocks.

    The arrays must be placed by `place_rows`. The call has no derivative: a function that has one
    defines it by another call.
    """

    def on_a_device(mixture, rows, linear, sums):
        size = rows_per_block(len(rows[0].start_MxQ), len(mixture.anchors_NxQ))
        mixture, origin = centred(mixture)
        tables = direction.tables(mixture)

        def block(mixture, rows, linear, sums):
            points, record = rows
            view = make_view(mixture, origin, points)
            return function(view, tables(view, points), points, record, linear, sums)

        return in_blocks(block, size)(mixture, rows, linear, sums)

    call = jax.custom_jvp(over_devices(on_a_device, zero_sums))
    call.defjvp(_refuse)
    return call(mixture, (points, record), linear)


def _refuse(primals: Any, tangents: Any) -> Any:
    raise NotImplementedError(
        "zoning has first derivatives only, and best_assignment_log_probs has none: "
        "differentiate once, or stop the gradient of the arrays (jax.lax.stop_gradient)"
    )


def zero_sums(mixture: Mixture) -> MixtureSums:
    """Initial sums of `flow_vjp`."""
    return MixtureSums(jnp.zeros_like(mixture.anchors_NxQ.T), jnp.zeros_like(mixture.log_weights_N))


def mixture_cotangent(sums: MixtureSums) -> Mixture:
    """Cotangent of the mixture from the sums over all points."""
    return Mixture(sums.anchors_QxN.T, sums.log_weights_N)
