"""What can be done with a trained run: evaluate, sample, classify."""

import csv
import io
import logging
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from lzn_jax import data, figures, reporting, sharding, studies
from lzn_jax.checkpoints import Checkpoints
from lzn_jax.configuration import UserError
from lzn_jax.studies import (
    Classifies,
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
    results = study.evaluate(model, train, test, workdir / "figures")
    reporting.write_json(workdir / "summary.json", {"step": step, **results})
    for name, value in results.items():
        _log.info("%s %.4g", name, value)


def sample(config: ConfigDict, workdir: Path) -> None:
    """Draws `evaluation.num_samples` images, classes in equal shares: samples.npz, a figure."""
    study, model, _ = load_model(config, workdir)
    if not isinstance(study, Generates):
        raise UserError(_cannot(config, "sample"))
    samples = study.sample(model, config.evaluation.num_samples)
    content = io.BytesIO()
    np.savez_compressed(content, images=samples.images, labels=samples.labels)
    reporting.write_bytes(workdir / "samples.npz", content.getvalue())
    figures.sample_grid(
        workdir / "figures" / "samples.png",
        samples.images,
        samples.labels,
        title="Samples, a row a class",
    )


def classify(config: ConfigDict, workdir: Path, images_from: str | None) -> None:
    """Classifies the test images, or the image or folder `images_from`: predictions.csv."""
    if images_from is None:
        images, labels = data.load(config.data, "test")
        known = [str(label) for label in labels]
    else:
        images = data.read_images(images_from, config.data)
        known = [""] * len(images)
    study, model, _ = load_model(config, workdir)
    if not isinstance(study, Classifies):
        raise UserError(_cannot(config, "classify"))
    predictions = study.classify(model, images)
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["index", "label", "prediction", "probability"])
    rows = zip(known, predictions.classes, predictions.probabilities, strict=True)
    for index, (label, prediction, probability) in enumerate(rows):
        writer.writerow([index, label, prediction, f"{probability:.6f}"])
    reporting.write_bytes(workdir / "predictions.csv", table.getvalue().encode())


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
    with Checkpoints(workdir, config.checkpoint.keep) as checkpoints:
        restored = checkpoints.restore(sharding.placed(targets, mesh))
    if restored is None:
        raise UserError(f"no checkpoint in {workdir / 'checkpoints'} can be read: train again")
    step, items = restored
    averaged = join_variables(items["ema"]["params"], items["ema"]["constants"])
    return study, Model(averaged, items.get("context", {})), step


def _cannot(config: ConfigDict, verb: str) -> str:
    return f"a {config.study} study does not {verb}: choose another --mode"
