"""The most important metrics, for progress bars and logs."""

import fnmatch
import itertools
from collections.abc import Mapping
from typing import Any

SHOWN = 5
# Patterns of metrics of an evaluation, most important first; * is a data type.
OF_EVALUATION = (
    "test_accuracy",
    "linear_probe_top1",
    "knn_top1",
    "retrieval_*_to_text_r1",
    "retrieval_text_to_*_r1",
    "fid",
    "fd_features",
    "sample_accuracy",
    "unconditional_sample_accuracy",
    "*_to_text_exact",
    "*_to_property_mae",
    "reconstruction_l2",
    "nearest_ratio",
    "recognised",
    "precision",
    "recall",
    "test_accuracy_batch",
    "linear_probe_top5",
    "linear_probe_top1_head",
    "knn_top1_head",
    "knn_top1_latent",
)
# Metric of an update shown with the loss; with several alignments, the first one's.
OF_UPDATE = "assignment_accuracy"


def of_update(metrics: Mapping[str, float]) -> str:
    """Loss and assignment accuracy of an update, for a progress bar."""
    shown = ["loss", *[name for name in metrics if name.startswith(OF_UPDATE)][:1]]
    return ", ".join(f"{name.replace('_', ' ')} {metrics[name]:.4f}" for name in shown)


def most_important(metrics: Mapping[str, Any], count: int) -> list[str]:
    """Names of at most `count` metrics, most important first; the first ones if none is known."""
    matches = (fnmatch.filter(metrics, pattern) for pattern in OF_EVALUATION)
    return (list(itertools.chain.from_iterable(matches)) or list(metrics))[:count]


def of_evaluation(step: int, metrics: Mapping[str, float], file: str = "summary.json") -> list[str]:
    """A line with step, data set and file of all metrics, then the SHOWN most important ones."""
    shown = most_important(metrics, SHOWN)
    width = max(map(len, shown), default=0)
    sets = (name for name in metrics if name.endswith("_examples"))
    measured = "".join(f" on {metrics[name]:.0f} {name.replace('_', ' ')}" for name in sets)
    first = f"step {step}{measured}, {len(shown)} of {len(metrics)} metrics (all: {file}):"
    return [first, *(f"  {name:<{width}}  {metrics[name]:.4g}" for name in shown)]
