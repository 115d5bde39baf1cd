"""The modes of the command line that use a trained run.

Their pictures have other names than those of evaluation during training.
"""

import csv
import io
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from lzn_jax import data, plots
from lzn_jax.configuration import UserError
from lzn_jax.data import Images
from lzn_jax.evaluation import measurements
from lzn_jax.loading import restore
from lzn_jax.run import headlines, reporting
from lzn_jax.trained_model import TrainedModel

_log = logging.getLogger(__name__)
_MAX_LOGGED = 20  # predictions
NUM_SAMPLES = 100  # where a config has no number of its own


class Given(NamedTuple):
    """Samples of the first data type that a mode reads.

    Attributes:
      samples: images, decoded when they are indexed or before, or others.
      labels: their classes, None where these are unknown.
      names: their paths, empty for images that are no files of their own; or what is written.
    """

    samples: Any
    labels: np.ndarray | None
    names: list[str]


def evaluate(config: ConfigDict, workdir: Path) -> None:
    """Evaluates the newest checkpoint: summary.json and figures.

    Of another set than the run's own they are summary_SET.json and figures/SET.
    """
    trained = restore(config, workdir)
    train, test = data.load_data(config)
    measurements.prepare(trained.space, test)
    summary, other = "summary.json", measurements.other_set(workdir, config)
    if other is not None:
        summary, figures = f"summary_{other}.json", f"figures/{other}"
        _log.info("%s is not the run's own set: %s and %s are written", other, summary, figures)
    results = measurements.evaluate(trained, train, test, workdir)
    reporting.write_json(workdir / summary, {"step": trained.step, **results})
    for line in headlines.of_evaluation(trained.step, results, summary):
        _log.info("%s", line)


def sample(config: ConfigDict, workdir: Path) -> None:
    """Draws `evaluation.num_samples` samples, classes in equal shares: samples.npz, a figure."""
    trained = restore(config, workdir)
    samples = trained.sample(config.evaluation.get("num_samples", NUM_SAMPLES), key=None)
    data_type = trained.space.types[trained.main_type]
    arrays = {data_type.output: samples.images, "labels": samples.labels}
    reporting.write_arrays(workdir / "samples.npz", **arrays)
    path, shown = workdir / "figures" / "sampled.png", data_type.shown(samples.images)
    if data_type.is_images:
        names = data.label_names(config.data)
        plots.sample_grid(path, shown, samples.labels, names, "Samples")
    else:
        plots.tasks(path, [("Samples", None, shown[: plots.MAX_PAIRS])])
    _log.info("%s: %d samples", path, len(samples.images))


def reconstruct(config: ConfigDict, workdir: Path, images_from: str | None) -> None:
    """Test images, or those of `images_from`, to noise and back: reconstructions.npz, a figure.

    The file holds the images and their l2 errors in units of [-1, 1].
    """
    trained = restore(config, workdir)
    images, labels, _ = _given(trained, images_from)
    result = trained.reconstruct(images, labels)
    reporting.write_arrays(workdir / "reconstructions.npz", **result)
    path = workdir / "figures" / "reconstructed.png"
    plots.reconstructions(path, images, result["images"], result["errors"])
    _log.info("%s: images and their reconstructions", path)


def interpolate(config: ConfigDict, workdir: Path, images_from: str | None) -> None:
    """From one image to another through their latents: interpolation.npz, a figure.

    The images are the two in the folder `images_from`, or the first two test images of different
    classes.
    """
    trained = restore(config, workdir)
    images, labels = _two_images(trained, images_from)
    result = trained.interpolate(images, labels)
    reporting.write_arrays(workdir / "interpolation.npz", **result)
    path = workdir / "figures" / "interpolation.png"
    plots.interpolation(path, images, result["images"], result["weights"])
    _log.info("%s: from one image to another", path)


