"""Optimiser: Adam with a learning rate and a last step for each network, and EMA (paper §4)."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int
from ml_collections import ConfigDict


def learning_rate(step: Int[Array, ""], peak: float, training: ConfigDict) -> Float[Array, ""]:
    """Learning rate: linear warm-up, then constant or cosine decay to 0 at `num_steps`.

    With W `warmup_steps`, update k < W has the rate peak (1/W + (1 - 1/W) k/W).
    """
    steps = max(training.warmup_steps, 1)

    def rise(step: Int[Array, ""]) -> Float[Array, ""]:  # optax.linear_schedule is less exact
        share = jnp.minimum(step, steps) / steps
        return peak * ((1 + (steps - 1) * share) / steps)

    if training.schedule == "constant":
        return rise(step)
    fall = optax.cosine_decay_schedule(peak, max(training.num_steps - training.warmup_steps, 1))
    return optax.join_schedules([rise, fall], [training.warmup_steps])(step)


def make_optimizer(training: ConfigDict, networks: list[str]) -> optax.GradientTransformation:
    """Clipping by the global norm of all networks, then Adam with the rate of each network."""

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
    """Whether each network is still trained at `step`; the decoder may stop early (paper E.1)."""
    stops = {"decoder": training.get("decoder_steps")}  # a field of spaces of several types
    return {
        network: jnp.asarray(True) if stops.get(network) is None else step < stops[network]
        for network in networks
    }


def mask(active: Mapping[str, Any], tree: Mapping[str, Any]) -> dict[str, Any]:
    """The tree with zeros for inactive networks."""
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
    """Averages of active networks after update k, with the decay min(decay, (1+k)/(10+k))."""
    # 1 - (1+k)/(10+k) is 9/(10+k). Computing it, or 1 - rate, as a difference in float32 would lose
    # digits and thereby shrink the average.
    rate = jnp.maximum(1 - decay, 9 / (10 + step + 1))

    def averaged(network: str) -> Any:
        share = jnp.where(active[network], rate, 0.0)
        return jax.tree.map(lambda a, b: a + share * (b - a), ema[network], params[network])

    return {network: averaged(network) for network in params}
