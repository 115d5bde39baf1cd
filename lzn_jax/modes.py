"""What can be done with a trained run: evaluate, sample, reconstruct, embed, classify."""

import csv
import io
import logging
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from lzn_jax import data, figures, reporting, sharding, studies
from lzn_jax.checkpoints import Checkpoints
from lzn_jax.configuration import UserError
from lzn_jax.data import Images
from lzn_jax.studies import (
    Classifies,
    Embeds,
    Generates,
    Model,
    Study,
    examples_at_a_time,
    join_variables,
    split_variables,
)

_log = logging.getLogger(__name__)


def evaluate(config: ConfigDict, workdir: Path) -> None:
    """Evaluates the newest checkpoint: summary.json and figures."""
    train, test = studies.load_data(config)
    study, model, step = load_model(config, workdir)
    results = study.evaluate(model, train, test, workdir)
    reporting.write_json(workdir / "summary.json", {"step": step, **results})
    for name, value in results.items():
        _log.info("%s %.4g", name, value)


def sample(config: ConfigDict, workdir: Path) -> None:
    """Draws `evaluation.num_samples` images, classes in equal shares: samples.npz, a figure."""
    study, model, _ = load_model(config, workdir)
    if not isinstance(study, Generates):
        raise UserError(_cannot(config, "generate images"))
    samples = study.sample(model, config.evaluation.num_samples)
    reporting.write_arrays(workdir / "samples.npz", images=samples.images, labels=samples.labels)
    figures.sample_grid(
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
    study, model, _ = load_model(config, workdir)
    if not isinstance(study, Generates):
        raise UserError(_cannot(config, "reconstruct images"))
    result = study.reconstruct(model, images, labels)
    reporting.write_arrays(workdir / "reconstructions.npz", **result)
    figures.reconstructions(
        workdir / "figures" / "reconstructions.png", images, result["images"], result["errors"]
    )


def embed(config: ConfigDict, workdir: Path, images_from: str | None) -> None:
    """Features of the test images, or of those of `images_from`: embeddings.npz.

    `features` are the backbone's; the others are there by name. `labels` are -1 where unknown.
    """
    images, labels = _images(config, images_from)
    study, model, _ = load_model(config, workdir)
    if not isinstance(study, Embeds):
        raise UserError(_cannot(config, "embed images"))
    found = study.embed(model, images)
    known = np.full(len(images), -1, np.int32) if labels is None else labels
    features = found.pop("backbone")
    reporting.write_arrays(workdir / "embeddings.npz", features=features, labels=known, **found)


def classify(config: ConfigDict, workdir: Path, images_from: str | None) -> None:
    """Classifies the test images, or the image or folder `images_from`: predictions.csv."""
    images, labels = _images(config, images_from)
    known = [""] * len(images) if labels is None else [str(label) for label in labels]
    study, model, _ = load_model(config, workdir)
    if not isinstance(study, Classifies):
        raise UserError(_cannot(config, "classify images"))
    predictions = study.classify(model, images)
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["index", "label", "prediction", "probability"])
    rows = zip(known, predictions.classes, predictions.probabilities, strict=True)
    for index, (label, prediction, probability) in enumerate(rows):
        writer.writerow([index, label, prediction, f"{probability:.6f}"])
    reporting.write_bytes(workdir / "predictions.csv", table.getvalue().encode())


def _images(config: ConfigDict, images_from: str | None) -> tuple[Images, np.ndarray | None]:
    """The test images with their labels, or an image or folder without."""
    if images_from is None:
        return data.load(config.data, "test")
    return data.read_images(images_from, config.data), None


def load_model(config: ConfigDict, workdir: Path) -> tuple[Study, Model, int]:
    """The study of a config, and the model and step of the newest good checkpoint.

    Reads averaged weights and context anchors, nothing else. Raises UserError without any.
    """
    mesh = sharding.make_mesh(examples_at_a_time(config.training))
    study = studies.build(config, mesh)
    params, constants = split_variables(jax.eval_shape(study.init, jax.random.key(0)))
    targets: dict[str, Any] = {"ema": {"params": params, "constants": constants}}
    if shapes := study.context_shapes():
        targets["context"] = shapes
    with Checkpoints(workdir) as checkpoints:
        shard = config.training.shard_parameters
        restored = checkpoints.restore(sharding.placed(targets, mesh, shard=shard))
    if restored is None:
        raise UserError(f"no checkpoint in {workdir / 'checkpoints'} can be read: train again")
    step, items = restored
    averaged = join_variables(items["ema"]["params"], items["ema"]["constants"])
    context = jax.tree.map(jnp.asarray, sharding.fetch(items.get("context", {})))
    return study, Model(averaged, context), step


def _cannot(config: ConfigDict, what: str) -> str:
    return f"a {config.study} study does not {what}: choose another --mode"