def embed(config: ConfigDict, workdir: Path, samples_from: str | None) -> None:
    """Features of the test samples, or of those of `samples_from`: embeddings.npz, a figure.

    `features` are the main ones; the others are there by name. `labels` are -1 where
    unknown.
    """
    trained = restore(config, workdir)
    samples, labels, _ = _given(trained, samples_from)
    found = trained.embed(samples)
    features = found.pop(trained.main_feature)
    known = np.full(len(samples), -1, np.int32) if labels is None else labels
    reporting.write_arrays(workdir / "embeddings.npz", features=features, labels=known, **found)
    if len(samples) >= plots.MIN_POINTS:
        path, names = workdir / "figures" / "embedded.png", data.label_names(config.data)
        plots.tsne(path, features, known, names, f"Features of the {trained.main_type}s (t-SNE)")
        _log.info("%s: features in two dimensions", path)


def classify(config: ConfigDict, workdir: Path, samples_from: str | None) -> None:
    """Classifies test samples, or those of `samples_from`: predictions.csv, a figure."""
    trained = restore(config, workdir)
    samples, labels, names = _given(trained, samples_from)
    classes, probabilities = trained.classify(samples)
    class_names = data.label_names(config.data)
    found = [class_names[label] for label in classes]
    known = [""] * len(samples) if labels is None else [str(label) for label in labels]
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["index", "label", "prediction", "probability", "file", "class"])
    rounded = [f"{probability:.6f}" for probability in probabilities]
    rows = zip(range(len(samples)), known, classes, rounded, names, found, strict=True)
    writer.writerows(rows)
    content = table.getvalue().encode(errors="surrogateescape")  # names of files are bytes
    reporting.write_bytes(workdir / "predictions.csv", content)
    path, kind = workdir / "figures" / "predictions.png", trained.space.types[trained.main_type]
    if kind.is_images:
        plots.predictions(path, samples, classes, probabilities, labels, class_names=class_names)
    else:
        plots.translations(path, names, found, f"Classes of {kind.output}")
    named = [name or f"test {kind.name} {index}" for index, name in enumerate(names)]
    _log_predictions(found, probabilities, named)
    _log.info("%s: %s and their classes", path, kind.output)


def _log_predictions(found: Sequence[str], probabilities: np.ndarray, names: Sequence[str]) -> None:
    """Logs class, probability and name of the first samples, in columns."""
    width = max(map(len, found[:_MAX_LOGGED]))
    for index in range(min(len(found), _MAX_LOGGED)):
        share = 100 * probabilities[index]
        _log.info("%-*s %6.1f %%  %s", width, found[index], share, names[index])
    if len(found) > _MAX_LOGGED:
        _log.info("... and %d more in predictions.csv", len(found) - _MAX_LOGGED)


def _given(trained: TrainedModel, samples_from: str | None) -> Given:
    """The test samples with their labels, or those of an --input without."""
    data_type, config = trained.space.types[trained.main_type], trained.config.data
    if samples_from is None:
        test = data.load(config, "test")
        samples = data_type.samples(test)
        if data_type.is_images:
            return Given(samples, test.labels, data.file_names(samples))
        return Given(samples, test.labels, list(data_type.shown(samples)))
    samples, names = data_type.named(samples_from)
    return Given(samples, None, names)


def _two_images(trained: TrainedModel, images_from: str | None) -> tuple[Images, np.ndarray | None]:
    """The images to interpolate between, with their labels where these are known."""
    images, labels, _ = _given(trained, images_from)
    if labels is None and len(images) != 2:
        raise UserError(f"interpolation is between two images, {images_from} holds {len(images)}")
    if labels is None:
        return images, None
    if len(images) < 2:
        raise UserError(
            "there is 1 test image, interpolation is between two: name a folder of two with --input"
        )
    others = np.flatnonzero(labels != labels[0])
    rows = np.array([0, others[0] if len(others) > 0 else 1])
    return images[rows], labels[rows]
