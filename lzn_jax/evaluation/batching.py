"""Inference on any number of examples in batches of one size, so that it compiles once."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from lzn_jax import reporting, sharding


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
    so a row's result must not depend on the other rows; batches are divided among the devices.
    """
    count = len(jax.tree.leaves(examples)[0])
    placement = sharding.split(mesh)
    results = []
    with reporting.progress(count, description, unit="image", brief=True) as bar:
        for start in range(0, count, batch_size):
            rows = np.minimum(np.arange(start, start + batch_size), count - 1)
            batch = jax.tree.map(lambda a, rows=rows: jax.device_put(a[rows], placement), examples)
            results.append(jax.device_get(function(batch)))
            bar.update(min(batch_size, count - start))
    return jax.tree.map(lambda *parts: np.concatenate(parts)[:count], *results)
