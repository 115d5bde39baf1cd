"""One optimiser for all networks: Adam, a rate and an end of training for each, and EMA (§4)."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int
from ml_collections import ConfigDict


def learning_rate(step: Int[Array, ""], peak: float, training: ConfigDict) -> Float[Array, ""]:
    """Linear warm-up, then constant or half a cosine down to 0 at `num_steps`.

    With W `warmup_steps`, update k < W has the rate peak (1/W + (1 - 1/W) k/W).
    """
    steps = max(training.warmup_steps, 1)

    def rise(step: Int[Array, ""]) -> Float[Array, ""]:  # exact where optax's cancels digits
        share = jnp.minimum(step, steps) / steps
        return peak * ((1 + (steps - 1) * share) / steps)

    if training.schedule == "constant":
        return rise(step)
    fall = optax.cosine_decay_schedule(peak, max(training.num_steps - training.warmup_steps, 1))
    return optax.join_schedules([rise, fall], [training.warmup_steps])(step)


def make_optimizer(training: ConfigDict, networks: list[str]) -> optax.GradientTransformation:
    """Clip by the global norm over all networks, then Adam with each network's learning rate."""

    def adam(network: str) -> optax.GradientTransformation:
        peak = training.learning_rate[network]
        return optax.adam(lambda step: learning_rate(step, peak, training))

    return optax.chain(
        optax.clip_by_global_norm(training.gradient_clip),
        optax.partition(
            {network: adam(network) for network in networks},
            lambda params: {
                network: jax.tree.map(lambda _, label=network: label, tree)
                for network, tree in params.items()
            },
        ),
    )


def still_training(
    step: Int[Array, ""], training: ConfigDict, networks: list[str]
) -> dict[str, Bool[Array, ""]]:
    """Whether each network is still updated at `step`: the decoder may stop early (paper E.1)."""
    stops = {"decoder": training.get("decoder_steps")}
    return {
        network: jnp.asarray(True) if stops.get(network) is None else step < stops[network]
        for network in networks
    }


def mask(active: Mapping[str, Any], tree: Mapping[str, Any]) -> dict[str, Any]:
    """The tree with zeros for the networks that are not active."""
    return {
        network: jax.tree.map(lambda a, on=active[network]: jnp.where(on, a, 0), branch)
        for network, branch in tree.items()
    }


def update_ema(
    ema: Mapping[str, Any],
    params: Mapping[str, Any],
    step: Int[Array, ""],
    decay: float,
    active: Mapping[str, Any],
) -> dict[str, Any]:
    """Moves each active network's average by 1 - min(decay, (1+k)/(10+k)) at its k-th update."""
    # 1 - (1+k)/(10+k) is 9/(10+k). Neither it nor 1 - rate may be a difference in float32: the
    # average would shrink by the digits that are lost.
    rate = jnp.maximum(1 - decay, 9 / (10 + step + 1))

    def moved(old: Array, new: Array, rate: Array) -> Array:
        return old + rate * (new - old)

    return {
        network: jax.tree.map(
            functools.partial(moved, rate=jnp.where(active[network], rate, 0.0)),
            ema[network],
            params[network],
        )
        for network in params
    }
