"""Float32 errors of latents and gradients on anchors that are difficult for float32.

    python benchmarks/zoning_accuracy.py [--n 256] [--q 128] [--seeds 3]

Prints relative errors (Frobenius norm, worst of the seeds) of the latents and of the alignment
loss's gradient with respect to the anchors and to their partners. Each row is a kind of anchors,
each column a form: `lzn_jax.zoning.plain`, as the paper writes it, and `lzn_jax.zoning`. The
reference is the plain form in float64, which takes most of the time: about 4 minutes on 2 cores,
and 8 times as long with --n 512 --q 256.
"""

import jax
import numpy as np
import shared

from lzn_jax import zoning

FORMS = {  # arguments of `shared.gradient`, by number of steps
    "plain": lambda steps: {"form": zoning.plain, "num_steps": steps},
    "zoning": lambda steps: {"solver": zoning.Euler(steps)},
}
CASES = {
    "Gaussian": None,
    "clustered, std 1e-3, norm 10": None,
    **{f"pairs {d} apart per coordinate": float(d) for d in ("1e-3", "1e-4")},
    **{f"pairs {d} apart in norm": float(d) for d in ("1e-3", "1e-4")},
    "triplets 1e-4 apart in norm": 1e-4,
}


def near_copies(
    anchors: np.ndarray, distance: float, copies: int, rng: np.random.Generator
) -> np.ndarray:
    """The first anchors, and as many copies of each at the distance, as fit into their number."""
    first = anchors[: -(-len(anchors) // copies)]
    offsets = rng.normal(size=(copies - 1, *first.shape))
    offsets /= np.linalg.norm(offsets, axis=-1, keepdims=True)
    return np.concatenate([first, *(first + distance * offsets)])[: len(anchors)]


def make_anchors(case: str, n: int, q: int, rng: np.random.Generator) -> np.ndarray:
    anchors, distance = rng.normal(size=(n, q)), CASES[case]
    if case.startswith("clustered"):
        direction = rng.normal(size=q)
        anchors = 10 * direction / np.linalg.norm(direction) + 1e-3 * anchors
    if distance:
        distance *= np.sqrt(q) if case.endswith("coordinate") else 1
        anchors = near_copies(anchors, distance, 2 + case.startswith("triplets"), rng)
    return anchors.astype(np.float32)


def run(anchors, partners, noise, **setting):
    """Latents, and the loss's gradients with respect to anchors and partners, with scaled noise."""
    zone = shared.gradient(**setting)
    (_, latents), _ = zone(anchors, partners, noise)
    return latents, *zone(anchors, partners, np.float32(shared.NOISE_SCALE) * noise)[1]


def measure(case: str, n: int, q: int, steps: int, seed: int) -> np.ndarray:
    """Errors (forms, 3) of latents and both gradients."""
    rng = np.random.default_rng(seed)
    anchors = make_anchors(case, n, q, rng)
    partners = anchors + 0.5 * rng.normal(size=(n, q)).astype(np.float32)
    inputs = anchors, partners, rng.normal(size=(n, q)).astype(np.float32)
    with jax.enable_x64(True):
        doubles = (array.astype(np.float64) for array in inputs)
        truth = list(map(np.asarray, run(*doubles, **FORMS["plain"](steps))))
    found = (run(*inputs, **setting(steps)) for setting in FORMS.values())
    return np.array([list(map(shared.relative_error, outputs, truth)) for outputs in found])


def main() -> None:
    parser = shared.parser(__doc__)
    parser.add_argument("--n", type=int, default=256, help="number of anchors")
    parser.add_argument("--q", type=int, default=128, help="latent dimension")
    parser.add_argument("--steps", type=int, default=20, help="Euler's steps each way")
    parser.add_argument("--seeds", type=int, default=3, help="draws per case; the worst is shown")
    args = parser.parse_args()
    print(f"n={args.n} q={args.q} steps={args.steps} seeds={args.seeds}")
    names = [f"{quantity}, {form}" for form in FORMS for quantity in ("latents", "by a", "by b")]
    table = [["relative errors, gradients by anchors a and partners b", *names]]
    for case in CASES:
        draws = (measure(case, args.n, args.q, args.steps, seed) for seed in range(args.seeds))
        worst = np.max(list(draws), axis=0)
        table.append([case, *(f"{value:.1e}" for value in worst.ravel())])
        print(f"{len(table) - 1}/{len(CASES)} {case}", flush=True)
    shared.print_table(table)


if __name__ == "__main__":
    main()
