"""Functions of many rows, in blocks and over many devices: how zoning stays small and local.

A *row function* is `function(shared, rows, linear, sums) -> (outputs, sums)`. Every row of
`outputs` depends on its own row of `rows` and `linear` and on `shared` alone; what it adds to
`sums` adds up over rows and is linear in `linear`. All of zoning has this form (rows are points,
shared is the mixture), so it is written for one block of points, and what is here makes it

* run block after block, in memory that does not grow with the number of rows (`in_blocks`);
* run on sharded arrays: each device takes the rows that it holds, `shared` is gathered once
  before, `sums` are added up once after, and nothing is exchanged in between (`over_devices`;
  `on_auto_axes` for meshes whose axes are Explicit).
"""

import functools
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.custom_partitioning import custom_partitioning
from jax.extend import core
from jax.extend.source_info_util import SourceInfo
from jax.sharding import Mesh, NamedSharding, PartitionSpec

Tree = Any
RowFunction = Callable[[Tree, Tree, Tree, Tree], tuple[Tree, Tree]]


def in_blocks(function: RowFunction, max_rows: int) -> RowFunction:
    """The row function that calls `function` with at most `max_rows` rows at a time."""

    def blocked(shared: Tree, rows: Tree, linear: Tree, sums: Tree) -> tuple[Tree, Tree]:
        count = len(jax.tree.leaves(rows)[0])
        least = -(-count // max_rows)
        if least <= 1:
            return function(shared, rows, linear, sums)
        # Blocks that need no filling up spare a copy of all outputs.
        num_blocks = next((k for k in range(least, 2 * least) if count % k == 0), least)
        size = -(-count // num_blocks)
        missing = num_blocks * size - count

        def split(a, **padding):
            a = jnp.pad(a, [(0, missing)] + [(0, 0)] * (a.ndim - 1), **padding) if missing else a
            return a.reshape(num_blocks, size, *a.shape[1:])

        def step(sums, block):
            rows, linear = block
            outputs, sums = function(shared, rows, linear, sums)
            return sums, outputs

        # What fills up the last block adds nothing to the sums, which are linear in its zeros.
        blocks = (
            jax.tree.map(functools.partial(split, mode="edge"), rows),
            jax.tree.map(split, linear),
        )
        sums, outputs = jax.lax.scan(step, sums, blocks)
        outputs = jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:])[:count], outputs)
        return outputs, sums

    return blocked


def over_devices(
    function: RowFunction, zero_sums: Callable[[Tree], Tree]
) -> Callable[[Tree, Tree, Tree], tuple[Tree, Tree]]:
    """`function` with sums from `zero_sums(shared)` on, each device for the rows that it holds.

    Works on arrays sharded along their rows under plain `jit`, whatever the mesh axis is called.
    """

    def local(shared: Tree, rows: Tree, linear: Tree) -> tuple[Tree, Tree]:
        return function(shared, rows, linear, zero_sums(shared))

    def partition(mesh: Mesh, arguments: Tree, results: Tree) -> tuple[Any, ...]:
        axis = _rows_axis(arguments[1])

        def partitioned(shared, rows, linear):
            outputs, sums = local(shared, rows, linear)
            return outputs, sums if axis is None else jax.lax.psum(sums, axis)

        whole = NamedSharding(mesh, PartitionSpec())
        split = NamedSharding(mesh, PartitionSpec(axis))
        shared, rows, linear = arguments
        outputs, sums = results
        result_shardings = (_fill(outputs, split), _fill(sums, whole))
        argument_shardings = (_fill(shared, whole), _fill(rows, split), _fill(linear, split))
        return mesh, _without_lines(partitioned), result_shardings, argument_shardings

    @jax.custom_batching.custom_vmap
    def call(shared, rows, linear):
        arguments = (shared, rows, linear)
        everywhere = custom_partitioning(lambda *arguments: local(*arguments))
        rule, whole = _sharding_rule(arguments, jax.eval_shape(local, *arguments))
        everywhere.def_partition(
            partition=partition, sharding_rule=rule, need_replication_factors=whole
        )
        return everywhere(*arguments)

    @call.def_vmap
    def _(axis_size, is_batched, *arguments):
        del axis_size
        in_axes = jax.tree.map(lambda batched: 0 if batched else None, is_batched)
        results = jax.vmap(local, in_axes=tuple(in_axes))(*arguments)
        return results, jax.tree.map(lambda _: True, results)

    return call


