"""Rectified flow with and without latents at equal updates: quality, reconstruction, step counts.

    python benchmarks/generation_evidence.py --seeds 3
    python benchmarks/generation_evidence.py --config=configs/fashion_gen.py --seeds 3

The runs are also evaluated with 1 to 100 Euler steps and with RK45 (paper Figs. 17 and 24). Prints
tables, of the evaluations during training as well; writes evidence.json, steps.json and steps.png.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import evidence
import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, StrMethodFormatter

from lzn_jax.run import reporting

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
    """The runs, evaluated with each sampler."""

    def evaluated(name: str, seed: int, sampler: str) -> evidence.Summary:
        seeded = [f"--config.seed={seed}", *VARIANTS[name], *flags, *SAMPLERS[sampler]]
        workdir = arguments.folder / f"{name}_seed{seed}"
        return evidence.evaluate(arguments.config, workdir, seeded, sampler)

    return {
        sampler: {
            name: [evaluated(name, seed, sampler) for seed in range(arguments.seeds)]
            for name in arguments.variants
        }
        for sampler in SAMPLERS
    }


def by_updates(arguments: argparse.Namespace) -> dict[int, evidence.Results]:
    """What the runs were evaluated to be in training, by the number of updates."""
    found: dict[int, evidence.Results] = {}
    for name in arguments.variants:
        for seed in range(arguments.seeds):
            log = (arguments.folder / f"{name}_seed{seed}" / "metrics.jsonl").read_text()
            rows = [json.loads(line) for line in log.splitlines()]
            for row in (row for row in rows if "reconstruction_l2" in row):
                found.setdefault(row["step"], {}).setdefault(name, []).append(row)
    return found


def count_steps(axes: Axes) -> None:
    """Steps to the right and values upwards, both in logarithms, written as numbers."""
    axes.set(xscale="log", yscale="log")
    axes.set_xticks(EULER_STEPS, [str(n) for n in EULER_STEPS])
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.minorticks_off()
    axes.grid(color="0.9")
    axes.spines[["top", "right"]].set_visible(False)


def draw(path: Path, found: dict[str, evidence.Results]) -> None:
    """Quality against Euler steps, a panel a metric, the range of seeds shaded; RK45's dashed."""
    figure, panels = plt.subplots(1, len(CURVES), figsize=(9, 3.8), layout="constrained")
    for axes, (metric, label) in zip(panels, CURVES.items(), strict=True):
        for index, name in enumerate(found["rk45"]):
            color = f"C{index}"
            values = [[row[metric] for row in found[f"euler_{n}"][name]] for n in EULER_STEPS]
            low, mean, high = np.min(values, 1), np.mean(values, 1), np.max(values, 1)
            axes.plot(EULER_STEPS, mean, "o-", color=color, label=f"{name}, Euler")
            axes.fill_between(EULER_STEPS, low, high, color=color, alpha=0.2, linewidth=0)
            rk45 = np.mean([row[metric] for row in found["rk45"][name]])
            axes.axhline(rk45, color=color, linestyle="--", label=f"{name}, RK45")
        count_steps(axes)
        axes.set(xlabel="Euler steps", ylabel=label)
    panels[0].legend(frameon=False)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main() -> None:
    """Runs all variants and seeds, then prints the tables."""
    arguments, flags = evidence.arguments_of(__doc__, "configs/digits_gen.py", VARIANTS, seeds=3)
    evidence.print_table(evidence.run_all(arguments, VARIANTS, flags), METRICS)
    for step, results in by_updates(arguments).items():
        print(f"\nafter {step} updates, in training")
        evidence.print_table(results, CURVES)
    found = by_sampler(arguments, flags)
    for sampler, results in found.items():
        print(f"\n{sampler}")
        evidence.print_table(results, (*CURVES, "sampling_evaluations"))
    reporting.write_json(arguments.folder / "steps.json", found)
    draw(arguments.folder / "steps.png", found)


if __name__ == "__main__":
    main()
