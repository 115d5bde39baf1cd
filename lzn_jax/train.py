"""Training of any latent space in one loop.

The file defines the state, the update and the loop, in this order.
"""

import contextlib
import dataclasses
import faulthandler
import functools
import logging
import shlex
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from clu import parameter_overview
from jax.sharding import Mesh, Sharding
from jaxtyping import Array, Bool, Int
from ml_collections import ConfigDict

from lzn_jax import configuration, data, extensions, files, inference, models, plan, plots
from lzn_jax.data import Examples, pixels
from lzn_jax.data.batches import TrainingBatches
from lzn_jax.data_types import Model
from lzn_jax.errors import EXIT_DONE, EXIT_NON_FINITE, EXIT_RUN_AGAIN, UserError
from lzn_jax.evaluation import measurements
from lzn_jax.latent_space import LatentSpace
from lzn_jax.models import join_variables, named, split_variables
from lzn_jax.optimizers import make_optimizer, schedules
from lzn_jax.progress import progress
from lzn_jax.run import costs, devices, log, processes
from lzn_jax.run import workdir as workdirs
from lzn_jax.run.checkpoints import Checkpoints
from lzn_jax.run.processes import Interrupted, Interruption
from lzn_jax.trained_model import TrainedModel

MAX_SKIPPED_IN_A_ROW = 100
MORE_EVALUATION = 60  # seconds that evaluation may take longer than training
STALLED_AFTER = 600.0  # seconds of a step, after which all stacks are written to stderr
_COUNTERS = ("step", "skipped", "skipped_in_a_row")  # of a state

_log = logging.getLogger(__name__)


class TrainState(flax.struct.PyTreeNode):
    """Everything that an update changes."""

    # Any, because JAX also builds this tree with shapes, shardings and placeholders as leaves.
    step: Any  # () int32, number of updates so far, including skipped ones
    params: Any  # trained parameters by network
    constants: Any  # variables without a gradient by network
    ema: Any  # exponential moving average of params
    optimizer: Any  # optax state
    skipped: Any  # () int32, updates skipped because of a non-finite loss or gradient
    skipped_in_a_row: Any  # () int32, skipped updates since the last successful one


def init_state(
    space: LatentSpace, optimizer: optax.GradientTransformation, seed: int
) -> TrainState:
    """State before the first update."""
    params, constants = split_variables(space.init(named(jax.random.key(seed), "init")))
    return TrainState(
        params=params,
        constants=constants,
        ema=jax.tree.map(jnp.copy, params),
        optimizer=optimizer.init(params),
        **{name: jnp.zeros((), jnp.int32) for name in _COUNTERS},
    )


def averaged_model(state: TrainState, space: LatentSpace, train: Examples) -> Model:
    """Model for evaluation, with EMA weights and context anchors computed with them."""
    variables = join_variables(state.ema, state.constants)
    return inference.with_contexts(space, variables, train)


def save_state(
    checkpoints: Checkpoints,
    state: TrainState,
    space: LatentSpace | None = None,
    train: Examples | None = None,
) -> None:
    """Starts saving a state and, with `space` and `train`, context anchors of its EMA weights."""
    items = {"params": state.params, "optimizer": state.optimizer}
    items["ema"] = {"params": state.ema, "constants": state.constants}
    if space is not None and train is not None:
        context = averaged_model(state, space, train).context
        if isinstance(state.step, jax.Array):  # otherwise a NumPy array, in a single process
            context = devices.put_whole(context, state.step.sharding)
        items |= {"context": context} if context else {}
    counters = {name: int(getattr(state, name)) for name in _COUNTERS}
    checkpoints.save(counters["step"], items, counters | {"data_position": counters["step"]})


