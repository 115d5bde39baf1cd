"""Float32 errors of latents and gradients on anchors that are difficult for float32.

    python benchmarks/zoning_accuracy.py [--n 256] [--q 128] [--seeds 3] [--solver adams]

Prints relative errors (Frobenius norm, worst of the seeds) of the latents and of the alignment
loss's gradient with respect to the anchors and to their partners. Each row is a kind of anchors,
each column a form: `lzn_jax.zoning.plain`, as the paper writes it, and `lzn_jax.zoning`. The
reference is the plain form in float64, which takes most of the time: about 4 minutes on 2 cores,
and 8 times as long with --n 512 --q 256. Adams-Bashforth has no plain form: its reference is
`lzn_jax.zoning` in float64.
"""

import jax
import numpy as np
import shared

from lzn_jax import zoning

CASES = (
    "Gaussian",
    "clustered, std 1e-3, norm 10",
    "pairs 1e-3 apart per coordinate",
    "pairs 1e-4 apart per coordinate",
    "pairs 1e-3 apart in norm",
    "pairs 1e-4 apart in norm",
    "triplets 1e-4 apart in norm",
)


def make_anchors(case: str, n: int, q: int, rng: np.random.Generator) -> np.ndarray:
    anchors = rng.normal(size=(n, q))
    if case.startswith("clustered"):
        direction = rng.normal(size=q)
        anchors = 10 * direction / np.linalg.norm(direction) + 1e-3 * anchors
    if case.startswith(("pairs", "triplets")):
        copies = 2 if case.startswith("pairs") else 3
        first = anchors[: -(-n // copies)]
        offsets = rng.normal(size=(copies - 1, *first.shape))
        if case.endswith("norm"):
            offsets /= np.linalg.norm(offsets, axis=-1, keepdims=True)
        near = first + float(case.split()[1]) * offsets
        anchors = np.concatenate([first, *near])[:n]
    return anchors.astype(np.float32)


def run(anchors, partners, noise, scaled_noise, *, form, solver: zoning.Solver):
    """Latents, and the loss's gradients with respect to anchors and partners, with scaled noise."""
    zone = shared.gradient(solver, form)
    (_, latents), _ = zone(anchors, partners, noise)
    return latents, zone(anchors, partners, scaled_noise)[1]


def relative_errors(outputs, truth) -> list[float]:
    """Relative errors of the latents, the anchors' gradient and the partners' gradient."""

    def relative_error(value, reference):
        difference = np.asarray(value, np.float64) - reference
        return float(np.linalg.norm(difference) / np.linalg.norm(reference))

    return jax.tree.leaves(jax.tree.map(relative_error, outputs, truth))


def measure(case: str, n: int, q: int, forms: list, solver: zoning.Solver, seed: int) -> np.ndarray:
    """Errors (forms, 3) of latents and both gradients; the reference uses the first form."""
    rng = np.random.default_rng(seed)
    anchors = make_anchors(case, n, q, rng)
    partners = anchors + 0.5 * rng.normal(size=(n, q)).astype(np.float32)
    noise = rng.normal(size=(n, q)).astype(np.float32)
    inputs = (anchors, partners, noise, np.float32(shared.NOISE_SCALE) * noise)
    with jax.enable_x64(True):
        doubles = (array.astype(np.float64) for array in inputs)
        truth = jax.tree.map(np.asarray, run(*doubles, form=forms[0], solver=solver))
    results = (run(*inputs, form=form, solver=solver) for form in forms)
    return np.array([relative_errors(outputs, truth) for outputs in results])


def main() -> None:
    parser = shared.parser(__doc__)
    parser.add_argument("--n", type=int, default=256, help="number of anchors")
    parser.add_argument("--q", type=int, default=128, help="latent dimension")
    parser.add_argument("--solver", choices=zoning.SOLVERS, default="euler")
    parser.add_argument("--steps", type=int, default=20, help="solver steps each way")
    parser.add_argument("--seeds", type=int, default=3, help="draws per case; the worst is shown")
    args = parser.parse_args()
    solver = zoning.SOLVERS[args.solver](args.steps)
    forms = [zoning] if args.solver == "adams" else [zoning.plain, zoning]

    errors = {}
    for number, case in enumerate(CASES, 1):
        draws = [measure(case, args.n, args.q, forms, solver, seed) for seed in range(args.seeds)]
        errors[case] = np.max(draws, axis=0)
        print(f"{number}/{len(CASES)} {case}", flush=True)

    print(f"\n{args.solver} n={args.n} q={args.q} steps={args.steps} seeds={args.seeds}")
    print("relative errors")
    for quantity, title in enumerate(("latents", "gradient, anchors", "gradient, partners")):
        names = (form.__name__.rpartition(".")[2] for form in forms)
        print(f"\n{title:34}" + "".join(f"{name:>16}" for name in names))
        for case, values in errors.items():
            print(f"{case:34}" + "".join(f"{value:16.1e}" for value in values[:, quantity]))


if __name__ == "__main__":
    main()
