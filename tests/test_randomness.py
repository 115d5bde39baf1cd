"""Random numbers by seed, stream and example."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np

from lzn_jax.randomness import Stream, normal_by_index, stream_key


def _draw(index, seed=0, stream=Stream.SAMPLE_NOISE, shape=(2, 3)):
    return np.asarray(normal_by_index(jax.random.key(seed), stream, jnp.array(index), shape))


def test_a_row_is_the_same_alone_in_a_batch_and_in_any_order():
    batch = _draw(list(range(7)))
    np.testing.assert_array_equal(_draw([4]), batch[4:5])
    np.testing.assert_array_equal(_draw([6, 1, 4, 1]), batch[[6, 1, 4, 1]])


def test_rows_streams_and_seeds_differ():
    draws = [*_draw([0, 1, 2])]
    draws += [_draw([0], stream=stream)[0] for stream in Stream if stream != Stream.SAMPLE_NOISE]
    draws += [_draw([0], seed=seed)[0] for seed in (1, 2)]
    for a, b in itertools.combinations(draws, 2):
        assert not np.any(a == b)


def test_rows_are_standard_normal_and_uncorrelated():
    rows = _draw(list(range(4000)), shape=(5,)).astype(np.float64)
    error = 1 / np.sqrt(len(rows))
    np.testing.assert_allclose(rows.mean(axis=0), 0, atol=4 * error)
    np.testing.assert_allclose(np.cov(rows.T), np.eye(5), atol=5 * np.sqrt(2) * error)
    assert abs((rows[1:] * rows[:-1]).mean()) < 4 * error  # neighbours


def test_stream_numbers_stay():
    """A saved run resumes with the noise that it began with."""
    assert {stream.name: stream.value for stream in Stream} == {
        "INIT": 0,
        "TRAINING": 1,
        "CONTEXT": 2,
        "IMAGE_LATENTS": 3,
        "SAMPLE_LATENTS": 4,
        "SAMPLE_NOISE": 5,
        "PRIOR_LATENTS": 6,
        "PROBE": 7,
        "TRAIN_LATENTS": 8,
        "TEXT": 9,
        "TEXT_LATENTS": 10,
        "MEMBERS": 11,
    }


def test_stream_keys_depend_on_seed_and_stream():
    keys = [
        tuple(jax.random.key_data(stream_key(seed, stream)).tolist())
        for seed in (0, 1, 2**31)
        for stream in Stream
    ]
    assert len(set(keys)) == len(keys)