def restore_state(checkpoints: Checkpoints, shapes: TrainState) -> TrainState | None:
    """State of the newest intact checkpoint, placed like `shapes`. None without a checkpoint."""
    targets = {"params": shapes.params, "optimizer": shapes.optimizer}
    targets["ema"] = {"params": shapes.ema, "constants": shapes.constants}
    restored = checkpoints.restore(targets)
    if restored is None:
        return None
    step, items = restored
    checkpoints.set_aside_after(step)
    return TrainState(
        params=items["params"],
        constants=items["ema"]["constants"],
        ema=items["ema"]["params"],
        optimizer=items["optimizer"],
        **_counters(items["progress"], shapes.step.sharding),
    )


def _counters(values: Mapping[str, int], placement: Sharding) -> dict[str, jax.Array]:
    return {name: devices.put_whole(np.int32(values[name]), placement) for name in _COUNTERS}


def still_training(
    step: Int[Array, ""], training: ConfigDict, networks: list[str]
) -> dict[str, Bool[Array, ""]]:
    """Whether each network is still trained at `step`. The decoder may stop early (paper E.1)."""
    stops = {"decoder": training.get("decoder_steps")}  # a field of spaces with several types
    return {
        network: jnp.asarray(True) if stops.get(network) is None else step < stops[network]
        for network in networks
    }


def learning_rates(
    training: ConfigDict, networks: list[str], step: int, skipped: int
) -> dict[str, float]:
    """`learning_rate_NETWORK` of update number `step`, from 1, after `skipped` updates."""
    index, count = jnp.int32(step - 1), jnp.int32(step - 1 - skipped)  # optimisers count the latter
    active, rates = still_training(index, training, networks), schedules(training, networks)
    return {f"learning_rate_{n}": float(active[n] * rate(count)) for n, rate in rates.items()}


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


def loss_and_gradient(
    state: TrainState, batch: Mapping[str, jax.Array], *, space: LatentSpace, seed: int
) -> tuple[jax.Array, dict[str, jax.Array], dict[str, Any]]:
    """Loss, metrics and gradient by network of the next update of a state."""
    key = jax.random.fold_in(named(jax.random.key(seed), "training"), state.step)

    def loss_of(params):
        return plan.loss(space.plan, join_variables(params, state.constants), batch, key)

    (loss, metrics), gradient = jax.value_and_grad(loss_of, has_aux=True)(state.params)
    return loss, metrics, gradient


