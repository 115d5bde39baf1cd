"""From samples of one data type to samples of another (--mode=translate)."""

import csv
import io
import logging
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from lzn_jax import data, plots
from lzn_jax.configuration import UserError
from lzn_jax.run import reporting
from lzn_jax.trained_model import TrainedModel, restore

_log = logging.getLogger(__name__)


def translate(
    config: ConfigDict, workdir: Path, samples_from: str | None, source: str, target: str
) -> None:
    """Translates the test samples, or `samples_from`; writes them and a figure of both sides.

    Images become translations.npz, labels and texts translations.csv.
    """
    trained = restore(config, workdir)
    trained.tasks.check_pair(source, target)
    samples = _read(trained, samples_from, source)
    found = trained.translate(samples, source, target)
    if target == "image":
        reporting.write_arrays(workdir / "translations.npz", images=found)
    else:
        named = range(len(found)) if source == "image" else samples
        table = io.StringIO()
        writer = csv.writer(table, lineterminator="\n")
        writer.writerow(["index", "source", "target"])
        writer.writerows(zip(range(len(found)), named, found, strict=True))
        reporting.write_bytes(workdir / "translations.csv", table.getvalue().encode())
    names = np.array(data.label_names(config.data))
    samples, found = (
        names[side[: plots.MAX_PAIRS]] if kind == "label" else side[: plots.MAX_PAIRS]
        for kind, side in ((source, samples), (target, found))
    )
    path = workdir / "figures" / "translations.png"
    plots.translations(path, samples, found, title=f"From {source} to {target}")
    _log.info("%s: from %s to %s", path, source, target)


def _read(trained: TrainedModel, samples_from: str | None, source: str) -> Any:
    """Samples that a user names: a text, a .txt file, an image or a folder, or labels by name.

    None: the test samples, of texts those that the run can say.
    """
    config = trained.config
    if samples_from is None:
        test = data.load(config.data, "test")
        if source == "text":
            assert test.texts is not None  # of a run that has trained on texts
            return test.texts[trained.tasks.tokenizer.sayable(test.texts)]
        return {"image": test.images, "label": test.labels}[source]
    if source == "image":
        return data.read_images(samples_from, config.data)
    if source == "label":
        return _labels(samples_from, data.label_names(config.data))
    if not samples_from.endswith(".txt"):
        return [samples_from]
    try:
        lines = Path(samples_from).read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{samples_from} cannot be read: {error}") from error
    if not (texts := [line.strip() for line in lines if line.strip()]):
        raise UserError(f"{samples_from} holds no text")
    return texts


def _labels(text: str, names: list[str]) -> np.ndarray:
    """Labels of a list of names or numbers; a name counts before a number."""
    parts = [part.strip() for part in text.split(",")]
    try:
        return np.array([names.index(part) if part in names else int(part) for part in parts])
    except ValueError as error:
        some = ",".join(names[:3])
        raise UserError(
            f"--input must be labels by name or number, such as {some}, got {text}"
        ) from error
