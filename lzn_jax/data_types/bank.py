"""A bank of recent anchors: more zones than a batch has, at the cost of their zoning alone.

It is a queue, as MoCo's of keys (He et al. 2020, arXiv:1911.05722): the newest anchors replace the
oldest, without gradient, and it is part of an encoder's variables, so of every checkpoint.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lzn_jax.data_types import Zones

COLLECTION = "bank"  # of a network's variables

Bank = Mapping[str, Array]  # "anchors" (k, q) and "log_weights" (k,), -inf where there is none yet


def empty(size: int, dim: int) -> Bank:
    """A bank without anchors."""
    return {"anchors": jnp.zeros((size, dim)), "log_weights": jnp.full(size, -jnp.inf)}


def zones(anchors: Float[Array, "b q"], bank: Bank | None) -> Zones:
    """Zones of a batch's anchors among themselves and those of the bank."""
    if bank is None:
        return Zones(anchors)
    count, fixed = len(anchors), jax.lax.stop_gradient(bank)
    return Zones(
        jnp.concatenate([anchors, fixed["anchors"]]),
        jnp.arange(count),
        jnp.concatenate([jnp.zeros(count), fixed["log_weights"]]),
    )


def with_newest(bank: Bank, zones: Zones) -> Bank:
    """The bank of the next update, given this one's zones: their own anchors come first."""
    assert zones.log_weights is not None
    size = len(bank["anchors"])
    newest = {"anchors": zones.anchors[:size], "log_weights": zones.log_weights[:size]}
    return jax.lax.stop_gradient(newest)


def remembered(constants: Mapping[str, Any], zones: Mapping[str, Zones]) -> dict[str, Any]:
    """Variables that are not trained, by network, for the next update: banks hold the newest."""
    return {
        network: {
            kind: with_newest(values, zones[network]) if kind == COLLECTION else values
            for kind, values in kinds.items()
        }
        for network, kinds in constants.items()
    }
