"""Inference on any number of examples in batches of one size, so that it compiles once."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from lzn_jax.run import sharding
from lzn_jax.run.progress import progress


def in_batches(
    function: Callable[..., Any],
    examples: Any,
    *,
    mesh: Mesh,
    batch_size: int,
    description: str,
) -> Any:
    """`function(batch)` over the leading axis of `examples`, a pytree of n-row arrays.

    Results are NumPy arrays with n rows. The last batch is filled up with copies of its last row,
    so a row's result must not depend on the other rows. Batches are divided among the devices, with
    their mesh in force, and are larger where they would not use all; each process reads its own
    rows alone, of as many batches as any other, and gets all results.
    """
    count = len(jax.tree.leaves(examples)[0])
    batch_size += -batch_size % mesh.size
    own = sharding.own_rows(batch_size)
    results = []
    with progress(count, description, unit="example", brief=True) as bar:
        for start in range(0, count, batch_size):
            rows = np.minimum(np.arange(start, start + batch_size), count - 1)[own]
            batch = sharding.put_rows(jax.tree.map(lambda a, rows=rows: a[rows], examples), mesh)
            with jax.set_mesh(mesh):
                outputs = function(batch)
            results.append(sharding.fetch(outputs))
            bar.update(min(batch_size, count - start))
    return jax.tree.map(lambda *parts: np.concatenate(parts)[:count], *results)