def update_state(
    state: TrainState,
    batch: Mapping[str, jax.Array],
    *,
    space: LatentSpace,
    optimizer: optax.GradientTransformation,
    training: ConfigDict,
    seed: int,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """Updates a state on a global batch by gradient, optimiser and EMA, unless not finite.

    Columns of the batch may replace random draws (see `plan.loss`). Returns the state and the
    metrics.
    """
    active = still_training(state.step, training, list(state.params))
    loss, metrics, gradient = loss_and_gradient(state, batch, space=space, seed=seed)
    gradient = mask(active, gradient)
    norm = optax.tree.norm(gradient)
    updates, optimizer_state = optimizer.update(gradient, state.optimizer, state.params)
    params = optax.apply_updates(state.params, mask(active, updates))
    ema = update_ema(state.ema, params, state.step, training.ema_decay, active)

    # A finite norm implies finite gradients, which a finite loss does not. optax.apply_if_finite
    # considers neither loss nor EMA, and applies non-finite updates after a number of them.
    is_finite = jnp.isfinite(loss) & jnp.isfinite(norm)
    new = state.replace(params=params, ema=ema, optimizer=optimizer_state)
    state = jax.tree.map(lambda new, old: jnp.where(is_finite, new, old), new, state).replace(
        step=state.step + 1,
        skipped=state.skipped + ~is_finite,
        skipped_in_a_row=jnp.where(is_finite, 0, state.skipped_in_a_row + 1),
    )
    skipped = {"skipped": state.skipped, "skipped_in_a_row": state.skipped_in_a_row}
    return state, {"loss": loss, **metrics, "gradient_norm": norm, **skipped}


def jit_update(
    space: LatentSpace,
    optimizer: optax.GradientTransformation,
    config: ConfigDict,
    mesh: Mesh,
    state: TrainState,
) -> Any:
    """`update_state` as a jitted (state, batch) -> (state, metrics), which donates the state.

    States are placed like `state`, which may consist of shapes.
    """
    update = functools.partial(
        update_state, space=space, optimizer=optimizer, training=config.training, seed=config.seed
    )
    placement = jax.tree.map(lambda a: a.sharding, state)
    return jax.jit(
        update,
        in_shardings=(placement, devices.split(mesh)),
        out_shardings=(placement, devices.replicated(mesh)),
        donate_argnums=0,
    )


@dataclasses.dataclass(frozen=True)
class _Run:
    """Everything that a run needs besides its state."""

    config: ConfigDict
    workdir: Path
    goodput: log.Goodput
    interruption: Interruption
    mesh: Mesh
    space: LatentSpace
    train: Examples
    test: Examples
    batches: TrainingBatches
    optimizer: optax.GradientTransformation
    wandb: Any


def train_and_evaluate(
    config: ConfigDict, workdir: Path, interruption: Interruption | None = None
) -> int:
    """Trains to the end, from the newest checkpoint or from scratch. Returns the exit code.

    `interruption` receives the signals of the command, by default none. Raises UserError if the
    folder contains a run of a different config or cannot be written.
    """
    workdirs.prepare(config, workdir, is_training=True)
    mesh = models.built(devices.training_mesh, config.training)
    with workdirs.locked(workdir), jax.set_mesh(mesh):  # a caller's mesh has other axes
        run = _prepare(config, workdir, interruption or Interruption(), mesh)
        with run.batches, Checkpoints(workdir, config.checkpoint.keep) as checkpoints:
            state, update, operations = _start(run, checkpoints)
            _announce(state, run.mesh, run.workdir)
            with run.interruption.held():
                state, code = _loop(run, checkpoints, state, update, operations)
                checkpoints.wait()
        run.goodput.write(workdir)
    _log.info("%s", run.goodput.in_words())
    if code == EXIT_RUN_AGAIN:
        flags = extensions.extension_flags(config.extensions)
        command = shlex.join(["python", "-m", "lzn_jax.main", f"--workdir={workdir}", *flags])
        _log.info("saved at step %d; to continue: %s", int(state.step), command)
    elif code == EXIT_NON_FINITE:
        skipped = int(state.skipped_in_a_row)
        _log.error(
            "stopped: update %d was the first of %d non-finite updates in a row; lower learning "
            "rates, and remove %s to start again",
            int(state.step) - skipped + 1,
            skipped,
            workdir,
        )
    elif code == EXIT_DONE:
        _log.info("done: results are in %s", workdir)
    return code


def _prepare(config: ConfigDict, workdir: Path, interruption: Interruption, mesh: Mesh) -> _Run:
    """Builds the run. Writes the config into the work folder only if nothing fails."""
    goodput = log.Goodput()
    with goodput("init"):
        space = LatentSpace(config, mesh)
        train, test = data.load_data(config)
        count, size = len(train.labels), config.training.batch_size
        if size > count:
            raise UserError(
                f"training.batch_size must be at most {count}, the training examples of "
                f"{config.data.name}, got {size}: copies of an example in a batch divide its zone"
            )
        encoded = [i for i in (train.images, test.images) if isinstance(i, pixels.EncodedImages)]
        if transparent := sum(images.check(pixels.has_alpha) for images in encoded):
            _log.info(pixels.COMPOSITED, transparent)
        measurements.prepare(space, test)
        _log.info("%s", space.plan)
        batches = training_batches(config, space, train)
        optimizer = make_optimizer(config.training, list(space.modules))
        values = configuration.to_json_dict(config)
        wandb = log.start_wandb(config.reporting.wandb_project, workdir, values)
        workdirs.record(config, workdir)
    return _Run(
        config, workdir, goodput, interruption, mesh, space, train, test, batches, optimizer, wandb
    )


def training_batches(config: ConfigDict, space: LatentSpace, train: Examples) -> TrainingBatches:
    """This process's rows of the batches of a run, starting with the first batch."""
    size = config.training.batch_size
    return TrainingBatches(
        train,
        size,
        config.seed,
        space.transform,
        workers=config.data.get("workers"),
        cores=devices.own_cores(),
        rows=devices.own_rows(size),
        columns=space.columns(train),
        row_transforms=space.row_transforms,
    )


def _start(run: _Run, checkpoints: Checkpoints) -> tuple[TrainState, Any, float]:
    """State of the newest checkpoint or the first, the compiled update, and its operations.

    Also moves the batches to the state's step.
    """
    init = functools.partial(init_state, run.space, run.optimizer, run.config.seed)
    shard = run.config.training.shard_parameters
    with run.goodput("restore"):
        shapes = devices.placed(jax.eval_shape(init), run.mesh, shard=shard)
        state = restore_state(checkpoints, shapes)
    _log.info("compiling: a minute or so at first, seconds once it is cached")
    started = time.perf_counter()
    with (
        run.goodput("compile"),
        _decoded_meanwhile(run.train.images),
        ThreadPoolExecutor(1) as thread,
    ):
        # Another thread lacks the caller's settings of JAX, which a lowered program contains.
        lowered, operations = _lower_update(run, shapes)
        compiled = thread.submit(lowered.compile)
        if state is None:
            # It runs once, so only the compile time matters, a quarter without optimisations.
            fast = {"xla_backend_optimization_level": 0}
            placement = jax.tree.map(lambda a: a.sharding, shapes)
            state = jax.jit(init, out_shardings=placement, compiler_options=fast)()
        else:
            run.goodput.resume(run.workdir)
        update = compiled.result()
    _log.info("compiled in %.0f s", time.perf_counter() - started)
    run.batches.seek(int(state.step))
    return state, update, operations


def _lower_update(run: _Run, shapes: TrainState) -> tuple[Any, float]:
    """The lowered update for the shapes of the run, and its number of operations."""
    update = jit_update(run.space, run.optimizer, run.config, run.mesh, shapes)
    traced = update.trace(shapes, run.batches.shapes())
    cost = costs.count_operations(traced.jaxpr)
    _log.info(
        "a step takes %.3g operations in products and convolutions, %.2g %% of them in zoning",
        cost.total,
        100 * cost.inside / cost.total,
    )
    return traced.lower(), cost.total


@contextlib.contextmanager
def _decoded_meanwhile(images: pixels.Images | None) -> Iterator[None]:
    """Decodes training images in the background, and raises at the end if any is unreadable."""
    if not isinstance(images, pixels.EncodedImages):
        yield
        return
    over = threading.Event()
    with ThreadPoolExecutor(1) as thread:
        checked = thread.submit(images.check, images.decode, over.is_set)
        try:
            yield
        finally:
            over.set()
    checked.result()


def _announce(state: TrainState, mesh: Mesh, workdir: Path) -> None:
    count = parameter_overview.count_parameters
    sizes = ", ".join(f"{name} {count(tree):,}" for name, tree in state.params.items())
    size = devices.bytes_on_a_device(state) / 1e6
    _log.info("parameters: %s; the training state takes %.3g MB per device", sizes, size)
    idle = jax.device_count() - mesh.size
    _log.info("%d device(s)%s", mesh.size, f", {idle} more idle" if idle else "")
    _log.info("writing results to %s, from step %d on", workdir, int(state.step))


def _loop(
    run: _Run, checkpoints: Checkpoints, state: TrainState, update: Any, operations: float
) -> tuple[TrainState, int]:
    """Trains, saves and evaluates until the run ends or must stop. Returns state and exit code.

    The checkpoint of a step is written before its evaluation. A run that is killed in between loses
    no step and repeats the evaluation when it resumes.
    """
    config, goodput = run.config, run.goodput
    chip = costs.chip(run.mesh.devices.flat[0].device_kind)
    peak_steps = None if chip is None else chip.operations * run.mesh.size / operations
    step = saved = int(state.step)  # a restored step is saved already
    first, last = map(int, (config.reporting.profile_steps or "0:0").split(":"))
    profiled = range(max(first, step), last)
    stderr = sys.__stderr__ or sys.stderr  # has a file descriptor, unlike a notebook's
    must_stop = False
    with (
        log.MetricLog(run.workdir, step, run.wandb) as metric_log,
        progress(config.training.num_steps, "training", initial=step) as bar,
        contextlib.ExitStack() as trace,
    ):
        trace.callback(faulthandler.cancel_dump_traceback_later)  # if a step raises
        rates = functools.partial(learning_rates, config.training, list(run.space.modules))
        sizes = config.training.batch_size, config.training.log_every_steps
        numbers = *sizes, rates, peak_steps, run.batches.workers
        metrics = log.LateMetrics(metric_log, bar, goodput, step, *numbers)
        while True:
            is_over = step >= config.training.num_steps
            is_due = is_over or (step > 0 and step % config.evaluation.every_steps == 0)
            if step > saved and (is_due or must_stop or step % config.checkpoint.every_steps == 0):
                metrics.flush()
                with goodput("save"):
                    save_state(checkpoints, state, run.space, run.train)
                    goodput.write(run.workdir)
                saved = step
            if metrics.all_skipped(MAX_SKIPPED_IN_A_ROW):
                return state, EXIT_NON_FINITE
            if must_stop:
                return state, EXIT_RUN_AGAIN
            if is_due:
                metrics.flush()
                try:
                    with goodput("eval"):
                        _evaluate_once(run, state, step, metric_log, metrics)
                except Interrupted:
                    return state, EXIT_RUN_AGAIN
            if is_over:
                return state, EXIT_DONE
            checkpoints.check()
            if profiled and step == profiled.start:
                metrics.flush()  # waits for the update before
                trace.enter_context(jax.profiler.trace(run.workdir / "profile"))
            with goodput("data"):
                batch = devices.put_rows(next(run.batches), run.mesh)
            with goodput("step"):
                faulthandler.dump_traceback_later(STALLED_AFTER, file=stderr)
                metrics.start(step)
                state, new_metrics = update(state, batch)
                step += 1
                metrics.put(step, new_metrics)
                faulthandler.cancel_dump_traceback_later()
            if step == profiled.stop:
                metrics.flush()
                trace.close()
            must_stop = processes.is_to_leave(run.interruption, step)


def _evaluate_once(
    run: _Run, state: TrainState, step: int, metric_log: log.MetricLog, metrics: log.LateMetrics
) -> None:
    """Evaluates, unless the log contains an evaluation of this step from an earlier start.

    Raises `Interrupted` at a signal to stop. The resumed run then evaluates again.
    """
    if metric_log.has(step, "evaluation_seconds"):
        return
    run.workdir.stat()  # raises if the folder was removed, which writing would create again
    started = time.perf_counter()
    totals = run.goodput.totals()
    others = sum(value for name, value in totals.items() if name not in ("eval", "starts"))
    seconds = others + MORE_EVALUATION - totals["eval"]
    with run.interruption.at_once():
        model = TrainedModel(run.space, averaged_model(state, run.space, run.train), step)
        results = measurements.evaluate(model, run.train, run.test, run.workdir, seconds)
    rates = metrics.rates()
    files.write_json(run.workdir / "summary.json", {"step": step, **results, **rates})
    metric_log.write(step, {**results, "evaluation_seconds": time.perf_counter() - started})
    if files.is_writer():
        folder = run.workdir / "figures"
        plots.curves(folder / "curves.png", log.read_metrics(run.workdir))
        for figure in sorted(folder.glob("*.png")):
            metric_log.image(step, figure.stem, figure)
    if rates:
        _log.info("%s", log.rates_in_words(rates))
