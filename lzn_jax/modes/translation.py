"""From samples of one data type to samples of another (--mode=translate)."""

import csv
import io
import logging
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from lzn_jax import data, plots
from lzn_jax.loading import restore
from lzn_jax.run import reporting

_log = logging.getLogger(__name__)


def translate(
    config: ConfigDict, workdir: Path, samples_from: str | None, source: str, target: str
) -> None:
    """Translates the test samples, or `samples_from`; writes them and a figure of both sides.

    Images become translations.npz, labels and texts translations.csv.
    """
    trained = restore(config, workdir)
    trained.check_pair(source, target)
    types = trained.space.types
    if samples_from is None:
        test = data.load(config.data, "test")
        rows = types[source].readable(test)  # of texts those with tokens
        samples = types[source].samples(test if len(rows) == len(test.labels) else test.at(rows))
    else:
        samples = types[source].parse(samples_from)
    found = trained.translate(samples, source, target)
    if np.ndim(found) > 1:
        reporting.write_arrays(workdir / "translations.npz", **{types[target].output: found})
    else:
        named = range(len(found)) if np.ndim(samples) > 1 else samples
        table = io.StringIO()
        writer = csv.writer(table, lineterminator="\n")
        writer.writerow(["index", "source", "target"])
        writer.writerows(zip(range(len(found)), named, found, strict=True))
        reporting.write_bytes(workdir / "translations.csv", table.getvalue().encode())
    samples, found = (
        types[kind].shown(side[: plots.MAX_PAIRS])
        for kind, side in ((source, samples), (target, found))
    )
    path = workdir / "figures" / "translations.png"
    plots.translations(path, samples, found, title=f"From {source} to {target}")
    _log.info("%s: from %s to %s", path, source, target)
