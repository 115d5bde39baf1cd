"""Equal samples of a batch share one anchor, weighted by their number."""

import jax
import numpy as np
import pytest

from lzn_jax import zoning
from lzn_jax.zoning import distinct


@pytest.mark.parametrize("shape", [(), (3,), (2, 2)])
def test_equal_rows_have_the_first_of_them_and_its_count(shape):
    rng = np.random.default_rng(0)
    samples = rng.integers(0, 2, (20, *shape)).astype(np.int32)
    flat = samples.reshape(20, -1).tolist()
    found = distinct(samples)
    assert found.first.tolist() == [flat.index(row) for row in flat]
    counts = [flat.count(row) if i == flat.index(row) else 0 for i, row in enumerate(flat)]
    np.testing.assert_allclose(np.exp(found.log_counts), counts, rtol=1e-6)


@pytest.mark.parametrize(
    ("samples", "is_present", "first", "counts"),
    [
        ([7, 5, 7, 5, 5, 7], [0, 1, 1, 0, 1, 1], [1, 1, 2, 1, 1, 2], [0, 2, 2, 0, 0, 0]),
        ([7, 5, 7], [0, 0, 0], [0, 0, 0], [1, 0, 0]),  # one row stands for all
    ],
)
def test_rows_that_are_not_present_count_for_nothing(samples, is_present, first, counts):
    found = distinct(np.array(samples), np.array(is_present, bool))
    assert found.first.tolist() == first
    np.testing.assert_allclose(np.exp(found.log_counts), counts)


def test_a_batch_with_repeats_has_the_latents_of_its_distinct_samples_with_weights():
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 4, 12)
    table, noise = rng.standard_normal((4, 3)), rng.standard_normal((12, 3))
    kwargs = {"solver": zoning.Euler(6)}
    with jax.enable_x64(True):
        found = distinct(labels)
        latents = zoning.compute_latents(
            table[labels], noise, found.first, log_weights=found.log_counts, **kwargs
        )
        counts = np.log(np.bincount(labels, minlength=4))
        expected = zoning.compute_latents(table, noise, labels, log_weights=counts, **kwargs)
    np.testing.assert_allclose(latents, expected, rtol=0, atol=1e-6)
