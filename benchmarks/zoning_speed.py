"""Speed of zoning relative to the matrix products that it consists of.

    python benchmarks/zoning_speed.py [--n 256 512 1024 2048] [--plain-up-to 512] [--folder DIR]

Value and gradient of the alignment loss with respect to anchors and partners, q = 256, 20 + 20
Euler steps. Prints for each n the seconds, the share of the roofline, the temporaries, and how many
times longer the paper's difference form takes; writes zoning_speed.json. The roofline is 14 n² q
operations per step and direction at the speed of these matrix products alone, measured alternately
with zoning. "soft" anchors have std 0.02, so that only the first step can be skipped; "Gaussian"
ones are N(0, I). Takes about 2 minutes on 2 CPU cores; `--n 8192 --repeats 1` takes 4 more.
"""

import statistics
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import shared
from shared import STDS, STEPS, Q, make_problem, median_seconds, seconds

from lzn_jax import zoning
from lzn_jax.run import files
from lzn_jax.zoning.flow import matmul


@jax.jit
def products_of_a_step(u, anchors, w, d_drift):
    """Only the seven matrix products of a step and its derivative."""
    rows = [matmul(x, anchors.T) for x in (u, u + 1, d_drift)]
    means = [matmul(x, anchors) for x in (w, w + 1)]
    sums = [matmul(x.T, w) for x in (u, d_drift)]
    return rows, means, sums


def measure(n: int, repeats: int, with_plain: bool) -> list[dict[str, float | str]]:
    rng = np.random.default_rng(1)
    shapes = [(n, Q), (n, Q), (n, n), (n, Q)]
    arrays = [jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes]
    jax.block_until_ready(products_of_a_step(*arrays))
    rows = []
    for kind, std in STDS.items():
        problem = make_problem(n, std)
        zoned = shared.gradient(zoning.Euler(STEPS)).lower(*problem).compile()
        seconds(zoned, *problem)
        pairs = []
        for _ in range(repeats):
            step = median_seconds(products_of_a_step, *arrays)
            pairs.append((seconds(zoned, *problem), 2 * STEPS * step))
        taken, roofline = (statistics.median(values) for values in zip(*pairs, strict=True))
        row = {
            "n": n,
            "anchors": kind,
            "seconds": taken,
            "share of roofline": statistics.median(b / a for a, b in pairs),
            "matmul GFLOP/s": 2 * STEPS * 14 * n * n * Q / roofline / 1e9,
            "temporaries MB": zoned.memory_analysis().temp_size_in_bytes / 1e6,
        }
        if with_plain and kind == "soft":
            paper = shared.gradient(zoning.Euler(STEPS), zoning.plain)
            plain = paper.lower(*problem).compile()
            row["plain seconds"] = seconds(plain, *problem)
            row["plain temporaries MB"] = plain.memory_analysis().temp_size_in_bytes / 1e6
            row["times faster"] = row["plain seconds"] / taken
        rows.append(row)
        print(
            "  ".join(f"{k} {v:.3g}" if k != "anchors" else v for k, v in row.items()), flush=True
        )
    return rows


def main() -> None:
    parser = shared.parser(__doc__)
    parser.add_argument("--n", type=int, nargs="+", default=[256, 512, 1024, 2048])
    parser.add_argument(
        "--repeats", type=int, default=5, help="timings per row; the median is used"
    )
    parser.add_argument(
        "--plain-up-to", type=int, default=512, help="largest n for the difference form"
    )
    parser.add_argument("--folder", type=Path, default=Path("results/zoning_speed"))
    arguments = parser.parse_args()
    rows = []
    for n in arguments.n:
        rows += measure(n, arguments.repeats, with_plain=n <= arguments.plain_up_to)
    files.write_json(arguments.folder / "zoning_speed.json", rows)
    print(f"written to {arguments.folder}")


if __name__ == "__main__":
    main()
