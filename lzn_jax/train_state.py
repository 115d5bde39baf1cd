"""Training state, and its checkpoints."""

from collections.abc import Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax

from lzn_jax.data import Examples
from lzn_jax.latent_space import LatentSpace, Model
from lzn_jax.models import join_variables, split_variables
from lzn_jax.randomness import named
from lzn_jax.run import sharding
from lzn_jax.run.checkpoints import Checkpoints

_COUNTERS = ("step", "skipped", "skipped_in_a_row")  # of a state


class TrainState(flax.struct.PyTreeNode):
    """Everything that an update changes.

    Attributes:
      step: () int32, number of updates so far, including skipped ones.
      params: trained parameters by network.
      constants: variables without a gradient by network, such as banks of recent anchors.
      ema: exponential moving average of params.
      optimizer: optax state.
      skipped: () int32, updates skipped because of a non-finite loss or gradient.
      skipped_in_a_row: () int32, skipped updates since the last successful one.
    """

    # Any, because JAX also builds this tree with shapes, shardings and placeholders as leaves.
    step: Any
    params: Any
    constants: Any
    ema: Any
    optimizer: Any
    skipped: Any
    skipped_in_a_row: Any


def init_state(
    space: LatentSpace, optimizer: optax.GradientTransformation, seed: int
) -> TrainState:
    """State before the first update."""
    params, constants = split_variables(space.init(named(jax.random.key(seed), "init")))
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        constants=constants,
        ema=jax.tree.map(jnp.copy, params),
        optimizer=optimizer.init(params),
        skipped=jnp.zeros((), jnp.int32),
        skipped_in_a_row=jnp.zeros((), jnp.int32),
    )


def averaged_model(state: TrainState, space: LatentSpace, train: Examples) -> Model:
    """Model for evaluation: EMA weights, and context anchors computed with them."""
    variables = join_variables(state.ema, state.constants)
    return Model(variables, space.context(variables, train))


def save_state(
    checkpoints: Checkpoints, state: TrainState, space: LatentSpace, train: Examples
) -> None:
    """Starts to save a state and the context anchors of its EMA weights."""
    save_with_context(checkpoints, state, averaged_model(state, space, train).context)


def save_with_context(
    checkpoints: Checkpoints, state: TrainState, context: Mapping[str, jax.Array]
) -> None:
    """Starts to save a state, and context anchors unless they are empty."""
    items = {"params": state.params, "optimizer": state.optimizer}
    items["ema"] = {"params": state.ema, "constants": state.constants}
    if context:
        on_mesh = isinstance(state.step, jax.Array)  # otherwise a NumPy array, in a single process
        items["context"] = (
            sharding.put_whole(context, state.step.sharding) if on_mesh else dict(context)
        )
    counters = {name: int(getattr(state, name)) for name in _COUNTERS}
    checkpoints.save(counters["step"], items, counters | {"data_position": counters["step"]})


def restore_state(checkpoints: Checkpoints, shapes: TrainState) -> TrainState | None:
    """State of the newest intact checkpoint, placed as `shapes` are, or None without one."""
    targets = {"params": shapes.params, "optimizer": shapes.optimizer}
    targets["ema"] = {"params": shapes.ema, "constants": shapes.constants}
    restored = checkpoints.restore(targets)
    if restored is None:
        return None
    step, items = restored
    checkpoints.set_aside_after(step)
    counters = {name: items["progress"][name] for name in _COUNTERS}
    return TrainState(
        params=items["params"],
        constants=items["ema"]["constants"],
        ema=items["ema"]["params"],
        optimizer=items["optimizer"],
        **counters_of(counters, shapes.step.sharding),
    )


def counters_of(
    values: Mapping[str, int], placement: jax.sharding.Sharding
) -> dict[str, jax.Array]:
    """Counters as int32 arrays with the given placement."""
    return {name: sharding.put_whole(np.int32(value), placement) for name, value in values.items()}
