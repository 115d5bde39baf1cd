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

import functools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import jax
import numpy as np
import shared

import lzn_jax
from lzn_jax.zoning import AdamsBashforth, DPMSolver, Euler, Solver, classify, compute_latents

EXACT = AdamsBashforth(640)
SOLVERS = {
    "Euler 20": Euler(20),
    "DPM 20": DPMSolver(20),
    **{f"Adams {steps}": AdamsBashforth(steps) for steps in (5, 10, 20, 40)},
}
TOWARDS_ANCHORS: dict[str, Solver] = {
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
    for distance in (1e-2, 1e-4):
        yield f"pairs {distance:g} apart", shared.near_copies(normal, distance, 2, rng)


def errors(anchors: np.ndarray, noise_scale: float, seed: int) -> list[float]:
    """Relative error of the latents of at most ROWS anchors, for each solver."""
    rng = np.random.default_rng(seed)
    own = rng.permutation(len(anchors))[:ROWS]
    anchors = np.float32(anchors)
    noise = np.float32(noise_scale * rng.normal(size=(len(own), anchors.shape[1])))
    with jax.enable_x64(True):
        doubles = np.float64(anchors), np.float64(noise)
        exact = np.asarray(compute_latents(*doubles, own, solver=EXACT))
    found = (compute_latents(anchors, noise, own, solver=solver) for solver in SOLVERS.values())
    return [shared.relative_error(latents, exact) for latents in found]


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
    problem = shared.make_problem(n, std=0.02)
    solvers = Euler(TIMED), AdamsBashforth(TIMED)
    calls = [functools.partial(shared.gradient(solver), *problem) for solver in solvers]
    euler, adams = shared.in_turns(*calls, repeats=repeats).T
    # Towards the prior, Euler skips the evaluation of its first step.
    return float(np.median(adams / euler)) * (2 * TIMED - 1) / (2 * TIMED)


def print_worst(
    title: str,
    solvers: Mapping[str, Solver],
    draws: list[dict[str, np.ndarray]],
    measure: Callable[[np.ndarray, int], list[float]],
) -> None:
    """Prints the worst share of the draws, for each kind of anchors and solver, in %."""
    table = [[title, *solvers]]
    for kind in draws[0]:
        worst = np.max([measure(draw[kind], seed) for seed, draw in enumerate(draws)], axis=0)
        table.append([kind, *(f"{100 * value:.3f}" for value in worst)])
    shared.print_table(table)
    print(flush=True)


def main() -> None:
    parser = shared.parser(__doc__)
    parser.add_argument("--n", type=int, default=256, help="number of anchors")
    parser.add_argument("--q", type=int, default=64, help="latent dimension")
    parser.add_argument("--seeds", type=int, default=3, help="draws per row; the worst is shown")
    parser.add_argument("--workdir", type=Path, help="a run with context anchors")
    parser.add_argument("--repeats", type=int, default=5, help="timings; the median is shown")
    arguments = parser.parse_args()
    draws = [dict(make_anchors(arguments.n, arguments.q, s)) for s in range(arguments.seeds)]
    if arguments.workdir:
        trained = np.asarray(lzn_jax.load(arguments.workdir).model.context["anchors"])
        draws = [draw | {"a trained encoder's": trained} for draw in draws]
    print(f"n={arguments.n} q={arguments.q} seeds={arguments.seeds}, in %\n")
    for scale in NOISE_SCALES:
        title = f"errors of latents, α = {scale}"
        print_worst(title, SOLVERS, draws, lambda a, s, scale=scale: errors(a, scale, s))
    print_worst("exact latents that end elsewhere", TOWARDS_ANCHORS, draws, decoding_errors)
    print("time of an Adams-Bashforth evaluation relative to Euler, value and gradient")
    for n in (1024, 2048):
        print(f"n={n}: {relative_time(n, arguments.repeats):.2f}", flush=True)


if __name__ == "__main__":
    main()
