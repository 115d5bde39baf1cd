"""The modes of the command line that use a trained run.

Their pictures have other names than those of evaluation during training.
"""

import csv
import io
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

from lzn_jax import data, plots
from lzn_jax.configuration import UserError
from lzn_jax.data import Images
from lzn_jax.evaluation import measurements
from lzn_jax.loading import restore
from lzn_jax.run import headlines, reporting

_log = logging.getLogger(__name__)
_MAX_LOGGED = 20  # predictions
NUM_SAMPLES = 100  # where a config has no number of its own


class Given(NamedTuple):
    """Images that a mode reads.

    Attributes:
      images: `Images`, decoded when they are indexed or before.
      labels: their classes, None where these are unknown.
      files: their paths, empty for images that are no files of their own.
    """

    images: Images
    labels: np.ndarray | None
    files: list[str]


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
    if plots.is_images(shown):
        names = data.label_names(config.data)
        plots.sample_grid(path, shown, samples.labels, names, "Samples")
    else:
        plots.tasks(path, [("Samples", None, shown[: plots.MAX_PAIRS])])
    _log.info("%s: %d samples", path, len(samples.images))


def reconstruct(config: ConfigDict, workdir: Path, images_from: str | None) -> None:
    """Test images, or those of `images_from`, to noise and back: reconstructions.npz, a figure.

    The file holds the images and their l2 errors in units of [-1, 1].
    """
    images, labels, _ = _images(config, images_from)
    result = restore(config, workdir).reconstruct(images, labels)
    reporting.write_arrays(workdir / "reconstructions.npz", **result)
    path = workdir / "figures" / "reconstructed.png"
    plots.reconstructions(path, images, result["images"], result["errors"])
    _log.info("%s: images and their reconstructions", path)


def interpolate(config: ConfigDict, workdir: Path, images_from: str | None) -> None:
    """From one image to another through their latents: interpolation.npz, a figure.

    The images are the two in the folder `images_from`, or the first two test images of different
    classes.
    """
    images, labels = _two_images(config, images_from)
    result = restore(config, workdir).interpolate(images, labels)
    reporting.write_arrays(workdir / "interpolation.npz", **result)
    path = workdir / "figures" / "interpolation.png"
    plots.interpolation(path, images, result["images"], result["weights"])
    _log.info("%s: from one image to another", path)


def embed(config: ConfigDict, workdir: Path, images_from: str | None) -> None:
    """Features of the test images, or of those of `images_from`: embeddings.npz, a figure.

    `features` are the main ones; the others are there by name. `labels` are -1 where
    unknown.
    """
    images, labels, _ = _images(config, images_from)
    trained = restore(config, workdir)
    found = trained.embed(images)
    features = found.pop(trained.main_feature)
    known = np.full(len(images), -1, np.int32) if labels is None else labels
    reporting.write_arrays(workdir / "embeddings.npz", features=features, labels=known, **found)
    if len(images) >= plots.MIN_POINTS:
        path, names = workdir / "figures" / "embedded.png", data.label_names(config.data)
        plots.tsne(path, features, known, names, "Features of the images (t-SNE)")
        _log.info("%s: features in two dimensions", path)


def classify(config: ConfigDict, workdir: Path, images_from: str | None) -> None:
    """Classifies test images, or those of `images_from`: predictions.csv, a figure."""
    images, labels, files = _images(config, images_from)
    classes, probabilities = restore(config, workdir).classify(images)
    names = data.label_names(config.data)
    found = [names[label] for label in classes]
    known = [""] * len(images) if labels is None else [str(label) for label in labels]
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["index", "label", "prediction", "probability", "file", "class"])
    rounded = [f"{probability:.6f}" for probability in probabilities]
    rows = zip(range(len(images)), known, classes, rounded, files, found, strict=True)
    writer.writerows(rows)
    content = table.getvalue().encode(errors="surrogateescape")  # names of files are bytes
    reporting.write_bytes(workdir / "predictions.csv", content)
    path = workdir / "figures" / "predictions.png"
    plots.predictions(path, images, classes, probabilities, labels, class_names=names)
    _log_predictions(found, probabilities, files)
    _log.info("%s: images and their classes", path)


def _log_predictions(found: Sequence[str], probabilities: np.ndarray, files: Sequence[str]) -> None:
    """Logs class, probability and file of the first images, in columns."""
    width = max(map(len, found[:_MAX_LOGGED]))
    for index in range(min(len(found), _MAX_LOGGED)):
        name = files[index] or f"test image {index}"
        _log.info("%-*s %6.1f %%  %s", width, found[index], 100 * probabilities[index], name)
    if len(found) > _MAX_LOGGED:
        _log.info("... and %d more in predictions.csv", len(found) - _MAX_LOGGED)


def _images(config: ConfigDict, images_from: str | None) -> Given:
    """The test images with their labels, or an image or folder without."""
    if images_from is None:
        test = data.load(config.data, "test")
        return Given(test.images, test.labels, data.file_names(test.images))
    files = data.find_images(images_from, config.data)
    return Given(files.read(), None, [str(file) for file in files.files])


def _two_images(config: ConfigDict, images_from: str | None) -> tuple[Images, np.ndarray | None]:
    """The images to interpolate between, with their labels where these are known."""
    images, labels, _ = _images(config, images_from)
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
