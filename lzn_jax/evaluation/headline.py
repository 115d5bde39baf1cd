"""The most important metrics of an evaluation, which a run prints last."""

import fnmatch
import itertools
from collections.abc import Mapping

SHOWN = 5
# Patterns of metrics of an evaluation, most important first; * is a data type.
OF_EVALUATION = (
    *("test_accuracy", "linear_probe_top1", "knn_top1"),
    *("retrieval_*_to_text_r1", "retrieval_text_to_*_r1", "fid", "fd_features"),
    *("sample_accuracy", "unconditional_sample_accuracy", "*_to_text_exact", "*_mae"),
    *("reconstruction_l2", "nearest_ratio", "recognised", "precision", "recall"),
    *("test_accuracy_batch", "linear_probe_top5", "linear_probe_top1_head"),
    *("knn_top1_head", "knn_top1_latent"),
)


def most_important(metrics: Mapping[str, object], count: int) -> list[str]:
    """Names of at most `count` metrics, most important first, or the first if none is known."""
    matches = (fnmatch.filter(metrics, pattern) for pattern in OF_EVALUATION)
    return (list(itertools.chain.from_iterable(matches)) or list(metrics))[:count]


def of_evaluation(step: int, metrics: dict[str, float], shown: list[str]) -> list[str]:
    """A line with step and data set, followed by the metrics `shown`."""
    width = max(map(len, shown), default=0)
    sets = (name for name in metrics if name.endswith("_examples"))
    measured = "".join(f" on {metrics[name]:.0f} {name.replace('_', ' ')}" for name in sets)
    first = f"step {step}{measured}, {len(shown)} of {len(metrics)} metrics (all: summary.json):"
    return [first, *(f"  {name:<{width}}  {metrics[name]:.4g}" for name in shown)]
