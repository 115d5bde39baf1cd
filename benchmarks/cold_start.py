"""Seconds from a cold start of the command to 100 samples on the disk, compiled programs cached.

    python benchmarks/cold_start.py [--config=configs/digits_joint.py] [--repeats=3]

Trains a run of 20 steps in FOLDER unless there is one, then times
`python -m lzn_jax.main --mode=sample` with 100 samples in fresh processes: the first one fills the
cache of compiled programs in FOLDER. Goal: below 30 s on two CPU cores.

Measured: 6.2 to 6.5 s.
"""

import argparse
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

NUM_SAMPLES = 100


def command(config: str, workdir: Path, *flags: str) -> list[str]:
    return [
        sys.executable,
        "-m",
        "lzn_jax.main",
        f"--config={config}",
        f"--workdir={workdir}",
        *flags,
    ]


def sample(config: str, workdir: Path) -> tuple[float, float]:
    """Seconds of wall and of processor time that one process takes."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.perf_counter()
    flags = ("--mode=sample", f"--config.evaluation.num_samples={NUM_SAMPLES}")
    subprocess.run(command(config, workdir, *flags), check=True, stderr=subprocess.DEVNULL)
    wall = time.perf_counter() - started
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    with np.load(workdir / "samples.npz") as samples:
        assert len(samples["images"]) == NUM_SAMPLES
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", default="configs/digits_joint.py")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=Path("results/cold_start"))
    arguments = parser.parse_args()
    workdir = arguments.folder / "run"
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(arguments.folder / "compiled")
    if not (workdir / "checkpoints" / "20").is_dir():
        flags = [f"--config.{name}=20" for name in ("training.num_steps", "evaluation.num_samples")]
        subprocess.run(command(arguments.config, workdir, *flags), check=True)
    for name in ("first", *["cached"] * arguments.repeats):
        wall, busy = sample(arguments.config, workdir)
        print(f"{name}: {wall:.1f} s, {busy:.1f} s of processors", flush=True)


if __name__ == "__main__":
    main()
