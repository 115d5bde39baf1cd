"""Functions of rows in blocks: the form that makes the flow of many points small and local.

A *row function* is `function(shared, rows, linear, sums) -> (outputs, sums)`. Every row of
`outputs` depends on its own row of `rows` and `linear` and on `shared` alone; what it adds to
`sums` adds up over rows and is linear in `linear`. All of zoning has this form (rows are points,
shared is the mixture), so it is written for one block of points.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from lzn_jax.zoning.flow import SMALL_SIDE

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
