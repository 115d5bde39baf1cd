"""Tables of README and docs, from the numbers in docs/results/.

    python benchmarks/tables.py

Rewrites each table that follows `<!-- results KIND NAME ... -->`, up to the next empty line: a
`summary` of several studies, the `whole` of one, or the `choice` of its settings. The numbers are
written by `evidence.py --keep` and `choose.py`. A difference is "level" if the ranges of the seeds
overlap.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("README.md", "docs/results.md")
MARK = re.compile(r"(<!-- results ([\w ]+) -->\n\n).*?(?=\n\n|\n?\Z)", re.DOTALL)


class Metric(NamedTuple):
    """Its words, decimals, and whether more is better."""

    name: str
    decimals: int
    more: bool


METRICS = {
    "test_accuracy": Metric("test accuracy", 3, True),
    "test_accuracy_batch": Metric("batch", 3, True),
    "test_accuracy_alpha_1": Metric("random points", 3, True),
    "sample_accuracy": Metric("recognised", 3, True),
    "fd_features": Metric("fd_features", 2, False),
    "precision": Metric("precision", 3, True),
    "recall": Metric("recall", 3, True),
    "reconstruction_l2": Metric("reconstruction", 3, False),
    "nearest_ratio": Metric("nearest_ratio", 3, True),
    "linear_probe_top1": Metric("linear probe, backbone", 3, True),
    "linear_probe_top1_head": Metric("linear probe, head", 3, True),
    "linear_probe_top1_latent_centre": Metric("linear probe, latent, α = 0", 3, True),
    "knn_top1": Metric("neighbours, backbone", 3, True),
    "knn_top1_head": Metric("neighbours, head", 3, True),
    "knn_top1_latent_centre": Metric("neighbours, latent, α = 0", 3, True),
    "image_to_text_exact": Metric("image to text, whole caption", 3, True),
    "text_to_image_exact": Metric("text to image, whole caption", 3, True),
    "retrieval_image_to_text_r1": Metric("image to text, recall at 1", 3, True),
    "retrieval_text_to_image_r1": Metric("text to image, recall at 1", 3, True),
}
# What README shows of a study, by the ending of its name.
SUMMARY = {
    "joint": ("test_accuracy", "fd_features"),
    "gen": ("fd_features", "reconstruction_l2"),
    "repr": ("linear_probe_top1",),
    "text": ("retrieval_image_to_text_r1", "retrieval_text_to_image_r1"),
    "alone": ("fd_features", "sample_accuracy"),
}
BASELINES = {
    "RF": "rectified flow without latents",
    "SimCLR": "SimCLR",
    "InfoNCE": "CLIP's loss",
    "no_generation": "classification alone",
    "untrained": "untrained network",
    "pixels": "raw pixels",
}


def read(name: str) -> dict[str, Any]:
    """The numbers of a study."""
    found: dict[str, Any] = json.loads((ROOT / f"docs/results/{name}.json").read_text())
    return found


def number(values: Sequence[float], decimals: int) -> str:
    """Mean ± sample standard deviation."""
    mean = f"{np.mean(values):.{decimals}f}"
    return f"{mean} ± {np.std(values, ddof=1):.{decimals}f}" if len(values) > 1 else mean


def finding(own: Sequence[float], other: Sequence[float], *, more: bool) -> str:
    """What the seeds say of two variants."""
    if min(own) <= max(other) and min(other) <= max(own):
        return "level"
    return "better" if (np.mean(own) > np.mean(other)) == more else "worse"


def compared(name: str, metrics: Sequence[str]) -> list[list[str]]:
    """Rows of a study: metric, LZN, the first baseline that has the metric, its result, finding."""
    variants = {variant: row["metrics"] for variant, row in read(name)["variants"].items()}
    rows = []
    for key in metrics:
        metric = METRICS[key]
        if key not in variants["LZN"]:
            continue
        own: Sequence[float] = variants["LZN"][key]
        row = [metric.name, number(own, metric.decimals)]
        baseline = next((each for each in BASELINES if key in variants.get(each, ())), None)
        if baseline is None:
            rows.append([*row, "-", "-", "-"])
        else:
            other = variants[baseline][key]
            found = finding(own, other, more=metric.more)
            rows.append([*row, BASELINES[baseline], number(other, metric.decimals), found])
    return rows


def summary(*names: str) -> list[list[str]]:
    """Table of several studies."""
    rows = [["config", "metric", "LZN", "baseline", "its result", "LZN is"]]
    for name in names:
        for row in compared(name, SUMMARY[name.rpartition("_")[2]]):
            rows.append([f"`{name}`", *row])
    return rows


def whole(name: str) -> list[list[str]]:
    """Table of a study: all metrics, and each variant with the values of its seeds."""
    found = read(name)
    variants: Mapping[str, Any] = found["variants"]
    heads = [BASELINES.get(each, each) for each in variants]
    rows = [["metric", *heads, f"seeds {', '.join(map(str, found['seeds']))}: LZN"]]
    for key, metric in METRICS.items():
        values = [row["metrics"].get(key) for row in variants.values()]
        if any(each is not None for each in values):
            cells = ["-" if each is None else number(each, metric.decimals) for each in values]
            own = variants["LZN"]["metrics"][key]
            rows.append([metric.name, *cells, ", ".join(f"{v:.{metric.decimals}f}" for v in own)])
    return rows


def choices(name: str) -> list[list[str]]:
    """Table of all settings that were compared for a config and its baseline, best first."""
    arms: Mapping[str, Any] = read(f"{name}_choice")["arms"]
    metrics = [key for key in METRICS if any(key in s[0]["metrics"] for s in arms.values())]
    rows = [["", "setting", *(METRICS[key].name for key in metrics), "mean rank"]]
    for arm, settings in arms.items():
        for row in settings:
            cells = [
                ", ".join(f"{v:.{METRICS[key].decimals}f}" for v in row["metrics"].get(key, ()))
                for key in metrics
            ]
            setting = " ".join(f"`{each}`" for each in row["setting"])
            rows.append([arm, setting, *cells, f"{row['mean_rank']:g}"])
    return rows


TABLES: Mapping[str, Callable[..., list[list[str]]]] = {
    "summary": summary,
    "whole": whole,
    "choice": choices,
}


def markdown(rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])


def rewritten(text: str) -> str:
    """A page with the tables of today's numbers."""

    def table(match: re.Match[str]) -> str:
        kind, *names = match[2].split()
        return match[1] + markdown(TABLES[kind](*names))

    return MARK.sub(table, text)


def main() -> None:
    for page in PAGES:
        path = ROOT / page
        path.write_text(rewritten(path.read_text()))


if __name__ == "__main__":
    main()