def on_auto_axes(
    function: Callable[..., Tree], shared: Tree, rows: Tree, *, is_by_row: bool = True
) -> Tree:
    """`function(shared, rows)`, which may be called on meshes with Explicit axes, JAX's default.

    There the type of an array says how it is sharded, which `over_devices` leaves to the compiler.
    The results are sharded like the rows if `is_by_row`, else whole. Derivatives must be inside a
    `jit`, as JAX does not let what is kept for them leave one on Auto axes.
    """
    types = jax.tree.map(jax.typeof, (rows, shared))
    meshes = (a.sharding.mesh for a in jax.tree.leaves(types))
    mesh = next((mesh for mesh in meshes if mesh.explicit_axes), None)
    if mesh is None:
        return function(shared, rows)
    spec = PartitionSpec(_rows_axis(types[0])) if is_by_row else PartitionSpec()
    return jax.sharding.auto_axes(
        function, axes=mesh.explicit_axes, out_sharding=NamedSharding(mesh, spec)
    )(shared, rows)


def _rows_axis(rows: Tree) -> Any:
    specs = [a.sharding.spec for a in jax.tree.leaves(rows)]
    return next((spec[0] for spec in specs if len(spec) and spec[0] is not None), None)


def _fill(tree: Tree, value: Any) -> Tree:
    return jax.tree.map(lambda _: value, tree)


def _sharding_rule(arguments: Tree, results: Tree) -> tuple[str, tuple[str, ...]]:
    """Einsum-like rule: rows share their leading axis, all other axes are kept whole."""
    numbers = itertools.count()
    others: list[str] = []

    def names(leaf: Any, is_rows: bool) -> str:
        fresh = [f"k{next(numbers)}" for _ in leaf.shape[is_rows:]]
        others.extend(fresh)
        return " ".join(["rows"] * is_rows + fresh)

    def side(*trees: tuple[Tree, bool]) -> str:
        return ", ".join(
            names(leaf, is_rows) for tree, is_rows in trees for leaf in jax.tree.leaves(tree)
        )

    shared, rows, linear = arguments
    outputs, sums = results
    left = side((shared, False), (rows, True), (linear, True))
    right = side((outputs, True), (sums, False))
    return f"{left} -> {right}", tuple(others)


def _without_lines(function: Callable[..., Tree]) -> Callable[..., Tree]:
    """The same function, whose operations do not know from which lines of Python they come.

    XLA looks these up in a table of the whole program, which lacks what is partitioned later. It
    takes other lines for them, or lines that call each other in a circle, and never ends.
    """

    def call(*arguments: Tree) -> Tree:
        jaxpr, results = jax.make_jaxpr(function, return_shape=True)(*arguments)
        flat = core.jaxpr_as_fun(_drop_lines(jaxpr))(*jax.tree.leaves(arguments))
        return jax.tree.unflatten(jax.tree.structure(results), flat)

    return call


def _drop_lines(value: Any) -> Any:
    """A jaxpr and all jaxprs inside without line numbers; other parameters as they are."""
    if isinstance(value, core.ClosedJaxpr):
        return value.replace(jaxpr=_drop_lines(value.jaxpr))
    if isinstance(value, core.Jaxpr):
        equations = [
            equation.replace(
                params={name: _drop_lines(inner) for name, inner in equation.params.items()},
                source_info=SourceInfo(None, equation.source_info.name_stack),
            )
            for equation in value.eqns
        ]
        return value.replace(eqns=equations)
    if type(value) is tuple:  # the branches of a conditional
        return tuple(_drop_lines(inner) for inner in value)
    return value
