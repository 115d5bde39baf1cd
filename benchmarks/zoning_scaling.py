"""Effect of sharding on memory per device, collectives and results.

    python benchmarks/zoning_scaling.py [--n 8192] [--check-n 1024] [--folder DIR]

Value and gradient of the alignment loss, q = 256, 20 + 20 Euler steps, with rows sharded over 1,
2, 4 and 8 fake CPU devices. Memory and collectives are those of the program compiled for `n` rows;
values and gradients are compared with those of one device at `check-n` rows. Prints a table and
writes it as JSON.
"""

import os
from pathlib import Path

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"

import jax
import jax.numpy as jnp
import shared
from jax.sharding import Mesh
from shared import STEPS, Q

from lzn_jax import files
from lzn_jax.run import compiled_time, devices
from lzn_jax.zoning import Euler

value_and_gradient = shared.gradient(Euler(STEPS))


def mesh_of(count: int) -> Mesh:
    return devices.make_mesh(count, jax.devices()[:count])


def compile_for(count: int, n: int) -> dict[str, float]:
    """Memory per device, number of collectives and number of collectives inside loops."""
    mesh = mesh_of(count)
    shape = jax.ShapeDtypeStruct((n, Q), jnp.float32, sharding=devices.split(mesh))
    with jax.set_mesh(mesh):
        program = value_and_gradient.lower(shape, shape, shape).compile()
    counts = compiled_time.collectives(compiled_time.parse(program.as_text()))
    return {
        "devices": count,
        "temporaries MB a device": program.memory_analysis().temp_size_in_bytes / 1e6,
        "collectives": counts.total(),
        "inside loops": sum(n for (where, _), n in counts.items() if where == "in loops"),
    }


def difference(count: int, n: int) -> tuple[float, float]:
    """Relative differences to one device, in norm, of the value and of the worse gradient."""
    arrays = shared.make_problem(n, 0.1)
    one = value_and_gradient(*arrays)
    mesh = mesh_of(count)
    with jax.set_mesh(mesh):
        many = value_and_gradient(*jax.device_put(arrays, devices.split(mesh)))
    (value, _), gradients = jax.tree.map(shared.relative_error, many, one)
    return value, max(gradients)


def main() -> None:
    parser = shared.parser(__doc__)
    parser.add_argument("--n", type=int, default=8192)
    parser.add_argument("--check-n", type=int, default=1024)
    parser.add_argument("--folder", type=Path, default=Path("results/zoning_scaling"))
    arguments = parser.parse_args()
    rows = []
    for count in (1, 2, 4, 8):
        row = compile_for(count, arguments.n)
        row["value differs by"], row["gradient by"] = difference(count, arguments.check_n)
        rows.append(row)
        print(shared.line(row), flush=True)
    files.write_json(arguments.folder / "zoning_scaling.json", rows)


if __name__ == "__main__":
    main()
