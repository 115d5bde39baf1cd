"""Optimisers and learning-rate schedules, one per network.

Register your own with `lzn_jax.parts.add("optimizer", ...)`, as in docs/parts.md.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int
from ml_collections import ConfigDict

from lzn_jax import models, parts
from lzn_jax.models import Tree


def schedule(training: ConfigDict, peak: float) -> optax.Schedule:
    """Learning rate by number of the update: linear warm-up to the peak, then `training.schedule`.

    With W `warmup_steps`, the rate of update k < W is peak (1/W + (1 - 1/W) k/W).
    """
    steps = max(training.warmup_steps, 1)

    def rise(step: Int[Array, ""]) -> Float[Array, ""]:  # optax.linear_schedule is less exact
        share = jnp.minimum(step, steps) / steps
        return peak * ((1 + (steps - 1) * share) / steps)

    def rate(step: Int[Array, ""]) -> Float[Array, ""]:
        with parts.mistakes(f"schedule {training.schedule!r}"):
            after = models.built(parts.get("schedule", training.schedule), training, peak=peak)
            return optax.join_schedules([rise, after], [training.warmup_steps])(step)

    return rate


def schedules(training: ConfigDict, networks: list[str]) -> dict[str, optax.Schedule]:
    """Learning rate of each network as a function of the number of its update, from 0."""
    peaks = training.learning_rate
    return {n: schedule(training, peaks.get(n) or peaks.default) for n in networks}


def make_optimizer(training: ConfigDict, networks: list[str]) -> optax.GradientTransformation:
    """Clips by the global norm of all networks, then applies `training.optimizer` to each.

    Raises UserError if the optimiser is not an optax transformation.
    """

    def optimizer(rate: optax.Schedule) -> optax.GradientTransformation:
        made = models.built(
            parts.get("optimizer", training.optimizer), training, learning_rate=rate
        )
        is_optax = hasattr(made, "init") and hasattr(made, "update")
        line = f"must build an optax transformation, got {made!r}"
        parts.require(is_optax, f"optimizer {training.optimizer!r} {line}")
        return made

    def labels(params: Mapping[str, Tree]) -> dict[str, Tree]:
        return {name: jax.tree.map(lambda _, n=name: n, tree) for name, tree in params.items()}

    made = {name: optimizer(rate) for name, rate in schedules(training, networks).items()}
    return optax.chain(
        optax.clip_by_global_norm(training.gradient_clip), optax.partition(made, labels)
    )


def _cosine(peak: float, num_steps: int, warmup_steps: int) -> optax.Schedule:
    """Decay to 0 at `num_steps`."""
    return optax.cosine_decay_schedule(peak, max(num_steps - warmup_steps, 1))


_DECAY = parts.amount("weights shrink by this times the learning rate in each update", 1e-4)
parts.add("schedule", "constant", lambda peak: optax.constant_schedule(peak))
parts.add("schedule", "cosine", _cosine)
parts.add("optimizer", "adam", optax.adam, owner=__name__)
parts.add("optimizer", "adamw", optax.adamw, {".weight_decay": _DECAY}, owner=__name__)
