"""Quality against evaluations of the decoder: one pass beside the rectified flow's 1 to 50.

    python benchmarks/alone_evidence.py --seeds 3 --variants LZN
    python benchmarks/vae.py --seconds 540
    python benchmarks/one_pass.py

Trains `NAME_gen` with and without latents, unless generation_evidence.py has, evaluates the runs
with few and many Euler steps, and draws results/one_pass.png, a panel a data set, beside what the
other scripts wrote below results/. A data set whose autoencoder was not trained is drawn without.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import evidence
import matplotlib.pyplot as plt
import numpy as np
from generation_evidence import SAMPLERS, VARIANTS, count_steps
from matplotlib.axes import Axes

METRIC = "fd_features"
STEPS = (1, 2, 5, 10, 50)
FLOWS = {"RF": "rectified flow", "LZN": "rectified flow, told a latent"}
VAE, ALONE = "variational autoencoder", "LZN alone"
COLORS = dict(zip((*FLOWS.values(), VAE, ALONE), ("C7", "C0", "C2", "C3"), strict=True))


def read(folder: Path, name: str) -> dict[str, list[float]]:
    """Distances by what makes the samples: of the flows at STEPS, else of one pass."""

    def rows(path: str) -> Any:
        return json.loads((folder / path).read_text())

    found = {label: flow(folder, name, variant) for variant, label in FLOWS.items()}
    if (folder / f"vae/{name}_alone_seed0.json").exists():
        variants = rows(f"vae/{name}_alone_seed0.json").values()
        found[VAE] = [min(row[METRIC] for row in variants)]
    alone = rows(f"{name}_alone_evidence/evidence.json")["LZN"]
    return found | {ALONE: [float(np.mean([row[METRIC] for row in alone]))]}


def flow(folder: Path, name: str, variant: str) -> list[float]:
    """Distances of a rectified flow of seed 0, trained unless it has been, at STEPS."""
    config = f"configs/{name}_gen.py"
    workdir = folder / f"{name}_gen_evidence" / f"{variant}_seed0"
    flags = ["--config.seed=0", *VARIANTS[variant]]
    evidence.run(config, workdir, flags)
    samplers = [f"euler_{n}" for n in STEPS]
    return [
        evidence.evaluate(config, workdir, [*flags, *SAMPLERS[sampler]], sampler)[METRIC]
        for sampler in samplers
    ]


def draw(axes: Axes, name: str, found: dict[str, list[float]]) -> None:
    """One data set: the flows are lines, one pass is a point."""
    for label, values in found.items():
        style = "o-" if len(values) > 1 else "*"
        size = 5 if len(values) > 1 else 13
        kwargs = {"color": COLORS[label], "markersize": size, "label": label}
        axes.plot(STEPS[: len(values)], values, style, **kwargs)
    count_steps(axes)
    axes.set(title=name, xlabel="evaluations of the decoder a sample")


def main() -> None:
    """Draws and prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=Path("results"))
    parser.add_argument("--data", nargs="+", default=["digits", "fashion"])
    arguments = parser.parse_args()
    size = 4.5 * len(arguments.data), 4
    figure, panels = plt.subplots(1, len(arguments.data), figsize=size, layout="constrained")
    for axes, name in zip(np.atleast_1d(panels), arguments.data, strict=True):
        found = read(arguments.folder, name)
        draw(axes, name, found)
        for label, values in found.items():
            print(name, label, *(f"{value:.3g}" for value in values), sep="\t")
    np.atleast_1d(panels)[0].set_ylabel("fd_features")
    np.atleast_1d(panels)[0].legend(frameon=False)
    figure.savefig(arguments.folder / "one_pass.png", dpi=150)


if __name__ == "__main__":
    main()
