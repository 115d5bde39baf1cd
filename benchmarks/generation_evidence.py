"""Rectified flow with and without latents at equal updates: quality, reconstruction, step counts.

    python benchmarks/generation_evidence.py --seeds 3
    python benchmarks/generation_evidence.py --config=configs/fashion_gen.py --seeds 1

Every run is also evaluated with fewer Euler steps (paper Figs. 17 and 24). Prints tables; writes
evidence.json and steps.json. About 4 minutes a run on 2 CPU cores with the default config.
"""

import argparse
from collections.abc import Sequence

import evidence

from lzn_jax import reporting

VARIANTS = {"LZN": [], "RF": ["--config.latent.enabled=False"]}
METRICS = (
    "fd_features",
    "precision",
    "recall",
    "kid",
    "reconstruction_l2",
    "sampling_evaluations",
    "steps_per_second",
    "seconds",
)
EULER_STEPS = (1, 2, 5, 10, 20, 50)


def by_steps(arguments: argparse.Namespace, flags: Sequence[str]) -> dict[int, evidence.Results]:
    """The first seed's runs, evaluated with each number of Euler steps."""
    found = {}
    for steps in EULER_STEPS:
        sampler = ["--config.sampling.sampler=euler", f"--config.sampling.num_steps={steps}"]
        found[steps] = {
            name: [
                evidence.evaluate(
                    arguments.config,
                    arguments.folder / f"{name}_seed0",
                    ["--config.seed=0", *VARIANTS[name], *flags, *sampler],
                )
            ]
            for name in arguments.variants
        }
    return found


def main() -> None:
    """Runs all variants and seeds, then prints the tables."""
    arguments, flags = evidence.arguments_of(__doc__, "configs/digits_gen.py", VARIANTS, seeds=3)
    evidence.print_table(evidence.run_all(arguments, VARIANTS, flags), METRICS)
    found = by_steps(arguments, flags)
    for steps, results in found.items():
        print(f"\n{steps} Euler steps, seed 0")
        evidence.print_table(results, ("fd_features", "reconstruction_l2"))
    reporting.write_json(arguments.folder / "steps.json", found)


if __name__ == "__main__":
    main()
