"""The latent flow of any number of points: in blocks, over devices, differentiable once."""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, NamedSharding, PartitionSpec

from lzn_jax.zoning.flow import (
    SMALL_SIDE,
    Mixture,
    MixtureSums,
    Points,
    Trajectory,
    centred,
    flow,
    flow_vjp,
    make_view,
)
from lzn_jax.zoning.solvers import Tables

ROWS_AXIS = "data"  # axis that divides rows if the mesh contains several Auto axes
BLOCK_LOGITS = 2**21  # points x anchors per block: fits a CPU's cache, fills an accelerator

Tree = Any
Towards = Callable[[Mixture], Tables]  # a direction of a solver
RowFunction = Callable[[Tree, Tree, Tree, Tree], tuple[Tree, Tree]]


def rows_per_block(num_rows: int, num_anchors: int) -> int:
    """Largest number of rows in a block. It is smaller for few rows a device, to save memory."""
    most = max(1, BLOCK_LOGITS // num_anchors)
    return min(most, max(SMALL_SIDE, most * num_rows // num_anchors))


def in_blocks(function: RowFunction, max_rows: int) -> RowFunction:
    """Applies `function` to blocks of at most `max_rows` rows, so that memory is bounded."""

    def blocked(shared: Tree, rows: Tree, linear: Tree, sums: Tree) -> tuple[Tree, Tree]:
        count = len(jax.tree.leaves(rows)[0])
        least = -(-count // max_rows)
        if least <= 1:
            return function(shared, rows, linear, sums)
        # Blocks without padding save a copy of all outputs.
        num_blocks = next((k for k in range(least, 2 * least) if count % k == 0), least)
        size = -(-count // num_blocks)

        def step(sums, block):
            rows, linear = block
            outputs, sums = function(shared, rows, linear, sums)
            return sums, outputs

        blocks = jax.tree.map(
            lambda a: a.reshape(num_blocks, size, *a.shape[1:]),
            _pad(rows, linear, num_blocks * size - count),
        )
        sums, outputs = jax.lax.scan(step, sums, blocks)
        outputs = jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:])[:count], outputs)
        return outputs, sums

    return blocked


def _pad(rows: Tree, linear: Tree, count: int) -> tuple[Tree, Tree]:
    """Pads with copies of the last row. Their `linear` is 0, so they add nothing to sums."""
    if count == 0:
        return rows, linear

    def pad(mode: str) -> Callable[[jax.Array], jax.Array]:
        return lambda a: jnp.pad(a, [(0, count)] + [(0, 0)] * (a.ndim - 1), mode=mode)

    return jax.tree.map(pad("edge"), rows), jax.tree.map(pad("constant"), linear)


class _Placement(NamedTuple):
    mesh: AbstractMesh
    axes: tuple[str, ...]  # axes of the mesh that divide the rows

    def place(self, tree: Tree, *axes: tuple[str, ...]) -> Tree:
        """Divides the leading axis of arrays over `axes`. Without axes, arrays stay whole."""
        sharding = NamedSharding(self.mesh, PartitionSpec(*axes))
        is_explicit = bool(self.mesh.explicit_axes)
        move = jax.sharding.reshard if is_explicit else jax.lax.with_sharding_constraint
        return jax.tree.map(lambda a: move(a, sharding), tree)


def place_rows(shared: Tree, rows: Tree, linear: Tree = ()) -> tuple[Tree, Tree, Tree]:
    """Places arguments of a row function as `over_devices` requires. Differentiable.

    `shared` is whole on each device. The other arrays are divided by rows and padded to a multiple
    of the devices, `rows` with copies of the last row and `linear` with zeros.
    """
    placement = _placement(shared, rows)
    if placement is None:
        return _varying_alike((shared, rows, linear))
    mesh, axes = placement
    padding = -len(jax.tree.leaves(rows)[0]) % math.prod(mesh.shape[axis] for axis in axes)
    rows, linear = _pad(rows, linear, padding)
    return placement.place(shared), *placement.place((rows, linear), axes)


def over_devices(
    function: RowFunction, zero_sums: Callable[[Tree], Tree]
) -> Callable[[Tree, Tree, Tree], tuple[Tree, Tree]]:
    """Each device evaluates `function` for its rows, with initial sums `zero_sums(shared)`."""

    def local(shared: Tree, rows: Tree, linear: Tree) -> tuple[Tree, Tree]:
        return function(shared, rows, linear, zero_sums(shared))

    def call(shared: Tree, rows: Tree, linear: Tree) -> tuple[Tree, Tree]:
        placement = _placement(shared, rows)
        if placement is None:
            return local(*_varying_alike((shared, rows, linear)))
        mesh, axes = placement
        whole, divided = PartitionSpec(), PartitionSpec(axes)
        if not axes:  # an enclosing `vmap` may have divided the axis that it maps over
            free = jax.sharding.auto_axes(
                local, axes=mesh.explicit_axes, out_sharding=NamedSharding(mesh, whole)
            )
            return free(shared, rows, linear)

        def on_a_device(*arguments: Tree) -> tuple[Tree, Tree]:
            outputs, sums = local(*arguments)
            return outputs, jax.lax.psum(sums, axes)

        return jax.shard_map(
            on_a_device,
            mesh=mesh,
            in_specs=(whole, divided, divided),
            out_specs=(divided, whole),
            check_vma=False,  # loops start from zeros, which do not vary over devices
        )(shared, rows, placement.place(linear, axes))  # cotangents that JAX makes may be whole

    return call


def _varying_alike(tree: Tree) -> Tree:
    """In a caller's `shard_map`, makes all arrays vary over the same axes.

    Loops can then combine them, and an array shared by devices gets the sum of their gradients.
    """
    if not jax.sharding.get_abstract_mesh().manual_axes:
        return tree
    # A 0 that varies over the axes of all arrays.
    zero = functools.reduce(jnp.add, (jnp.sum(a[:0]) for a in jax.tree.leaves(tree)))
    return jax.tree.map(lambda a: a + zero.astype(a.dtype), tree)


def _placement(shared: Tree, rows: Tree) -> _Placement | None:
    """The mesh and the axes that divide the rows, or None if the rows are not divided.

    Explicit axes are read from the types of `rows`. Of Auto axes, the only axis or ROWS_AXIS is
    used. Within a caller's `shard_map` the result is None.
    """
    mesh = jax.sharding.get_abstract_mesh()
    shardings = [jax.typeof(a).sharding for a in jax.tree.leaves((rows, shared))]
    if mesh.empty:
        mesh = next((s.mesh for s in shardings if s.mesh.explicit_axes), mesh)
    if mesh.manual_axes:
        return None
    if mesh.explicit_axes:
        specs = [s.spec for s in shardings[: len(jax.tree.leaves(rows))]]
        axes = next((spec[0] for spec in specs if len(spec) and spec[0] is not None), ())
        return _Placement(mesh, axes if isinstance(axes, tuple) else (axes,))
    axes = mesh.axis_names if len(mesh.axis_names) == 1 else (ROWS_AXIS,)
    return _Placement(mesh, axes) if set(axes) <= set(mesh.axis_names) else None


def integrate(mixture: Mixture, points: Points, towards: Towards) -> Trajectory:
    """Integrates the flow of all points."""
    count = len(points.start_MxQ)
    mixture, points, _ = place_rows(mixture, points)
    return jax.tree.map(lambda a: a[:count], _trajectory(towards, mixture, points))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _trajectory(towards: Towards, mixture: Mixture, points: Points) -> Trajectory:
    """Flow of all points. The backward pass recomputes all but a state per step and point."""
    return _trajectory_fwd(towards, mixture, points)[0]


def _trajectory_fwd(towards: Towards, mixture: Mixture, points: Points) -> tuple[Trajectory, Tree]:
    def block(view, table, points, record, linear, sums):
        del record, linear
        return flow(view, table, points), sums

    (trajectory, record), _ = by_rows(block, towards, mixture, points)
    return trajectory, (mixture, points, record)


def _trajectory_bwd(
    towards: Towards, residuals: Tree, cotangent: Trajectory
) -> tuple[Mixture, Points]:
    mixture, points, record = residuals

    def block(view, table, points, record, linear, sums):
        d_end, d_log_own = linear
        return flow_vjp(view, table, points, record, d_end, d_log_own, sums)

    linear = (cotangent.end_MxQ, cotangent.log_own_MxS)
    d_points, sums = by_rows(block, towards, mixture, points, record, linear, zero_sums)
    return mixture_cotangent(sums), d_points


_trajectory.defvjp(_trajectory_fwd, _trajectory_bwd)


def by_rows(
    function: Callable[..., tuple[Tree, Tree]],
    towards: Towards,
    mixture: Mixture,
    points: Points,
    record: Tree = (),
    linear: Tree = (),
    zero_sums: Callable[[Mixture], Tree] = lambda mixture: (),
) -> tuple[Tree, Tree]:
    """Applies `function(view, table, points, record, linear, sums)` to all points in blocks.

    The arrays must be placed by `place_rows`. The call is not differentiable: callers define
    derivatives by a second call.
    """

    def on_a_device(mixture, rows, linear, sums):
        size = rows_per_block(len(rows[0].start_MxQ), len(mixture.anchors_NxQ))
        mixture, origin = centred(mixture)
        tables = towards(mixture)

        def block(mixture, rows, linear, sums):
            points, record = rows
            view = make_view(mixture, origin, points)
            return function(view, tables(view, points), points, record, linear, sums)

        return in_blocks(block, size)(mixture, rows, linear, sums)

    call = jax.custom_jvp(over_devices(on_a_device, zero_sums))
    call.defjvp(_refuse)
    return call(mixture, (points, record), linear)


def _refuse(primals: Tree, tangents: Tree) -> Tree:
    raise NotImplementedError(
        "zoning has first derivatives only: differentiate once, or stop the gradient of the arrays "
        "(jax.lax.stop_gradient)"
    )


def zero_sums(mixture: Mixture) -> MixtureSums:
    """Initial sums of `flow_vjp`."""
    return MixtureSums(jnp.zeros_like(mixture.anchors_NxQ.T), jnp.zeros_like(mixture.log_weights_N))


def mixture_cotangent(sums: MixtureSums) -> Mixture:
    """Cotangent of the mixture from the sums over all points."""
    return Mixture(sums.anchors_QxN.T, sums.log_weights_N)
