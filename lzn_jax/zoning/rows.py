"""Functions of rows: in blocks, so that memory is bounded, and over the devices of a mesh.

A *row function* is `function(shared, rows, linear, sums) -> (outputs, sums)`. Every row of
`outputs` depends on its own row of `rows` and `linear` and on `shared` alone; what it adds to
`sums` adds up over rows and is linear in `linear`. All of zoning has this form (rows are points,
shared is the mixture), so it is written for one block of points.

Each device takes its own rows, all of them hold what is shared: it is gathered once before a call
and sums are added up once after it; in between nothing is exchanged. The mesh is the one in force
(`jax.set_mesh`), or that which the types of arrays name (Explicit axes). Without a mesh, and inside
of a caller's `shard_map`, all of this is the plain program.

Nothing here is differentiated through `shard_map`: what has a written-out derivative calls
`over_devices` in each of its passes, on arrays that `place_rows` has placed before.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, NamedSharding, PartitionSpec

from lzn_jax.zoning.flow import SMALL_SIDE

ROWS_AXIS = "data"  # of several axes that are Auto, where types say nothing
BLOCK_LOGITS = 2**21  # points x anchors at a time: stays in a cache, fills an accelerator

Tree = Any
RowFunction = Callable[[Tree, Tree, Tree, Tree], tuple[Tree, Tree]]


def rows_a_block(num_rows: int, num_anchors: int) -> int:
    """Fewer where a device holds few of the rows, so that blocks do not outgrow what it holds."""
    most = max(1, BLOCK_LOGITS // num_anchors)
    return min(most, max(SMALL_SIDE, most * num_rows // num_anchors))


def in_blocks(function: RowFunction, max_rows: int) -> RowFunction:
    """`function` on at most `max_rows` rows at a time: memory does not grow with their number."""

    def blocked(shared: Tree, rows: Tree, linear: Tree, sums: Tree) -> tuple[Tree, Tree]:
        count = len(jax.tree.leaves(rows)[0])
        least = -(-count // max_rows)
        if least <= 1:
            return function(shared, rows, linear, sums)
        # Blocks that need no filling up spare a copy of all outputs.
        num_blocks = next((k for k in range(least, 2 * least) if count % k == 0), least)
        size = -(-count // num_blocks)

        def step(sums, block):
            rows, linear = block
            outputs, sums = function(shared, rows, linear, sums)
            return sums, outputs

        blocks = jax.tree.map(
            lambda a: a.reshape(num_blocks, size, *a.shape[1:]),
            filled_up(rows, linear, num_blocks * size - count),
        )
        sums, outputs = jax.lax.scan(step, sums, blocks)
        outputs = jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:])[:count], outputs)
        return outputs, sums

    return blocked


def filled_up(rows: Tree, linear: Tree, missing: int) -> tuple[Tree, Tree]:
    """`missing` more rows, copies of the last; they add nothing to sums, which are linear in 0."""

    if missing == 0:
        return rows, linear

    def fill(mode: str) -> Callable[[jax.Array], jax.Array]:
        return lambda a: jnp.pad(a, [(0, missing)] + [(0, 0)] * (a.ndim - 1), mode=mode)

    return jax.tree.map(fill("edge"), rows), jax.tree.map(fill("constant"), linear)


class _Placement(NamedTuple):
    mesh: AbstractMesh
    axes: tuple[str, ...]  # over which rows are divided

    def place(self, tree: Tree, *axes: Any) -> Tree:
        """The arrays, whole or with their leading axis divided."""
        sharding = NamedSharding(self.mesh, PartitionSpec(*axes))
        is_explicit = bool(self.mesh.explicit_axes)
        move = jax.sharding.reshard if is_explicit else jax.lax.with_sharding_constraint
        return jax.tree.map(lambda a: move(a, sharding), tree)


def place_rows(shared: Tree, rows: Tree, linear: Tree = ()) -> tuple[Tree, Tree, Tree]:
    """The arguments of a row function where `over_devices` wants them, differentiable.

    That is `shared` whole on each device, the others divided by rows. These are filled up to a
    multiple of the devices: `rows` by copies of the last one, `linear` by zeros.
    """
    placement = _placement(shared, rows)
    if placement is None:
        return _varying_alike((shared, rows, linear))
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
            return local(*_varying_alike((shared, rows, linear)))
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


def _varying_alike(tree: Tree) -> Tree:
    """Arrays of a caller's `shard_map` over all axes that one varies over; elsewhere the same.

    So loops may mix them, and what devices share gets the sum of their gradients.
    """
    if not jax.sharding.get_abstract_mesh().manual_axes:
        return tree
    # JAX knows where this 0 varies.
    nothing = functools.reduce(jnp.add, (jnp.sum(a[:0]) for a in jax.tree.leaves(tree)))
    return jax.tree.map(lambda a: a + nothing.astype(a.dtype), tree)


def _placement(shared: Tree, rows: Tree) -> _Placement | None:
    """Which axes of which mesh share the rows.

    Explicit ones that the rows name; of Auto ones the only one, or ROWS_AXIS. None where nobody
    does, or where the caller has divided them (`shard_map`).
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
    axes = mesh.axis_names if len(mesh.axis_names) == 1 else (ROWS_AXIS,)
    return _Placement(mesh, axes) if set(axes) <= set(mesh.axis_names) else None
