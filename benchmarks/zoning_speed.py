"""Speed of zoning relative to the matrix products that it consists of.

    python benchmarks/zoning_speed.py [--n 256 512 1024 2048] [--plain-up-to 512] [--folder DIR]

Value and gradient of the alignment loss with respect to anchors and partners, q = 256, 20 + 20
Euler steps. Prints for each n the seconds, the share of the roofline, the temporaries, and how many
times longer the paper's difference form takes; writes zoning_speed.json. The roofline is 14 n² q
operations per step and direction at the speed of these matrix products alone, measured alternately
with zoning. "soft" anchors have std 0.02, so that only the first step can be skipped; "Gaussian"
ones are N(0, I). Takes about 2 minutes on 2 CPU cores; `--n 8192 --repeats 1` takes 4 more.
"""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import shared
from shared import STDS, STEPS, Q

from lzn_jax import files, zoning
from lzn_jax.zoning.flow import matmul


@jax.jit
def products_of_a_step(u, anchors, w, d_drift):
    """Only the seven matrix products of a step and its derivative."""
    rows = [matmul(x, anchors.T) for x in (u, u + 1, d_drift)]
    means = [matmul(x, anchors) for x in (w, w + 1)]
    sums = [matmul(x.T, w) for x in (u, d_drift)]
    return rows, means, sums


def times_and_roofline(
    zone: Callable[[], Any], rows: int, n: int, repeats: int
) -> tuple[np.ndarray, np.ndarray]:
    """Seconds of zoning, and of the products of its steps for a part of the rows, in turns."""
    shapes = (rows, Q), (n, Q), (rows, n), (rows, Q)
    arrays = [jax.random.normal(jax.random.key(1), shape) for shape in shapes]
    products = functools.partial(products_of_a_step, *arrays)
    taken, step = shared.in_turns(zone, products, repeats=repeats).T
    return taken, 2 * STEPS * step


def measure(n: int, repeats: int, with_plain: bool) -> list[dict[str, Any]]:
    rows = []
    for kind, std in STDS.items():
        problem = shared.make_problem(n, std)
        zoned = shared.gradient(solver=zoning.Euler(STEPS)).lower(*problem).compile()
        zone = functools.partial(zoned, *problem)
        taken, roofline = times_and_roofline(zone, n, n, repeats)
        row = {
            "n": n,
            "anchors": kind,
            "seconds": float(np.median(taken)),
            "share of roofline": float(np.median(roofline / taken)),
            "matmul GFLOP/s": 2 * STEPS * 14 * n * n * Q / float(np.median(roofline)) / 1e9,
            "temporaries MB": zoned.memory_analysis().temp_size_in_bytes / 1e6,
        }
        if with_plain and kind == "soft":
            paper = shared.gradient(zoning.plain, num_steps=STEPS)
            plain = paper.lower(*problem).compile()
            row["plain seconds"] = shared.seconds(plain, *problem)
            row["plain temporaries MB"] = plain.memory_analysis().temp_size_in_bytes / 1e6
            row["times faster"] = row["plain seconds"] / row["seconds"]
        rows.append(row)
        print(shared.line(row), flush=True)
    return rows


def main() -> None:
    parser = shared.parser(__doc__)
    parser.add_argument("--n", type=int, nargs="+", default=[256, 512, 1024, 2048])
    parser.add_argument("--repeats", type=int, default=5, help="timings; the median is used")
    parser.add_argument("--plain-up-to", type=int, default=512, help="largest n of the plain form")
    parser.add_argument("--folder", type=Path, default=Path("results/zoning_speed"))
    arguments = parser.parse_args()
    rows = []
    for n in arguments.n:
        rows += measure(n, arguments.repeats, with_plain=n <= arguments.plain_up_to)
    files.write_json(arguments.folder / "zoning_speed.json", rows)
    print(f"written to {arguments.folder}")


if __name__ == "__main__":
    main()
