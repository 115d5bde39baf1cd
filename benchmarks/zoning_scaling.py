"""What sharding changes: memory per device, collectives, and that the answer stays.

    python benchmarks/zoning_scaling.py [--n 8192] [--check-n 1024] [--folder DIR]

Value and gradient of the alignment loss, q = 256, 20 + 20 Euler steps, rows sharded over 1, 2, 4
and 8 fake CPU devices. Memory and collectives are those of the compiled program at `n`; values
and gradients are compared with one device's at `check-n`. Prints a table and writes JSON.
"""

import argparse
import os
import re
from pathlib import Path

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from lzn_jax import reporting
from lzn_jax.zoning import Euler, alignment_loss, compute_latents

Q, STEPS = 256, 20
COLLECTIVE = re.compile(
    r"(all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute)(-start)?\("
)


@jax.jit
def value_and_gradient(anchors, partners, noise):
    """Loss, and its gradient with respect to both anchor sets."""

    def loss(anchors, partners):
        latents = compute_latents(anchors, noise, solver=Euler(STEPS))
        return alignment_loss(latents, partners, jnp.arange(len(anchors)), solver=Euler(STEPS))[0]

    return jax.value_and_grad(loss, (0, 1))(anchors, partners)


def rows_over(count: int) -> NamedSharding:
    """Rows spread over the first `count` devices."""
    mesh = jax.make_mesh((count,), ("data",), (AxisType.Auto,), devices=jax.devices()[:count])
    return NamedSharding(mesh, PartitionSpec("data"))


def compile_for(count: int, n: int) -> dict[str, float]:
    """Memory per device, and collectives in all and inside loops, of the program."""
    shape = jax.ShapeDtypeStruct((n, Q), jnp.float32, sharding=rows_over(count))
    program = value_and_gradient.lower(shape, shape, shape).compile()
    computations = re.split(r"\n(?=(?:ENTRY )?%?[\w.\-]+ \()", program.as_text())
    numbers = {c.startswith("ENTRY"): 0 for c in computations}
    for computation in computations:
        numbers[computation.startswith("ENTRY")] += len(COLLECTIVE.findall(computation))
    return {
        "devices": count,
        "temporaries MB a device": program.memory_analysis().temp_size_in_bytes / 1e6,
        "collectives": numbers[True],
        "inside loops": numbers[False],
    }


def difference(count: int, n: int) -> float:
    """Largest relative difference of value and gradients from one device's."""
    rng = np.random.default_rng(0)
    anchors = 0.1 * rng.normal(size=(n, Q))
    arrays = [anchors, anchors + 0.05 * rng.normal(size=(n, Q)), 0.45 * rng.normal(size=(n, Q))]
    arrays = [np.float32(a) for a in arrays]
    one = value_and_gradient(*arrays)
    many = value_and_gradient(*jax.device_put(arrays, rows_over(count)))
    norms = jax.tree.map(lambda a, b: np.linalg.norm(a - b) / np.linalg.norm(a), one, many)
    return float(max(jax.tree.leaves(norms)))


def main() -> None:
    """Prints and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=8192)
    parser.add_argument("--check-n", type=int, default=1024)
    parser.add_argument("--folder", type=Path, default=Path("results/zoning_scaling"))
    arguments = parser.parse_args()
    rows = []
    for count in (1, 2, 4, 8):
        row = compile_for(count, arguments.n)
        row["relative difference"] = difference(count, arguments.check_n)
        rows.append(row)
        print("  ".join(f"{name} {value:.3g}" for name, value in row.items()), flush=True)
    reporting.write_json(arguments.folder / "zoning_scaling.json", rows)


if __name__ == "__main__":
    main()
