"""Rectified flow with and without latents at equal updates: quality, reconstruction, step counts.

    python benchmarks/generation_evidence.py --seeds 3
    python benchmarks/generation_evidence.py --config=configs/fashion_gen.py --seeds 1

The first seed's runs are also evaluated with 1 to 100 Euler steps and with RK45 (paper Figs. 17
and 24). Prints tables; writes evidence.json, steps.json and steps.png.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import evidence
import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
from matplotlib.ticker import LogLocator, StrMethodFormatter

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
EULER_STEPS = (1, 2, 5, 10, 20, 50, 100)
SAMPLERS = {
    **{
        f"euler_{n}": ["--config.sampling.sampler=euler", f"--config.sampling.num_steps={n}"]
        for n in EULER_STEPS
    },
    "rk45": ["--config.sampling.sampler=rk45"],
}
CURVES = {"fd_features": "fd_features", "reconstruction_l2": "reconstruction l2"}


def by_sampler(arguments: argparse.Namespace, flags: Sequence[str]) -> dict[str, evidence.Results]:
    """The first seed's runs, evaluated with each sampler."""
    return {
        sampler: {
            name: [
                evidence.evaluate(
                    arguments.config,
                    arguments.folder / f"{name}_seed0",
                    ["--config.seed=0", *VARIANTS[name], *flags, *sampler_flags],
                    sampler,
                )
            ]
            for name in arguments.variants
        }
        for sampler, sampler_flags in SAMPLERS.items()
    }


def draw(path: Path, found: dict[str, evidence.Results]) -> None:
    """Quality against Euler steps, a panel a metric; RK45's as a dashed line."""
    figure, panels = plt.subplots(1, len(CURVES), figsize=(9, 3.8), layout="constrained")
    for axes, (metric, label) in zip(panels, CURVES.items(), strict=True):
        for index, name in enumerate(found["rk45"]):
            values = [found[f"euler_{n}"][name][0][metric] for n in EULER_STEPS]
            axes.plot(EULER_STEPS, values, "o-", color=f"C{index}", label=f"{name}, Euler")
            rk45 = found["rk45"][name][0][metric]
            axes.axhline(rk45, color=f"C{index}", linestyle="--", label=f"{name}, RK45")
        axes.set(xscale="log", yscale="log", xlabel="Euler steps", ylabel=label)
        axes.set_xticks(EULER_STEPS, [str(n) for n in EULER_STEPS])
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.minorticks_off()
        axes.grid(color="0.9")
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].legend(frameon=False)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main() -> None:
    """Runs all variants and seeds, then prints the tables."""
    arguments, flags = evidence.arguments_of(__doc__, "configs/digits_gen.py", VARIANTS, seeds=3)
    evidence.print_table(evidence.run_all(arguments, VARIANTS, flags), METRICS)
    found = by_sampler(arguments, flags)
    for sampler, results in found.items():
        print(f"\n{sampler}, seed 0")
        evidence.print_table(results, (*CURVES, "sampling_evaluations"))
    reporting.write_json(arguments.folder / "steps.json", found)
    draw(arguments.folder / "steps.png", found)


if __name__ == "__main__":
    main()
