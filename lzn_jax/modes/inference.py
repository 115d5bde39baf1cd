"""The modes of the command line beside training: what can be done with a trained run."""

import csv
import io
import logging
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from lzn_jax import data, plots
from lzn_jax.configuration import UserError
from lzn_jax.data import Images
from lzn_jax.evaluation.measurements import Measurements
from lzn_jax.run import headlines, reporting
from lzn_jax.trained_model import restore

_log = logging.getLogger(__name__)


def evaluate(config: ConfigDict, workdir: Path) -> None:
    """Evaluates the newest checkpoint: summary.json and figures."""
    trained = restore(config, workdir)
    measure = Measurements(trained.tasks)
    measure.prepare()
    train, test = data.load_data(config)
    results = measure(trained.model, train, test, workdir)
    reporting.write_json(workdir / "summary.json", {"step": trained.step, **results})
    for line in headlines.of_evaluation(trained.step, results):
        _log.info("%s", line)


def sample(config: ConfigDict, workdir: Path) -> None:
    """Draws `evaluation.num_samples` images, classes in equal shares: samples.npz, a figure."""
    trained = restore(config, workdir)
    # A space that generates nothing has no number of samples, and says so.
    samples = trained.sample(config.evaluation.get("num_samples", 0), key=None)
    reporting.write_arrays(workdir / "samples.npz", images=samples.images, labels=samples.labels)
    plots.sample_grid(
        workdir / "figures" / "samples.png",
        samples.images,
        samples.labels,
        title="Samples",
    )


def reconstruct(config: ConfigDict, workdir: Path, images_from: str | None) -> None:
    """Test images, or those of `images_from`, to noise and back: reconstructions.npz, a figure.

    The file holds the images and their l2 errors in units of [-1, 1].
    """
    images, labels = _images(config, images_from)
    result = restore(config, workdir).reconstruct(images, labels)
    reporting.write_arrays(workdir / "reconstructions.npz", **result)
    plots.reconstructions(
        workdir / "figures" / "reconstructions.png", images, result["images"], result["errors"]
    )


def interpolate(config: ConfigDict, workdir: Path, images_from: str | None) -> None:
    """From one image to another through their latents: interpolation.npz, a figure.

    The images are the two in the folder `images_from`, or the first two test images of different
    classes.
    """
    images, labels = _two_images(config, images_from)
    result = restore(config, workdir).interpolate(images, labels)
    reporting.write_arrays(workdir / "interpolation.npz", **result)
    plots.interpolation(
        workdir / "figures" / "interpolation.png", images, result["images"], result["weights"]
    )


def embed(config: ConfigDict, workdir: Path, images_from: str | None) -> None:
    """Features of the test images, or of those of `images_from`: embeddings.npz, a figure.

    `features` are the main ones; the others are there by name. `labels` are -1 where
    unknown.
    """
    images, labels = _images(config, images_from)
    trained = restore(config, workdir)
    found = trained.embed(images)
    features = found.pop(trained.main_feature)
    known = np.full(len(images), -1, np.int32) if labels is None else labels
    reporting.write_arrays(workdir / "embeddings.npz", features=features, labels=known, **found)
    if len(images) >= plots.MIN_POINTS:
        title = "Features of the images (t-SNE)"
        plots.tsne(workdir / "figures" / "embedding.png", features, known, title=title)


def classify(config: ConfigDict, workdir: Path, images_from: str | None) -> None:
    """Classifies test images, or those of `images_from`: predictions.csv, a figure."""
    images, labels = _images(config, images_from)
    predictions = restore(config, workdir).classify(images)
    known = [""] * len(images) if labels is None else [str(label) for label in labels]
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["index", "label", "prediction", "probability"])
    rows = zip(known, predictions.classes, predictions.probabilities, strict=True)
    for index, (label, prediction, probability) in enumerate(rows):
        writer.writerow([index, label, prediction, f"{probability:.6f}"])
    reporting.write_bytes(workdir / "predictions.csv", table.getvalue().encode())
    plots.predictions(workdir / "figures" / "predictions.png", images, *predictions, labels)


def _images(config: ConfigDict, images_from: str | None) -> tuple[Images, np.ndarray | None]:
    """The test images with their labels, or an image or folder without."""
    if images_from is None:
        test = data.load(config.data, "test")
        return test.images, test.labels
    return data.read_images(images_from, config.data), None


def _two_images(config: ConfigDict, images_from: str | None) -> tuple[Images, np.ndarray | None]:
    """The images to interpolate between, with their labels where these are known."""
    images, labels = _images(config, images_from)
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
