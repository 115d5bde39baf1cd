"""What the evidence scripts share: runs of `lzn_jax.main` over variants and seeds, and a table.

Runs are the real command line, one after the other. A finished run is not repeated, so a script
can be interrupted and goes on where it was.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from lzn_jax.run import reporting

Summary = dict[str, float]
Results = dict[str, list[Summary]]


def arguments_of(
    description: str | None, config: str, variants: Iterable[str], seeds: int
) -> tuple[argparse.Namespace, list[str]]:
    """Common arguments, and `--config.FIELD=VALUE` flags for every run."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", default=config)
    parser.add_argument("--seeds", type=int, default=seeds)
    parser.add_argument("--variants", nargs="+", choices=list(variants), default=list(variants))
    parser.add_argument("--folder", type=Path, help="default results/NAME_evidence")
    arguments, flags = parser.parse_known_args()
    if unknown := [flag for flag in flags if not flag.startswith("--config.")]:
        parser.error(f"unknown arguments: {' '.join(unknown)}")
    name = Path(arguments.config).stem
    arguments.folder = arguments.folder or Path("results") / f"{name}_evidence"
    return arguments, flags


def run(config: str, workdir: Path, flags: Sequence[str]) -> Summary:
    """The summary of one run, trained unless it has been, with its wall time in seconds."""
    if not _is_finished(workdir):
        _call(config, workdir, flags, "train")
    seconds = json.loads((workdir / "goodput.json").read_text())
    seconds.pop("starts", None)  # runs of earlier versions have none
    return _read(workdir / "summary.json") | {"seconds": sum(seconds.values())}


def evaluate(config: str, workdir: Path, flags: Sequence[str], name: str) -> Summary:
    """The summary of a run evaluated with other flags, kept as `name`; its own stays as it is."""
    own, other = workdir / "summary.json", workdir / f"summary_{name}.json"
    if not other.exists() or _read(other)["step"] != _read(own)["step"]:
        kept = own.read_bytes()
        try:
            _call(config, workdir, flags, "evaluate")
            own.rename(other)
        finally:
            own.write_bytes(kept)
    return _read(other)


def _call(config: str, workdir: Path, flags: Sequence[str], mode: str) -> None:
    command = [sys.executable, "-m", "lzn_jax.main", f"--config={config}", f"--mode={mode}"]
    subprocess.run([*command, f"--workdir={workdir}", *flags], check=True)


def _read(path: Path) -> Summary:
    summary: Summary = json.loads(path.read_text())
    return summary


def _is_finished(workdir: Path) -> bool:
    path = workdir / "summary.json"
    if not path.exists():
        return False
    config = json.loads((workdir / "config.json").read_text())
    return bool(_read(path)["step"] == config["training"]["num_steps"])


def run_all(
    arguments: argparse.Namespace, variants: Mapping[str, Sequence[str]], flags: Sequence[str]
) -> Results:
    """Every chosen variant with every seed; also written to evidence.json."""
    results: Results = {name: [] for name in arguments.variants}
    for seed in range(arguments.seeds):
        for name in arguments.variants:
            workdir = arguments.folder / f"{name}_seed{seed}"
            seeded = [f"--config.seed={seed}", *variants[name], *flags]
            results[name].append(run(arguments.config, workdir, seeded))
    reporting.write_json(arguments.folder / "evidence.json", results)
    return results


def print_table(results: Results, metrics: Iterable[str]) -> None:
    """Metrics as rows, variants as columns; mean, sample standard deviation, values of seeds."""
    table = [["mean ± std over seeds (values)", *results]]
    for metric in metrics:
        cells = [_cell([row[metric] for row in rows if metric in row]) for rows in results.values()]
        if set(cells) != {"-"}:
            table.append([metric, *cells])
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for row in table:
        print("  ".join(f"{cell:<{width}s}" for cell, width in zip(row, widths, strict=True)))


def _cell(values: list[float]) -> str:
    if not values:
        return "-"
    each = " ".join(f"{value:.4g}" for value in values)
    spread = f" ± {np.std(values, ddof=1):.4f}" if len(values) > 1 else ""
    return f"{np.mean(values):.4f}{spread} ({each})"
