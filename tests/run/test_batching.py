"""Inference in batches of one size."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lzn_jax.run import devices as devices_module
from lzn_jax.run.batching import in_batches


@pytest.mark.parametrize("count", [1, 8, 19])
@pytest.mark.parametrize("devices", [1, 4])
def test_batches_of_one_size_give_every_row_in_order(count, devices):
    rows = np.arange(3 * count).reshape(count, 3)
    shapes = set()

    def double(batch):
        shapes.add(batch["rows"].shape)
        return {"twice": 2 * batch["rows"], "sum": jnp.sum(batch["rows"], axis=1)}

    mesh = devices_module.make_mesh(8, jax.devices()[:devices])
    result = in_batches(double, {"rows": rows}, mesh=mesh, batch_size=8, description="doubling")
    np.testing.assert_array_equal(result["twice"], 2 * rows)
    np.testing.assert_array_equal(result["sum"], rows.sum(axis=1))
    assert shapes == {(8, 3)}
