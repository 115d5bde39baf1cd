"""The one training loop: it never asks which study it runs."""

import contextlib
import functools
import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from clu import parameter_overview
from ml_collections import ConfigDict

from lzn_jax import data, figures, optimization, reporting, sharding, studies
from lzn_jax.checkpoints import Checkpoints
from lzn_jax.configuration import UserError
from lzn_jax.randomness import Stream, stream_key
from lzn_jax.studies import Model, Study, Variables

EXIT_DONE, EXIT_NON_FINITE, EXIT_SAVED_AFTER_SIGTERM = 0, 3, 75
MAX_SKIPPED_IN_A_ROW = 100

_log = logging.getLogger(__name__)


@flax.struct.dataclass
class TrainState:
    """What an update reads and writes.

    Attributes:
      step: () int32, iterations so far, skipped ones included.
      params: trained parameters by network.
      constants: the other variables by network, never trained.
      ema: exponential moving average of params.
      optimizer: optax state.
      skipped: () int32, updates skipped for a non-finite loss or gradient.
      skipped_in_a_row: () int32, how many of them were the last ones.
    """

    step: jax.Array
    params: dict[str, Any]
    constants: dict[str, Any]
    ema: dict[str, Any]
    optimizer: Any
    skipped: jax.Array
    skipped_in_a_row: jax.Array


def train_and_evaluate(config: ConfigDict, workdir: Path) -> int:
    """Trains from the newest checkpoint, or from scratch, to the end; returns the exit code."""
    goodput = reporting.Goodput()
    training = config.training
    with goodput("init"):
        mesh = sharding.make_mesh(training.batch_size)
        study = studies.build(config, mesh)
        train, test = (data.load(config.data, split) for split in ("train", "test"))
        studies.check_data(config, train)
        batches = data.TrainingBatches(
            train, training.batch_size, config.seed, flip=config.data.flip
        )
        optimizer = optimization.make_optimizer(training, list(study.modules))
        init = functools.partial(_init_state, study, optimizer, config.seed)

    def evaluate(state: TrainState, step: int) -> dict[str, float]:
        started = time.perf_counter()
        model = averaged_model(state, study, train)
        metrics = study.evaluate(model, train, test, workdir / "figures")
        write_summary(workdir, step, metrics | rates.overall())
        return metrics | {"evaluation_seconds": time.perf_counter() - started}

    with Checkpoints(workdir, config.checkpoint.keep) as checkpoints, _sigterm() as terminated:
        with goodput("restore"):
            state = restore_state(checkpoints, init, study, mesh)
        if state is None:
            with goodput("init"):
                state = jax.jit(init, out_shardings=sharding.replicated(mesh))()
        step = int(state.step)
        batches.seek(step)
        with goodput("compile"):
            update = compile_update(study, optimizer, config, mesh, state, next(batches))
            batches.seek(step)
        _announce(config, mesh, state, workdir)
        rates = _Rates(goodput, step, training.batch_size)

        with (
            reporting.MetricLog(workdir, step) as log,
            reporting.progress(training.num_steps, "training", initial=step) as bar,
        ):
            fetch = _LateMetrics(log, rates, training.log_every_steps, bar)
            # Order: evaluate, stop?, batch, update, metrics of the update before, save. An
            # evaluation that a killed process did not finish is made again after its checkpoint
            # is restored, and only then.
            while True:
                if _is_due(step, config.evaluation.every_steps, training.num_steps):
                    fetch.flush()
                    if not log.has(step, "evaluation_seconds"):
                        with goodput("eval"):
                            log.write(step, evaluate(state, step))
                            draw_curves(workdir, log, step)
                if step == training.num_steps or fetch.too_many_skipped:
                    break
                with goodput("data"):
                    batch = next(batches)
                with goodput("step"):
                    state, metrics = update(state, batch)
                    step += 1
                    fetch.put(step, metrics)
                if terminated.is_set() or _is_due(
                    step, config.checkpoint.every_steps, training.num_steps
                ):
                    fetch.flush()
                    log.sync()
                    with goodput("save"):
                        save_state(checkpoints, state, study, train)
                if terminated.is_set():
                    break
    reporting.write_json(workdir / "goodput.json", goodput.seconds)
    return _finish(step, training.num_steps, fetch.too_many_skipped, workdir)
