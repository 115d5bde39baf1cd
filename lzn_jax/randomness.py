"""Streams of a key, one a use, so that no two uses share noise.

A run draws with the key of its seed, `jax.random.key(seed)`; inference can be given another.
"""

import enum
import functools

import jax
from jaxtyping import Array, Float, Int, Key, PRNGKeyArray


class Stream(enum.IntEnum):
    """What random numbers are for. The values are part of a run: never renumber them."""

    INIT = 0
    TRAINING = 1
    CONTEXT = 2
    IMAGE_LATENTS = 3
    SAMPLE_LATENTS = 4
    SAMPLE_NOISE = 5
    PRIOR_LATENTS = 6
    PROBE = 7
    TRAIN_LATENTS = 8
    TEXT = 9
    TEXT_LATENTS = 10
    MEMBERS = 11


def stream_key(seed: int, stream: Stream) -> PRNGKeyArray:
    """The key of one stream of a run's seed."""
    return jax.random.fold_in(jax.random.key(seed), stream)


def key_or_seed(key: PRNGKeyArray | None, seed: int) -> PRNGKeyArray:
    """The key, or that of a run's seed."""
    return jax.random.key(seed) if key is None else key


def normal_by_index(
    key: PRNGKeyArray, stream: Stream, index: Int[Array, " b"], shape: tuple[int, ...]
) -> Float[Array, "b ..."]:
    """N(0, I) of `shape` for each example index: a row is the same in any batch."""
    keys = keys_by_index(key, stream, index)
    return jax.vmap(lambda key: jax.random.normal(key, shape))(keys)


def keys_by_index(key: PRNGKeyArray, stream: Stream, index: Int[Array, " b"]) -> Key[Array, " b"]:
    """A key for each example index."""
    return jax.vmap(functools.partial(jax.random.fold_in, jax.random.fold_in(key, stream)))(index)
