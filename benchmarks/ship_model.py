"""Makes the trained model in the package from a run of its config.

    python benchmarks/ship_model.py digits_text [--workdir=DIR]

The run is trained first, unless its work folder contains it. The model is stored in half precision,
and its card shows the metrics of the stored weights. Prints them beside the metrics of the run.
"""

import argparse
import json
from pathlib import Path

import lzn_jax
from lzn_jax import loading, share
from lzn_jax import main as command_line
from lzn_jax.modes import inference
from lzn_jax.release import shared_model


def main() -> None:
    """Trains, stores, measures and copies the model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", help="name of the config and of the model")
    parser.add_argument("--workdir", type=Path, help="folder of the run; default: results/NAME")
    flags = parser.parse_args()
    workdir = flags.workdir or Path("results") / flags.name
    if command_line.main([f"--config={flags.name}", f"--workdir={workdir}"]) != 0:
        raise SystemExit("the run did not end")
    summary = workdir / shared_model.SUMMARY_FILE
    whole = json.loads(summary.read_text())
    share.main([f"--workdir={workdir}", "--half"])
    half = lzn_jax.load(workdir / "shared")
    inference.evaluate(half, workdir)
    stored = json.loads(summary.read_text())
    for name, value in stored.items():
        print(f"{name:<40}{whole.get(name, float('nan')):>12.4f}{value:>12.4f}")
    folder = loading.SHIPPED / flags.name
    shared_model.write(folder, workdir, half, flags.name, is_half=True)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    print(f"{folder}: {size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
