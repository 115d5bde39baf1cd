"""--mode=translate: samples of one data type to samples of another."""

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
    """Translates the test samples, or `samples_from`; writes a figure of sources and targets.

    Writes images to translations.npz, and labels and texts to translations.csv.
    """
    trained = restore(config, workdir)
    trained.check_pair(source, target)
    types = trained.space.types
    if samples_from is None:
        test = data.load(config.data, "test")
        rows = types[source].readable(test)  # texts need tokens
        samples = types[source].samples(test if len(rows) == len(test.labels) else test.at(rows))
        names = types[source].names(samples)
    else:
        samples, names = types[source].named(samples_from)
    translated = trained.translate(samples, source, target)
    if np.ndim(translated) > 1:
        reporting.write_arrays(workdir / "translations.npz", **{types[target].output: translated})
    else:
        indices = range(len(translated))
        named = [name or index for name, index in zip(names, indices, strict=True)]
        sources = named if np.ndim(samples) > 1 else samples
        table = zip(indices, sources, translated, strict=True)
        reporting.write_csv(workdir / "translations.csv", ["index", "source", "target"], table)
    samples, translated = (
        types[kind].shown(side[: plots.MAX_PAIRS])
        for kind, side in ((source, samples), (target, translated))
    )
    path = workdir / "figures" / "translations.png"
    plots.translations(path, samples, translated, title=f"From {source} to {target}")
    _log.info("%s: from %s to %s", path, source, target)
