"""Random numbers by key, name and example."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np

from lzn_jax.models import named, normal_by_index


def _draw(index, seed=0, name="image_noise", shape=(2, 3)):
    return np.asarray(normal_by_index(jax.random.key(seed), name, jnp.array(index), shape))


def test_a_row_is_the_same_alone_in_a_batch_and_in_any_order():
    batch = _draw(list(range(7)))
    np.testing.assert_array_equal(_draw([4]), batch[4:5])
    np.testing.assert_array_equal(_draw([6, 1, 4, 1]), batch[[6, 1, 4, 1]])


def test_rows_names_and_seeds_differ():
    draws = [*_draw([0, 1, 2])]
    draws += [_draw([0], name=name)[0] for name in ("init", "training", "image_latents", "")]
    draws += [_draw([0], seed=seed)[0] for seed in (1, 2, 2**31)]
    for a, b in itertools.combinations(draws, 2):
        assert not np.any(a == b)


def test_rows_are_standard_normal_and_uncorrelated():
    rows = _draw(list(range(4000)), shape=(5,)).astype(np.float64)
    error = 1 / np.sqrt(len(rows))
    np.testing.assert_allclose(rows.mean(axis=0), 0, atol=4 * error)
    np.testing.assert_allclose(np.cov(rows.T), np.eye(5), atol=5 * np.sqrt(2) * error)
    assert abs((rows[1:] * rows[:-1]).mean()) < 4 * error  # neighbours


def test_the_key_of_a_name_stays():
    """A saved run goes on with the noise that it began with, in any process."""
    key = jax.random.key(3)
    expected = jax.random.fold_in(key, 3941339776)  # the CRC-32 of the name
    assert named(key, "image_noise") == expected
