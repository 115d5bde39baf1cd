"""Quality against evaluations of the decoder: one pass beside the rectified flow's 1 to 100.

    python benchmarks/generation_evidence.py --seeds 1
    python benchmarks/alone_evidence.py --seeds 3 --variants LZN
    python benchmarks/vae.py --seconds 540
    python benchmarks/one_pass.py

Draws results/one_pass.png of what the others wrote below results/, and prints its numbers. A panel
a data set: `fashion` needs the first two with the config of that name, and its VAE.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from generation_evidence import EULER_STEPS, count_steps
from matplotlib.axes import Axes

METRIC = "fd_features"
FLOWS = {"RF": "rectified flow", "LZN": "rectified flow, told a latent"}


def read(folder: Path, name: str) -> dict[str, list[float]]:
    """Distances by what makes the samples: of the flows at EULER_STEPS, else of one pass."""

    def rows(path: str) -> Any:
        return json.loads((folder / path).read_text())

    steps = rows(f"{name}_gen_evidence/steps.json")
    found = {
        label: [_mean(steps[f"euler_{n}"][variant]) for n in EULER_STEPS]
        for variant, label in FLOWS.items()
    }
    variants = rows(f"vae/{name}_alone_seed0.json").values()
    return found | {
        "variational autoencoder": [min(row[METRIC] for row in variants)],
        "LZN alone": [_mean(rows(f"{name}_alone_evidence/evidence.json")["LZN"])],
    }


def _mean(rows: list[dict[str, float]]) -> float:
    return float(np.mean([row[METRIC] for row in rows]))


def draw(axes: Axes, name: str, found: dict[str, list[float]]) -> None:
    """One data set: the flows are lines, one pass is a point."""
    for label, values in found.items():
        style = "o-" if len(values) > 1 else "*"
        size = 5 if len(values) > 1 else 13
        axes.plot(EULER_STEPS[: len(values)], values, style, markersize=size, label=label)
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
