"""--mode=replay: repeats the non-finite update at which a run stopped."""

import functools
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from lzn_jax import data, train
from lzn_jax.errors import EXIT_NON_FINITE, UserError
from lzn_jax.latent_space import LatentSpace
from lzn_jax.run import devices
from lzn_jax.run import workdir as workdirs
from lzn_jax.run.checkpoints import Checkpoints

_log = logging.getLogger(__name__)


def replay(config: ConfigDict, workdir: Path) -> None:
    """Repeats the update at which a run stopped and reports its non-finite arrays.

    Raises UserError if the run saved no such update, or if it has a different config.
    """
    workdirs.check_same_run(config, workdir)
    folder = workdir / train.REPLAY_FOLDER
    mesh = devices.training_mesh(config.training)
    space = LatentSpace(config, mesh)
    optimizer = train.make_optimizer(config.training, list(space.modules))
    init = functools.partial(train.init_state, space, optimizer, config.seed)
    shard = config.training.shard_parameters
    shapes = devices.placed(jax.eval_shape(init), mesh, shard=shard)
    state = None
    if folder.is_dir():  # which reading would create
        with Checkpoints(folder) as checkpoints:
            state = train.restore_state(checkpoints, shapes)
    if state is None:
        raise UserError(
            f"there is nothing to replay in {workdir}: a run saves its state when it stops with "
            f"exit code {EXIT_NON_FINITE}, after {train.MAX_SKIPPED_IN_A_ROW} non-finite updates "
            "in a row"
        )
    with train.training_batches(config, space, data.load(config.data, "train")) as batches:
        batches.seek(int(state.step))
        rows = next(batches)
    inspect = functools.partial(inspect_update, space=space, config=config)
    with jax.set_mesh(mesh):
        report = jax.jit(inspect, out_shardings=devices.replicated(mesh))(
            state, devices.put_rows(rows, mesh)
        )
    _report(int(state.step) + 1, *jax.device_get(report))


def inspect_update(
    state: train.TrainState,
    batch: Mapping[str, jax.Array],
    *,
    space: LatentSpace,
    config: ConfigDict,
) -> tuple[dict[str, jax.Array], dict[str, Any]]:
    """Metrics of an update, and whether its arrays are finite, as trees by kind and network."""
    loss, metrics, gradient = train.loss_and_gradient(state, batch, space=space, seed=config.seed)
    active = train.still_training(state.step, config.training, list(state.params))
    gradient = train.mask(active, gradient)
    arrays = {"batch": batch, "parameters": state.params, "gradient": gradient}
    return (
        {"loss": loss, **metrics, "gradient_norm": optax.tree.norm(gradient)},
        jax.tree.map(lambda a: jnp.isfinite(a).all(), arrays),
    )


def _report(update: int, metrics: Mapping[str, Any], finite: Mapping[str, Any]) -> None:
    values = ", ".join(f"{name} {value:.4g}" for name, value in metrics.items())
    _log.info("update %d: %s", update, values)
    for kind, trees in finite.items():
        for name, tree in trees.items():
            leaves = jax.tree_util.tree_leaves_with_path(tree)
            bad = [
                jax.tree_util.keystr(p, simple=True, separator="/") for p, ok in leaves if not ok
            ]
            first = f", the first is {bad[0]}" if any(bad) else ""
            words = f"{len(bad)} of {len(leaves)} arrays are not finite{first}" if bad else "finite"
            _log.info("%s %s: %s", kind, name, words)
