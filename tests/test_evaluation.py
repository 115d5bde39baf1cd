"""Batched inference and the judge of samples."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small

from lzn_jax import data
from lzn_jax.evaluation.judge import fit_judge
from lzn_jax.run import sharding
from lzn_jax.run.batching import in_batches


@pytest.mark.parametrize("count", [1, 8, 19])
@pytest.mark.parametrize("devices", [1, 4])
def test_batches_of_one_size_give_every_row_in_order(count, devices):
    rows = np.arange(3 * count).reshape(count, 3)
    shapes = set()

    def double(batch):
        shapes.add(batch["rows"].shape)
        return {"twice": 2 * batch["rows"], "sum": jnp.sum(batch["rows"], axis=1)}

    mesh = sharding.make_mesh(8, jax.devices()[:devices])
    result = in_batches(double, {"rows": rows}, mesh=mesh, batch_size=8, description="doubling")
    np.testing.assert_array_equal(result["twice"], 2 * rows)
    np.testing.assert_array_equal(result["sum"], rows.sum(axis=1))
    assert shapes == {(8, 3)}


def test_the_judge_knows_real_digits_that_it_never_saw():
    train, test = data.load_data(small.config())
    judge = fit_judge(train)
    assert np.mean(judge(test.images) == test.labels) >= 0.99
    assert np.mean(judge(255 - test.images) == test.labels) < 0.5
