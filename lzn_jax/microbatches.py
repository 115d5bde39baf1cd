"""Networks on micro-batches, with the gradient of a loss on the whole batch.

All anchors of a batch cut the zones together, so the loss needs every anchor before any gradient,
but not every activation. `by_example` evaluates a network on one micro-batch after another and
discards the activations; the backward pass receives the gradient with respect to all outputs and
evaluates each micro-batch again. This is gradient caching (Gao et al. 2021, arXiv:2101.06983),
implemented for any network with `jax.lax.scan` and `jax.checkpoint`.

Random keys belong to examples, so the size of a micro-batch only affects memory and time.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key, PRNGKeyArray

Network = Callable[..., Any]


def by_example(network: Network, size: int | None) -> Network:
    """Evaluates `network` on `size` examples at a time, with a random key for each example.

    Args:
      network: `network(variables, keys, *inputs) -> outputs`; keys, inputs and outputs have a
        leading axis of examples, and outputs of an example depend only on its key and inputs.
      size: examples per micro-batch, a divisor of the batch size, or None for the whole batch.

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
    """`call(variables, key, *inputs)` of a module in training mode, `size` examples at a time.

    Without dropout the module is called on whole micro-batches, which is faster than a call with
    its own key for each example.
    """

    def apply(variables, key, *inputs):
        return module.apply(variables, *inputs, train=True, rngs={"dropout": key})

    def apply_without_dropout(variables, keys, *inputs):
        del keys
        return module.apply(variables, *inputs, train=True)

    has_dropout = getattr(module, "dropout", 0.0) > 0
    return by_example(with_own_keys(apply) if has_dropout else apply_without_dropout, size)


def with_own_keys(network: Network) -> Network:
    """Turns a network that takes one key into one that takes a key for each example."""

    def one(variables, key, example):
        first = jax.tree.map(lambda a: a[None], example)
        return jax.tree.map(lambda a: a[0], network(variables, key, *first))

    def call(variables: Any, keys: Key[Array, " b"], *inputs: Any) -> Any:
        return jax.vmap(one, in_axes=(None, 0, 0))(variables, keys, inputs)

    return call


def _split(a: jax.Array, size: int) -> jax.Array:
    """Micro-batches of every (b / size)-th example, which spreads each over all devices."""
    return a.reshape(size, -1, *a.shape[1:]).swapaxes(0, 1)


def _join(a: jax.Array) -> jax.Array:
    return a.swapaxes(0, 1).reshape(-1, *a.shape[2:])
