"""The state of training: what an update reads and writes, and how checkpoints keep it."""

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


class TrainState(flax.struct.PyTreeNode):
    """What an update reads and writes.

    Attributes:
      step: () int32, iterations so far, skipped ones included.
      params: trained parameters by network.
      constants: the other variables by network, never trained, such as banks of recent anchors.
      ema: exponential moving average of params.
      optimizer: optax state.
      skipped: () int32, updates skipped for a non-finite loss or gradient.
      skipped_in_a_row: () int32, how many of them were the last ones.
    """

    # Any: JAX also builds this tree with shapes, shardings and placeholders as leaves.
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
    """The state before the first update."""
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
    """The model that is evaluated: averaged weights, and context anchors made with them."""
    variables = join_variables(state.ema, state.constants)
    return Model(variables, space.context(variables, train))


def save_state(
    checkpoints: Checkpoints, state: TrainState, space: LatentSpace, train: Examples
) -> None:
    """Starts to save a state and the context anchors of its averaged weights."""
    context = space.context(join_variables(state.ema, state.constants), train)
    save_with_context(checkpoints, state, context)


def save_with_context(
    checkpoints: Checkpoints, state: TrainState, context: Mapping[str, jax.Array]
) -> None:
    """Starts to save a state and what may be there of context anchors."""
    items = {"params": state.params, "optimizer": state.optimizer}
    items["ema"] = {"params": state.ema, "constants": state.constants}
    if context:
        on_mesh = isinstance(state.step, jax.Array)  # else NumPy's, of one process
        items["context"] = (
            sharding.put_whole(context, state.step.sharding) if on_mesh else dict(context)
        )
    counters = {"skipped": state.skipped, "skipped_in_a_row": state.skipped_in_a_row}
    step = int(state.step)
    reached = {"step": step, "data_position": step} | {k: int(v) for k, v in counters.items()}
    checkpoints.save(step, items, reached)


def restore_state(checkpoints: Checkpoints, shapes: TrainState) -> TrainState | None:
    """The state of the newest good checkpoint, placed as `shapes` are, None without any."""
    targets = {"params": shapes.params, "optimizer": shapes.optimizer}
    targets["ema"] = {"params": shapes.ema, "constants": shapes.constants}
    restored = checkpoints.restore(targets)
    if restored is None:
        return None
    step, items = restored
    checkpoints.set_aside_after(step)
    names = ("step", "skipped", "skipped_in_a_row")
    counters = counters_of({name: items["progress"][name] for name in names}, shapes.step.sharding)
    return TrainState(
        params=items["params"],
        constants=items["ema"]["constants"],
        ema=items["ema"]["params"],
        optimizer=items["optimizer"],
        **counters,
    )


def counters_of(
    values: Mapping[str, int], placement: jax.sharding.Sharding
) -> dict[str, jax.Array]:
    """Counters as arrays, placed."""
    return {name: sharding.put_whole(np.int32(value), placement) for name, value in values.items()}
