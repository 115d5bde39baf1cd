"""From samples of one data type to samples of another (--mode=translate)."""

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from lzn_jax import data, plots
from lzn_jax.configuration import UserError
from lzn_jax.run import reporting
from lzn_jax.trained_model import restore


def translate(
    config: ConfigDict, workdir: Path, samples_from: str | None, source: str, target: str
) -> None:
    """Translates the test samples, or `samples_from`; writes them and a figure of both sides.

    Images become translations.npz, labels and texts translations.csv.
    """
    trained = restore(config, workdir)
    trained.tasks.check_pair(source, target)
    samples = _read(config, samples_from, source)
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
    shown = samples[: plots.MAX_PAIRS], found[: plots.MAX_PAIRS]
    path = workdir / "figures" / "translations.png"
    plots.translations(path, *shown, title=f"From {source} to {target}")


def _read(config: ConfigDict, samples_from: str | None, source: str) -> Any:
    """Samples that a user names: a text, a .txt file, an image or a folder, or labels."""
    if samples_from is None:
        test = data.load(config.data, "test")
        return {"image": test.images, "label": test.labels, "text": test.texts}[source]
    if source == "image":
        return data.read_images(samples_from, config.data)
    if source == "label":
        return _labels(samples_from)
    if not samples_from.endswith(".txt"):
        return [samples_from]
    try:
        lines = Path(samples_from).read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{samples_from} cannot be read: {error}") from error
    if not (texts := [line.strip() for line in lines if line.strip()]):
        raise UserError(f"{samples_from} holds no text")
    return texts


def _labels(text: str) -> np.ndarray:
    try:
        return np.array([int(part) for part in text.split(",")])
    except ValueError as error:
        raise UserError(f"--input must be labels, such as 3,1,4, got {text}") from error
