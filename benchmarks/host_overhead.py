"""Share of a training step that the compiled update takes alone.

    python benchmarks/host_overhead.py [--config digits_repr] [--updates 2000] [--apart]

Trains by the command line without evaluation or checkpoints before the end, and calls the same
update in a bare loop on one batch. The run's time is that of goodput.json in steps, data and
`other`. The bare loop runs half before and half after it, as other jobs may slow the machine down.
--apart leaves the first core to compiled programs and the others to the host, as beside an
accelerator.
"""

import functools
import json
import os
import tempfile
import time
from pathlib import Path

import jax
import shared
from ml_collections import ConfigDict

from lzn_jax import configuration, data, main, train
from lzn_jax.latent_space import LatentSpace
from lzn_jax.run import devices


def seconds_of_update(config: ConfigDict, updates: int) -> float:
    """Mean seconds of an update in a bare loop on one batch, without compilation."""
    mesh = devices.training_mesh(config.training)
    space = LatentSpace(config, mesh)
    optimizer = train.make_optimizer(config.training, list(space.modules))
    init = functools.partial(train.init_state, space, optimizer, config.seed)
    shapes = devices.placed(jax.eval_shape(init), mesh, shard=config.training.shard_parameters)
    state = jax.jit(init, out_shardings=jax.tree.map(lambda a: a.sharding, shapes))()
    examples = data.load(config.data, "train")
    with train.training_batches(config, space, examples) as batches, jax.set_mesh(mesh):
        batch = devices.put_rows(next(batches), mesh)
        update = train.jit_update(space, optimizer, config, mesh, shapes)
        state, metrics = update(state, batch)
        jax.block_until_ready(metrics)
        start = time.perf_counter()
        for _ in range(updates):
            state, metrics = update(state, batch)
        jax.block_until_ready(metrics)
        return (time.perf_counter() - start) / updates


def seconds_of_run(name: str, overrides: list[str], updates: int) -> float:
    """Mean wall seconds of an update in a run, without compilation and evaluation."""
    with tempfile.TemporaryDirectory() as folder:
        flags = [f"--config=configs/{name}.py", f"--workdir={folder}", *overrides]
        if code := main.main(flags):
            raise SystemExit(code)
        seconds = json.loads((Path(folder) / "goodput.json").read_text())
    return sum(seconds[bucket] for bucket in ("step", "data", "other")) / updates


def compare() -> None:
    """Prints the time of an update in both loops, and their ratio."""
    parser = shared.parser(__doc__)
    parser.add_argument("--config", default="digits_repr")
    parser.add_argument("--updates", type=int, default=2000)
    parser.add_argument("--apart", action="store_true")
    arguments = parser.parse_args()
    if arguments.apart:  # threads keep the cores that their process had when it started them
        first, *others = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {first})
        jax.devices()
        os.sched_setaffinity(0, others)
    fields = ("training.num_steps", "evaluation.every_steps", "checkpoint.every_steps")
    overrides = [f"{field}={arguments.updates}" for field in fields]
    config = configuration.load(f"configs/{arguments.config}.py", overrides)
    half = arguments.updates // 2
    before = seconds_of_update(config, half)
    flags = [f"--config.{override}" for override in overrides]
    in_run = seconds_of_run(arguments.config, flags, arguments.updates)
    bare = (before + seconds_of_update(config, half)) / 2
    print(f"a bare loop takes {bare:.4f} s an update, a run {in_run:.4f} s: {bare / in_run:.1%}")


if __name__ == "__main__":
    compare()
