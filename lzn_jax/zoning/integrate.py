"""The latent flow of any number of points, differentiable, block by block, on any devices."""

import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from lzn_jax.zoning.flow import (
    SMALL_SIDE,
    Mixture,
    MixtureSums,
    Points,
    Record,
    Trajectory,
    centered,
    flow,
    flow_vjp,
    make_view,
)
from lzn_jax.zoning.rows import RowFunction, in_blocks, on_auto_axes, over_devices
from lzn_jax.zoning.solvers import Solver, Table

BLOCK_LOGITS = 2**21  # points x anchors at a time: stays in a cache, fills an accelerator


class Way(NamedTuple):
    """A solver and the direction in which it runs: static, hashable."""

    solver: Solver
    towards: Literal["prior", "anchors"]

    @property
    def table(self) -> Table:
        """The solver's table in this direction."""
        if self.towards == "prior":
            return self.solver.towards_prior()
        return self.solver.towards_anchors()


def make_mixture(anchors: jax.Array, log_weights: jax.Array | None) -> Mixture:
    """The mixture of anchors (n, q) with unnormalised log weights (n,); None is uniform."""
    if log_weights is None:
        log_weights = jnp.zeros(anchors.shape[0], anchors.dtype)
    return Mixture(anchors, log_weights)


def integrate(mixture: Mixture, points: Points, way: Way) -> Trajectory:
    """Runs the flow for all points."""
    return on_auto_axes(functools.partial(_trajectory, way), mixture, points)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _trajectory(way: Way, mixture: Mixture, points: Points) -> Trajectory:
    """The derivative keeps one state a step and point, and recomputes the rest."""
    return _integrate(mixture, points, way)[0]


def _integrate(mixture: Mixture, points: Points, way: Way) -> tuple[Trajectory, Record]:
    def rows(shared, points, linear, sums):
        del linear
        mixture, origin, table = shared
        view = make_view(mixture, origin, points)
        return flow(view, table, points, way.solver.precision), sums

    return by_rows(rows, mixture, way)(points, ())[0]


def _trajectory_fwd(
    way: Way, mixture: Mixture, points: Points
) -> tuple[Trajectory, tuple[Mixture, Points, Record]]:
    trajectory, record = _integrate(mixture, points, way)
    return trajectory, (mixture, points, record)


def _trajectory_bwd(
    way: Way, residuals: tuple[Mixture, Points, Record], cotangent: Trajectory
) -> tuple[Mixture, Points]:
    mixture, points, record = residuals

    def rows(shared, rows, linear, sums):
        mixture, origin, table = shared
        points, record = rows
        d_end, d_log_own = linear
        view, precision = make_view(mixture, origin, points), way.solver.precision
        return flow_vjp(view, table, points, record, d_end, d_log_own, sums, precision)

    linear = (cotangent.end_MxQ, cotangent.log_own_MxS)
    vjp = by_rows(rows, mixture, way, zero_sums)
    d_points, sums = vjp((points, record), linear)
    return mixture_cotangent(sums), d_points


_trajectory.defvjp(_trajectory_fwd, _trajectory_bwd)


def by_rows(
    function: RowFunction,
    mixture: Mixture,
    way: Way,
    zero_sums: Callable[[Any], Any] = lambda shared: (),
) -> Callable[[Any, Any], tuple[Any, Any]]:
    """`function((mixture, origin, table), rows, linear, sums)` of a block, made one of all rows."""

    def on_a_device(shared: tuple[Mixture, Table], rows: Any, linear: Any, sums: Any) -> Any:
        mixture, table = shared
        block = _rows_a_block(len(jax.tree.leaves(rows)[0]), len(mixture.anchors_NxQ))
        blocks = in_blocks(function, block)
        return blocks((*centered(mixture), table), rows, linear, sums)

    dtype = mixture.anchors_NxQ.dtype
    table = jax.tree.map(lambda number: jnp.asarray(number, dtype), way.table)
    return functools.partial(over_devices(on_a_device, zero_sums), (mixture, table))


def _rows_a_block(num_rows: int, num_anchors: int) -> int:
    """Fewer where a device holds few of the rows, so that blocks do not outgrow what it holds."""
    most = max(1, BLOCK_LOGITS // num_anchors)
    return min(most, max(SMALL_SIDE, most * num_rows // num_anchors))


def zero_sums(shared: tuple[Mixture, Table]) -> MixtureSums:
    """Where `flow_vjp` begins to add."""
    mixture, _ = shared
    return MixtureSums(jnp.zeros_like(mixture.anchors_NxQ.T), jnp.zeros_like(mixture.log_weights_N))


def mixture_cotangent(sums: MixtureSums) -> Mixture:
    """The cotangent that the sums of all points are."""
    return Mixture(sums.anchors_QxN.T, sums.log_weights_N)
