"""Quality of representations: linear probes and nearest neighbours (paper §4.3, D.3)."""

import contextlib
import dataclasses
import functools
import itertools
import logging
from collections.abc import Generator, Mapping
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Array, Float

from lzn_jax import plots
from lzn_jax.data import Examples, label_names
from lzn_jax.data.augment import augment, augmentation_of
from lzn_jax.data.batches import TrainingBatches
from lzn_jax.evaluation import probes
from lzn_jax.evaluation.probes import knn_log_votes
from lzn_jax.latent_space import LatentSpace
from lzn_jax.models import Variables, keys_by_index
from lzn_jax.trained_model import TrainedModel

_log = logging.getLogger(__name__)


def measure(
    model: TrainedModel, train: Examples, test: Examples, workdir: Path
) -> dict[str, float]:
    """Test accuracy of linear probes and nearest neighbours, fitted to the training labels.

    The encoder must train on views. Names of the backbone's metrics are plain, and names of other
    features' metrics end in a suffix. Returns no metrics for images of one class.
    """
    config = model.config
    queries = model.embed(test.images)
    if len(test.labels) >= plots.MIN_POINTS:
        plots.tsne(
            workdir / "figures" / "embedding.png",
            queries["backbone"],
            test.labels,
            label_names(config.data),
            "Features of the test images (t-SNE)",
        )
    num_classes = config.data.num_classes
    if num_classes == 1:
        _log.info("probes and neighbours are left out: they need labels of two classes or more")
        return {}
    references = model.embed(train.images, noise="train")
    classifiers = _fit_probes(model, train, references)
    metrics = {}
    for name, features in queries.items():
        suffix = "" if name == "backbone" else f"_{name}"
        for k, share in probes.accuracy(classifiers[name](features), test.labels).items():
            metrics[f"linear_probe_top{k}{suffix}"] = share
        votes = knn_log_votes(references[name], train.labels, features, num_classes=num_classes)
        metrics[f"knn_top1{suffix}"] = probes.accuracy(votes, test.labels)[1]
    return metrics


def _fit_probes(
    model: TrainedModel, train: Examples, features: Mapping[str, np.ndarray]
) -> dict[str, probes.LinearClassifier]:
    """Linear classifier for each feature, trained by the config's protocol."""
    num_classes, name = model.config.data.num_classes, model.config.evaluation.probe_protocol
    if name == "cached":
        return {
            name: probes.fit_cached(values, train.labels, num_classes)[0]
            for name, values in features.items()
        }
    protocol = probes.PROTOCOLS[name]
    batch_size = min(protocol.batch_size, len(train.labels))
    dims = {name: values.shape[1] for name, values in features.items()}
    num_steps = protocol.epochs * len(train.labels) // batch_size
    optimizer = protocol.optimizer(num_steps, batch_size)
    with contextlib.closing(_augmented_batches(model, train, batch_size)) as stream:
        return probes.train_linear(stream, dims, num_classes, optimizer, num_steps)


def _augmented_batches(
    model: TrainedModel, train: Examples, batch_size: int
) -> Generator[tuple[dict[str, np.ndarray], np.ndarray]]:
    """Yields features and labels of batches of augmented training images, endlessly."""
    config, space = model.config, model.space
    transform, workers = space.encoders[model.main_type].transform, config.data.get("workers")
    encode = functools.partial(space.jitted(augmented_features), model.model.variables)
    with TrainingBatches(train, batch_size, config.seed, transform, workers=workers) as batches:
        for step in itertools.count():
            batch = next(batches)
            index = step * batch_size + np.arange(batch_size)
            request = {"crops": batch["views"][:, 0], "index": index}
            features = space.in_batches(encode, request, description="embedding")
            latents = model.latent_features(features["head"], noise="train", index=index)
            yield features | latents, batch["labels"]


def augmented_features(
    space: LatentSpace, variables: Variables, request: Mapping[str, Array]
) -> dict[str, Float[Array, "b d"]]:
    """Features of crops (b, h, w, c) uint8, each augmented with its index's random numbers.

    The function is pure. The probe's protocol determines the augmentation.
    """
    encoder, key = space.encoders[space.config.types[0]], jax.random.key(space.config.seed)
    keys = keys_by_index(key, "probe", request["index"])
    settings = augmentation_of(space.config)
    protocol = probes.PROTOCOLS.get(space.config.evaluation.probe_protocol)
    if protocol is not None and not protocol.distorts:
        settings = dataclasses.replace(
            settings, jitter_probability=0.0, grey_probability=0.0, blur_probability=0.0
        )
    crops = jax.vmap(functools.partial(augment, settings=settings))(request["crops"], keys)
    features: dict[str, Array] = encoder.features_of(variables, crops)
    return features
