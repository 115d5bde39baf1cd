"""The bank: anchors of recent batches that cut zones beside those of the batch.

More anchors cut the zones than a batch has, without encoding more samples. The bank is a queue like
MoCo's of keys (He et al. 2020, arXiv:1911.05722): new anchors replace the oldest and get no
gradient. It is part of the encoder's variables, so checkpoints contain it.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lzn_jax.data_types import Zones

COLLECTION = "bank"  # name of the collection in the encoder's variables

Bank = Mapping[str, Array]  # "anchors" (k, q) and "log_weights" (k,), -inf for an empty place


def empty(size: int, dim: int) -> Bank:
    """A bank without anchors."""
    return {"anchors": jnp.zeros((size, dim)), "log_weights": jnp.full(size, -jnp.inf)}


def zones(anchors: Float[Array, "b q"], bank: Bank | None) -> Zones:
    """Zones that the anchors of a batch, which come first, and those of the bank cut."""
    if bank is None:
        return Zones(anchors)
    count, fixed = len(anchors), jax.lax.stop_gradient(bank)
    return Zones(
        jnp.concatenate([anchors, fixed["anchors"]]),
        jnp.arange(count),
        jnp.concatenate([jnp.zeros(count), fixed["log_weights"]]),
    )


def with_newest(bank: Bank, zones: Zones) -> Bank:
    """Bank for the next update: the anchors of `zones`, newest first, cut to the bank's size."""
    assert zones.log_weights is not None
    size = len(bank["anchors"])
    newest = {"anchors": zones.anchors[:size], "log_weights": zones.log_weights[:size]}
    return jax.lax.stop_gradient(newest)


def remembered(constants: Mapping[str, Any], zones: Mapping[str, Zones]) -> dict[str, Any]:
    """Variables that are not trained, by network, with the anchors of this update in the banks."""
    return {
        network: {
            kind: with_newest(values, zones[network]) if kind == COLLECTION else values
            for kind, values in kinds.items()
        }
        for network, kinds in constants.items()
    }
