"""Random keys derived from names and indices, so that no two uses share random numbers.

All keys of a run derive from `jax.random.key(seed)`; inference accepts another key.
"""

import functools
from zlib import crc32

import jax
from jaxtyping import Array, Float, Int, Key, PRNGKeyArray


def named(key: PRNGKeyArray, name: str) -> PRNGKeyArray:
    """Key for one use. Renaming a use changes the random numbers of all runs."""
    return jax.random.fold_in(key, crc32(name.encode()))


def key_or_seed(key: PRNGKeyArray | None, seed: int) -> PRNGKeyArray:
    """The given key, or the key of a run's seed if it is None."""
    return jax.random.key(seed) if key is None else key


def normal_by_index(
    key: PRNGKeyArray, name: str, index: Int[Array, " b"], shape: tuple[int, ...]
) -> Float[Array, "b ..."]:
    """Draws from N(0, I) of `shape`, one for each example index, independent of the batch."""
    keys = keys_by_index(key, name, index)
    return jax.vmap(lambda key: jax.random.normal(key, shape))(keys)


def keys_by_index(key: PRNGKeyArray, name: str, index: Int[Array, " b"]) -> Key[Array, " b"]:
    """Key for each example index, independent of the batch."""
    return jax.vmap(functools.partial(jax.random.fold_in, named(key, name)))(index)
