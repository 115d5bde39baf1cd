"""What micro-batches save and cost: memory and time of a step against their size.

    python benchmarks/microbatch.py [--config configs/digits_joint.py] [--batch-size 1024]

One training step (plain gradient descent, so that parameters show the gradient) of a shipped
config at a batch size, unsplit and in micro-batches: temporaries of the compiled program, wall
time, and the relative difference of loss and step (the larger one) from the unsplit step. Prints a
table; writes microbatch.json and microbatch.png. About 3 minutes on 2 CPU cores, where XLA's weight
gradients of convolutions inside loops are slow (jax issue 12868): times there say nothing of
accelerators.
"""

import argparse
import functools
import time
from pathlib import Path

import jax
import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
import numpy as np
import optax

from lzn_jax import configuration, data, studies, train
from lzn_jax.run import reporting, sharding


def measure(path: str, batch_size: int, size: int | None) -> tuple[dict, dict]:
    """A table row, and the loss and updated parameters."""
    fields = {"training.batch_size": batch_size, "training.microbatch_size": size}
    config = configuration.load(path, [f"{name}={value}" for name, value in fields.items()])
    study = studies.build(config, sharding.make_mesh(1))
    optimizer = optax.sgd(0.1)
    state = jax.jit(functools.partial(train.init_state, study, optimizer, config.seed))()
    examples, _ = studies.load_data(config)
    with data.TrainingBatches(examples, batch_size, config.seed, study.transform) as batches:
        batch = next(batches)
    update = functools.partial(
        train.update_state,
        study=study,
        optimizer=optimizer,
        training=config.training,
        seed=config.seed,
    )
    program = jax.jit(update).lower(state, batch).compile()
    new, metrics = jax.block_until_ready(program(state, batch))
    times = []
    for _ in range(3):
        started = time.perf_counter()
        jax.block_until_ready(program(state, batch))
        times.append(time.perf_counter() - started)
    row = {
        "micro-batch": size or batch_size,
        "temporaries MB": program.memory_analysis().temp_size_in_bytes / 1e6,
        "seconds": float(np.median(times)),
    }
    step = jax.tree.map(lambda a, b: np.asarray(a - b), new.params, state.params)
    return row, {"loss": np.asarray(metrics["loss"]), "step": step}


def relative_difference(value: dict, reference: dict) -> float:
    """The larger of loss and step, the step as one vector."""

    def norm(tree):
        return np.sqrt(sum(np.sum(np.float64(a) ** 2) for a in jax.tree.leaves(tree)))

    difference = jax.tree.map(np.subtract, value, reference)
    return float(max(norm(difference[name]) / norm(reference[name]) for name in reference))


def draw(rows: list[dict], path: Path) -> None:
    """Memory and time against the size of a micro-batch."""
    figure, axes = plt.subplots(1, 2, figsize=(8, 3.4), layout="constrained")
    sizes = [row["micro-batch"] for row in rows]
    for ax, name in zip(axes, ("temporaries MB", "seconds"), strict=True):
        ax.plot(sizes, [row[name] for row in rows], "o-")
        ax.set_xscale("log", base=2)
        ax.set_xticks(sizes, [str(size) for size in sizes])
        ax.set(xlabel="micro-batch", ylabel=name, ylim=(0, None))
        ax.grid(alpha=0.3)
    figure.suptitle(f"A step at batch {max(sizes)}")
    figure.savefig(path, dpi=150)


def main() -> None:
    """Measures all sizes, then writes table and figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", default="configs/digits_joint.py")
    parser.add_argument("--batch-size", type=int, default=1024)
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 128, 64])
    parser.add_argument("--folder", type=Path, default=Path("results/microbatch"))
    arguments = parser.parse_args()
    rows = []
    for size in (None, *arguments.sizes):
        row, outcome = measure(arguments.config, arguments.batch_size, size)
        if size is None:
            unsplit = outcome
        row["relative difference"] = relative_difference(outcome, unsplit)
        rows.append(row)
        print("  ".join(f"{name} {value:.3g}" for name, value in row.items()), flush=True)
    reporting.write_json(arguments.folder / "microbatch.json", rows)
    draw(rows, arguments.folder / "microbatch.png")
    print(f"written to {arguments.folder}")


if __name__ == "__main__":
    main()
