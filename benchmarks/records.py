"""Losses of 20 updates bit by bit, to hold a change that should change no number against.

    python benchmarks/records.py before.json
    python benchmarks/records.py after.json --like=before.json

Records are equal on one machine with one version of JAX. Raises SystemExit where they differ.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import shared

CONFIGS = ("digits_joint", "digits_text", "digits_alone", "digits_repr")
UPDATES = 20
FLAGS = (
    f"training.num_steps={UPDATES}",
    "training.log_every_steps=1",
    f"evaluation.every_steps={UPDATES}",
    f"checkpoint.every_steps={UPDATES}",
    "evaluation.measurements_of_types=False",
)
LOSSES = ("loss", "gradient_norm")


def record(config: str) -> dict[str, list[str]]:
    """Losses and gradient norm of each update by name, in hexadecimal."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "lzn_jax.main", f"--config=configs/{config}.py"]
        command += [f"--workdir={folder}/run", *(f"--config.{flag}" for flag in FLAGS)]
        subprocess.run(command, check=True)
        lines = (Path(folder) / "run" / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    names = [name for name in rows[0] if name.endswith(LOSSES)]
    return {name: [float(row[name]).hex() for row in rows if name in row] for name in names}


def main() -> None:
    parser = shared.parser(__doc__)
    parser.add_argument("path", type=Path)
    parser.add_argument("--like", type=Path, help="a record to compare with")
    flags = parser.parse_args()
    found = {config: record(config) for config in CONFIGS}
    flags.path.write_text(json.dumps(found, indent=1))
    if flags.like:
        expected = json.loads(flags.like.read_text())
        differing = [config for config in CONFIGS if found[config] != expected[config]]
        if differing:
            raise SystemExit(f"other numbers: {', '.join(differing)}")
        print("the same bit by bit")


if __name__ == "__main__":
    main()
