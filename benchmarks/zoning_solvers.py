"""Errors of the solvers by number of evaluations, and the time of an evaluation.

    python benchmarks/zoning_solvers.py [--n 256] [--q 64] [--seeds 3] [--workdir DIR]

Prints three results:

* Relative errors of latents (Frobenius norm, worst of the seeds) by solver, for each kind of
  anchors and noise scale α. The reference is Adams-Bashforth with 640 evaluations in float64, which
  the tests compare with Runge-Kutta on the paper's form. --workdir adds the context anchors of a
  run.
* The share of exact latents, α = 1, that each solver takes to another anchor than their own.
* The time of an Adams-Bashforth evaluation relative to one of Euler, value and gradient, measured
  alternately on anchors with which Euler skips only its first step.

Takes about 5 minutes on 2 cores.
"""

import statistics
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
import shared
from shared import make_problem, seconds

import lzn_jax
from lzn_jax.zoning import AdamsBashforth, DPMSolver, Euler, Solver, classify, compute_latents

EXACT = AdamsBashforth(640)
SOLVERS = {
    "Euler 20": Euler(20),
    "DPM 20": DPMSolver(20),
    **{f"Adams {steps}": AdamsBashforth(steps) for steps in (5, 10, 20, 40)},
}
TOWARDS_ANCHORS = {
    f"{name} {steps}": solver(steps)
    for steps in (5, 10, 20)
    for name, solver in (("Euler", Euler), ("DPM", DPMSolver), ("Adams", AdamsBashforth))
}
NOISE_SCALES = (0.0, 0.45, 1.0)
ROWS = 128  # largest number of latents whose errors are measured
TIMED = 20


def make_anchors(n: int, q: int, seed: int) -> Iterator[tuple[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    normal = rng.normal(size=(n, q))
    for scale in (0.05, 1, 4):
        yield f"Gaussian, scale {scale}", scale * normal
    yield "clusters, spread 1/5", rng.normal(size=(10, q))[rng.integers(0, 10, n)] + normal / 5
    yield "ten labels", normal[:10] / 2
    directions = rng.normal(size=(n // 2, q))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    for distance in (1e-2, 1e-4):
        pairs = [normal[: n // 2], normal[: n // 2] + distance * directions]
        yield f"pairs {distance:g} apart", np.concatenate(pairs)


def errors(anchors: np.ndarray, noise_scale: float, seed: int) -> list[float]:
    """Relative error of the latents of at most ROWS anchors, for each solver."""
    rng = np.random.default_rng(seed)
    own = rng.permutation(len(anchors))[:ROWS]
    anchors = np.float32(anchors)
    noise = np.float32(noise_scale * rng.normal(size=(len(own), anchors.shape[1])))
    with jax.enable_x64(True):
        doubles = np.float64(anchors), np.float64(noise)
        exact = np.asarray(compute_latents(*doubles, own, solver=EXACT))

    def error(solver: Solver) -> float:
        latents = np.asarray(compute_latents(anchors, noise, own, solver=solver))
        return float(np.linalg.norm(latents - exact) / np.linalg.norm(exact))

    return [error(solver) for solver in SOLVERS.values()]


def decoding_errors(anchors: np.ndarray, seed: int) -> list[float]:
    """Share of exact latents that each solver takes to another anchor than their own."""
    rng = np.random.default_rng(seed)
    own = rng.integers(0, len(anchors), 4 * ROWS)
    anchors = np.float32(anchors)
    noise = np.float32(rng.normal(size=(len(own), anchors.shape[1])))
    latents = compute_latents(anchors, noise, own, solver=AdamsBashforth(80))
    ends = (classify(latents, anchors, solver=solver) for solver in TOWARDS_ANCHORS.values())
    return [float(np.mean(np.asarray(indices) != own)) for indices in ends]


def relative_time(n: int, repeats: int) -> float:
    """Time of an Adams-Bashforth evaluation divided by the time of an Euler evaluation."""
    problem = make_problem(n, std=0.02)

    euler, adams = (
        shared.gradient(solver(TIMED)).lower(*problem).compile()
        for solver in (Euler, AdamsBashforth)
    )
    seconds(euler, *problem), seconds(adams, *problem)
    pairs = [(seconds(euler, *problem), seconds(adams, *problem)) for _ in range(repeats)]
    # Towards the prior, Euler skips the evaluation of its first step.
    return statistics.median(b / a for a, b in pairs) * (2 * TIMED - 1) / (2 * TIMED)


def main() -> None:
    parser = shared.parser(__doc__)
    parser.add_argument("--n", type=int, default=256, help="number of anchors")
    parser.add_argument("--q", type=int, default=64, help="latent dimension")
    parser.add_argument("--seeds", type=int, default=3, help="draws per row; the worst is shown")
    parser.add_argument("--workdir", type=Path, help="a run with context anchors")
    parser.add_argument(
        "--repeats", type=int, default=5, help="number of timings; the median is shown"
    )
    arguments = parser.parse_args()

    draws = [dict(make_anchors(arguments.n, arguments.q, s)) for s in range(arguments.seeds)]
    if arguments.workdir:
        trained = lzn_jax.load(arguments.workdir)
        for draw in draws:
            draw["a trained encoder's"] = np.asarray(trained.model.context["anchors"])
    print(f"n={arguments.n} q={arguments.q} seeds={arguments.seeds}, relative errors in %\n")
    print(f"{'anchors':24}{'α':>6}" + "".join(f"{name:>10}" for name in SOLVERS))
    for kind in draws[0]:
        for noise_scale in NOISE_SCALES:
            worst = np.max([errors(d[kind], noise_scale, s) for s, d in enumerate(draws)], axis=0)
            row = "".join(f"{100 * value:10.3f}" for value in worst)
            print(f"{kind:24}{noise_scale:6}{row}", flush=True)
    print(
        f"\nexact latents that end at an anchor that is not their own, in %\n\n{'anchors':24}",
        end="",
    )
    print("".join(f"{name:>10}" for name in TOWARDS_ANCHORS))
    for kind in draws[0]:
        worst = np.max([decoding_errors(d[kind], s) for s, d in enumerate(draws)], axis=0)
        print(f"{kind:24}" + "".join(f"{100 * value:10.1f}" for value in worst), flush=True)
    print("\ntime of an Adams-Bashforth evaluation relative to Euler, value and gradient")
    for n in (1024, 2048):
        print(f"n={n}: {relative_time(n, arguments.repeats):.2f}", flush=True)


if __name__ == "__main__":
    main()
