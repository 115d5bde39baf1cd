"""Random draws of dropout: rate, independence, and that they follow from the key alone."""

import functools

import jax
import numpy as np
import pytest

from lzn_jax.models import dropout

kept = jax.jit(dropout.kept, static_argnums=(1, 2))
KEY, SHAPE, RATE = jax.random.key(0), (2, 64, 32, 8), 0.15


def test_values_are_dropped_independently_at_the_rate():
    keep = np.asarray(kept(KEY, SHAPE, RATE))
    deviation = np.sqrt(RATE * (1 - RATE) / keep.size)
    assert abs(keep.mean() - (1 - RATE)) < 4 * deviation
    for rows in (keep.swapaxes(0, 1).reshape(64, -1), keep.reshape(-1, 8).T):
        correlations = np.corrcoef(rows) - np.eye(len(rows))
        assert np.abs(correlations).max() < 5 / np.sqrt(rows.shape[1])
    assert np.mean(keep == kept(jax.random.key(1), SHAPE, RATE)) < 0.76


@pytest.mark.parametrize("shape", [(3,), (2, 5), (1, 7, 5, 3)])
def test_an_example_has_the_bits_of_its_key_alone_or_in_a_batch(shape):
    keys = jax.random.split(KEY, 4)
    batch = jax.jit(jax.vmap(functools.partial(dropout.kept, shape=shape, rate=0.5)))(keys)
    assert batch.shape == (4, *shape)
    for key, found in zip(keys, batch, strict=True):
        np.testing.assert_array_equal(kept(key, shape, 0.5), found)
