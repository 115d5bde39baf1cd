"""Networks on micro-batches: a batch of any size on one device, with the gradient of the whole.

A loss over a whole batch (zones are cut by all anchors together) needs every anchor before any
gradient, but not every activation. `by_example` runs a network over the batch a micro-batch at a
time and forgets its activations; the backward pass gets the gradient of all outputs at once and
runs each micro-batch again. This is gradient caching (Gao et al. 2021, arXiv:2101.06983), here by
nothing but a scan and a checkpoint, so it holds for every network of a loss.

Randomness goes by example, not by slice: the split changes nothing but memory and time.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key, PRNGKeyArray

Network = Callable[..., Any]


def by_example(network: Network, size: int | None) -> Network:
    """`network` with a random key for each example, `size` examples at a time.

    Args:
      network: `network(variables, keys, *inputs) -> outputs`; keys, inputs and outputs have a
        leading axis of examples, and an example's outputs depend on its key and inputs alone.
      size: examples in a micro-batch, a divisor of the batch; None is the whole batch.

    Returns:
      `call(variables, key, *inputs) -> outputs` for inputs with a leading axis of b examples;
      example i uses `jax.random.fold_in(key, i)`.
    """

    def call(variables: Any, key: PRNGKeyArray, *inputs: Any) -> Any:
        count = len(jax.tree.leaves(inputs)[0])
        keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, jnp.arange(count))
        if size is None or size >= count:
            return network(variables, keys, *inputs)
        if count % size:
            raise ValueError(f"micro-batches of {size} do not divide {count} examples")

        def step(nothing, micro_batch):
            keys, inputs = micro_batch
            return nothing, jax.checkpoint(network)(variables, keys, *inputs)

        micro_batches = jax.tree.map(lambda a: _split(a, size), (keys, inputs))
        _, outputs = jax.lax.scan(step, None, micro_batches)
        return jax.tree.map(_join, outputs)

    return call


def in_training(module: Any, size: int | None) -> Network:
    """A network in training mode, `size` examples at a time: `call(variables, key, *inputs)`.

    Without dropout a micro-batch goes through the module as one, which is faster than keeping its
    examples and their keys apart.
    """

    def apply(variables, key, *inputs):
        return module.apply(variables, *inputs, train=True, rngs={"dropout": key})

    def apply_without_dropout(variables, keys, *inputs):
        del keys
        return module.apply(variables, *inputs, train=True)

    has_dropout = getattr(module, "dropout", 0.0) > 0
    return by_example(with_own_keys(apply) if has_dropout else apply_without_dropout, size)


def with_own_keys(network: Network) -> Network:
    """A network of one key, such as one with dropout, as one of a key for each example."""

    def one(variables, key, example):
        first = jax.tree.map(lambda a: a[None], example)
        return jax.tree.map(lambda a: a[0], network(variables, key, *first))

    def call(variables: Any, keys: Key[Array, " b"], *inputs: Any) -> Any:
        return jax.vmap(one, in_axes=(None, 0, 0))(variables, keys, inputs)

    return call


def _split(a: jax.Array, size: int) -> jax.Array:
    """Every (b / size)-th example in a micro-batch: each has some of every device's examples."""
    return a.reshape(size, -1, *a.shape[1:]).swapaxes(0, 1)


def _join(a: jax.Array) -> jax.Array:
    return a.swapaxes(0, 1).reshape(-1, *a.shape[2:])
