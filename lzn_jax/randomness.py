"""Keys by name, so that no two uses of a key share noise.

A run draws with the key of its seed, `jax.random.key(seed)`; inference can be given another.
"""

import functools
from zlib import crc32

import jax
from jaxtyping import Array, Float, Int, Key, PRNGKeyArray


def named(key: PRNGKeyArray, name: str) -> PRNGKeyArray:
    """The key of one use. Names are part of a run: another name draws other numbers."""
    return jax.random.fold_in(key, crc32(name.encode()))


def key_or_seed(key: PRNGKeyArray | None, seed: int) -> PRNGKeyArray:
    """The key, or that of a run's seed."""
    return jax.random.key(seed) if key is None else key


def normal_by_index(
    key: PRNGKeyArray, name: str, index: Int[Array, " b"], shape: tuple[int, ...]
) -> Float[Array, "b ..."]:
    """N(0, I) of `shape` for each example index: a row is the same in any batch."""
    keys = keys_by_index(key, name, index)
    return jax.vmap(lambda key: jax.random.normal(key, shape))(keys)


def keys_by_index(key: PRNGKeyArray, name: str, index: Int[Array, " b"]) -> Key[Array, " b"]:
    """A key for each example index."""
    return jax.vmap(functools.partial(jax.random.fold_in, named(key, name)))(index)
