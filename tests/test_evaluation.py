"""Batched inference and the judge of samples."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small

from lzn_jax import data
from lzn_jax.data import Examples
from lzn_jax.errors import UserError
from lzn_jax.evaluation import samples
from lzn_jax.evaluation.samples import fit_judge
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


def test_the_judge_is_fit_on_some_of_all_classes_where_files_go_by_class(monkeypatch):
    monkeypatch.setattr(samples, "_MAX_IMAGES", 300)
    train, test = data.load_data(small.config())
    order = np.argsort(train.labels, kind="stable")
    found = fit_judge(Examples(train.images[order], train.labels[order]))(test.images)
    assert np.mean(found == test.labels) > 0.9


def test_there_is_no_judge_of_a_single_class():
    with pytest.raises(UserError, match="at least two classes, got one"):
        fit_judge(Examples(np.zeros((4, 8, 8, 1), np.uint8), np.full(4, 3, np.int32)))


def test_the_judge_knows_real_digits_that_it_never_saw():
    train, test = data.load_data(small.config())
    found = fit_judge(train)
    assert np.mean(found(test.images) == test.labels) >= 0.99
    assert np.mean(found(255 - test.images) == test.labels) < 0.5
