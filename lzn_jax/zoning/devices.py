"""Zoning over the devices of a mesh: each takes its own points, all of them hold all anchors.

The mesh is the one in force (`jax.set_mesh`), or that which the types of arrays name (Explicit
axes). Anchors are gathered once before a call and sums are added up once after it; in between
nothing is exchanged. Without a mesh all of this is the plain program.

Nothing here is differentiated through `shard_map`: what has a written-out derivative calls
`over_devices` in each of its passes, on arrays that `spread` has placed before.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax.sharding import AbstractMesh, NamedSharding, PartitionSpec

from lzn_jax.zoning.rows import RowFunction, Tree, filled_up

ROWS_AXIS = "data"  # where the axes of a mesh are Auto, and types say nothing


class _Placement(NamedTuple):
    mesh: AbstractMesh
    axes: tuple[str, ...]  # over which rows are divided

    def place(self, tree: Tree, *axes: Any) -> Tree:
        """The arrays, whole or with their leading axis divided."""
        sharding = NamedSharding(self.mesh, PartitionSpec(*axes))
        is_explicit = bool(self.mesh.explicit_axes)
        move = jax.sharding.reshard if is_explicit else jax.lax.with_sharding_constraint
        return jax.tree.map(lambda a: move(a, sharding), tree)


def spread(shared: Tree, rows: Tree, linear: Tree = ()) -> tuple[Tree, Tree, Tree]:
    """The arguments of a row function where `over_devices` wants them, differentiable.

    That is `shared` whole on each device, the others divided by rows. These are filled up to a
    multiple of the devices: `rows` by copies of the last one, `linear` by zeros.
    """
    placement = _placement(shared, rows)
    if placement is None:
        return shared, rows, linear
    mesh, axes = placement
    missing = -len(jax.tree.leaves(rows)[0]) % math.prod(mesh.shape[axis] for axis in axes)
    rows, linear = filled_up(rows, linear, missing)
    return placement.place(shared), *placement.place((rows, linear), axes)


def over_devices(
    function: RowFunction, zero_sums: Callable[[Tree], Tree]
) -> Callable[[Tree, Tree, Tree], tuple[Tree, Tree]]:
    """`function` with sums from `zero_sums(shared)` on, each device for the rows that it holds."""

    def local(shared: Tree, rows: Tree, linear: Tree) -> tuple[Tree, Tree]:
        return function(shared, rows, linear, zero_sums(shared))

    def call(shared: Tree, rows: Tree, linear: Tree) -> tuple[Tree, Tree]:
        placement = _placement(shared, rows)
        if placement is None:
            return local(shared, rows, linear)
        mesh, axes = placement
        whole, divided = PartitionSpec(), PartitionSpec(axes)
        if not axes:  # whoever maps over these rows (`vmap`) may have divided what they map over
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
            check_vma=False,  # loops start from zeros, which are alike on all devices
        )(shared, rows, placement.place(linear, axes))  # JAX's own zeros may be whole

    return call


def _placement(shared: Tree, rows: Tree) -> _Placement | None:
    """Which axes of which mesh share the rows: Explicit ones that the rows name, or ROWS_AXIS.

    None where nobody does, or where the caller has divided them (`shard_map`).
    """
    mesh = jax.sharding.get_abstract_mesh()
    types = [jax.typeof(a).sharding for a in jax.tree.leaves((rows, shared))]
    if mesh.empty:
        mesh = next((kind.mesh for kind in types if kind.mesh.explicit_axes), mesh)
    if mesh.manual_axes:
        return None
    if mesh.explicit_axes:
        named = [kind.spec[0] for kind in types[: len(jax.tree.leaves(rows))] if len(kind.spec)]
        axes = next((axis for axis in named if axis is not None), ())
        return _Placement(mesh, axes if isinstance(axes, tuple) else (axes,))
    return _Placement(mesh, (ROWS_AXIS,)) if ROWS_AXIS in mesh.axis_names else None
