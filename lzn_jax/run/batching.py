"""Inference in batches of one size, so that a function compiles once."""

from collections.abc import Callable

import jax
import numpy as np
from jax.sharding import Mesh

from lzn_jax.models import Tree
from lzn_jax.progress import progress
from lzn_jax.run import devices


def in_batches(
    function: Callable[..., Tree],
    examples: Tree,
    *,
    mesh: Mesh,
    batch_size: int,
    description: str,
) -> Tree:
    """Applies `function` to batches along the leading axis of `examples`, a pytree of n rows.

    Returns NumPy arrays with n rows, in every process. The last batch is padded with copies of its
    last row, so `function` must treat rows independently. Batches are sharded over the devices of
    the mesh, and `batch_size` is rounded up to a multiple of their number.
    """
    count = len(jax.tree.leaves(examples)[0])
    batch_size += -batch_size % mesh.size
    own = devices.own_rows(batch_size)
    results = []
    with progress(count, description, unit="example", brief=True) as bar:
        for start in range(0, count, batch_size):
            rows = np.minimum(np.arange(start, start + batch_size), count - 1)[own]
            batch = devices.put_rows(jax.tree.map(lambda a, rows=rows: a[rows], examples), mesh)
            with jax.set_mesh(mesh):
                outputs = function(batch)
            results.append(devices.fetch(outputs))
            bar.update(min(batch_size, count - start))
    return jax.tree.map(lambda *parts: np.concatenate(parts)[:count], *results)
