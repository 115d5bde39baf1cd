"""Joint LZN against plain rectified flow on digits: accuracy, samples, reconstruction, over seeds.

    python benchmarks/digits_evidence.py --seeds 3

Runs the first command of README for each seed, and the baseline `--config.latent.enabled=False`;
prints a table of means and spreads and writes it as JSON. A finished run is not repeated, so the
command can be interrupted. About 8 minutes a seed on 2 CPU cores.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np

from lzn_jax import reporting

CONFIG = "configs/digits_joint.py"
VARIANTS = {"LZN": [], "RF": ["--config.latent.enabled=False"]}
METRICS = (
    "test_accuracy",
    "test_accuracy_batch",
    "sample_accuracy",
    "unconditional_sample_accuracy",
    "reconstruction_l2",
    "steps_per_second",
)


def run(variant: str, seed: int, folder: Path) -> dict[str, float]:
    """The summary of one run, with its wall time in seconds."""
    workdir = folder / f"{variant}_seed{seed}"
    if not (workdir / "goodput.json").exists():
        flags = [f"--config={CONFIG}", f"--workdir={workdir}", f"--config.seed={seed}"]
        command = [sys.executable, "-m", "lzn_jax.main", *flags, *VARIANTS[variant]]
        subprocess.run(command, check=True)
    seconds = json.loads((workdir / "goodput.json").read_text()).values()
    return json.loads((workdir / "summary.json").read_text()) | {"seconds": sum(seconds)}


def main() -> None:
    """Runs all variants and seeds, then prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=Path("results/digits_evidence"))
    arguments = parser.parse_args()
    results: dict[str, list[dict[str, float]]] = {name: [] for name in VARIANTS}
    for seed in range(arguments.seeds):
        for variant in VARIANTS:
            results[variant].append(run(variant, seed, arguments.folder))
    reporting.write_json(arguments.folder / "digits_evidence.json", results)

    print(f"{'mean ± std over seeds (values)':32s}" + "".join(f"{v:>40s}" for v in VARIANTS))
    for metric in (*METRICS, "seconds"):
        cells = [_cell([r[metric] for r in rows if metric in r]) for rows in results.values()]
        print(f"{metric:32s}" + "".join(f"{cell:>40s}" for cell in cells))


def _cell(values: list[float]) -> str:
    if not values:
        return "-"
    each = " ".join(f"{value:.4g}" for value in values)
    return f"{np.mean(values):.4f} ± {np.std(values):.4f} ({each})"


if __name__ == "__main__":
    main()
