"""Quality of samples, and reconstruction."""

import functools
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int, UInt8
from ml_collections import ConfigDict
from sklearn.metrics import pairwise_distances_argmin_min
from sklearn.svm import SVC

from lzn_jax import plots
from lzn_jax.data import Examples, label_names
from lzn_jax.data.pixels import MAX_BYTES_IN_MEMORY, Images
from lzn_jax.data_types import DataType, Invertible, are_images
from lzn_jax.errors import UserError
from lzn_jax.evaluation.clip import clip_extractor
from lzn_jax.evaluation.features import Extractor, feature_extractor, generation_metrics
from lzn_jax.evaluation.inception import inception_extractor
from lzn_jax.evaluation.measurements import figures_folder
from lzn_jax.trained_model import TrainedModel

_MAX_IMAGES = 10_000  # fitting takes quadratic time


def fit_judge(
    train: Examples,
) -> Callable[[UInt8[np.ndarray, "n h w c"]], Int[np.ndarray, " n"]]:
    """Function from images to classes: an RBF SVM fitted to at most 10,000 training images.

    Its accuracy on the test images of scikit-learn's digits is about 0.99. Raises UserError for
    images of a single class.
    """
    count = len(train.labels)
    rows = np.sort(np.random.default_rng(0).permutation(count)[:_MAX_IMAGES])
    if np.ptp(train.labels[rows]) == 0:
        raise UserError("a judge of classes needs training images of at least two classes, got one")
    classifier = SVC(C=10.0, gamma="scale").fit(as_pixels(train.images[rows]), train.labels[rows])
    return lambda images: classifier.predict(as_pixels(images))


def as_pixels(images: UInt8[np.ndarray, "n h w c"]) -> Float[np.ndarray, "n d"]:
    """Flattened images in [0, 1], d = h w c."""
    return images.reshape(len(images), -1) / 255.0


MAX_PIXELS = 32  # per side; pixel distances mean little for larger images
MAX_COMPARED = 2000  # samples, and test images; enough for a mean
MAX_TRAINING = 100_000


def nearest_training_images(
    train: Examples, test: Examples, samples: UInt8[np.ndarray, "n h w c"]
) -> dict[str, float]:
    """Mean l2 distance of samples and of test images to the nearest training image.

    Distances are in units of [-1, 1]. `nearest_ratio` is the mean of samples over that of test
    images; a ratio far below 1 means that samples are copies. Uses at most 100,000 training images;
    returns no metrics for images of more than 32 pixels per side.
    """
    if samples.shape[1] > MAX_PIXELS:
        return {}
    training = _rows(train.images, MAX_TRAINING)

    def mean_distance(images: Images) -> float:
        distances = pairwise_distances_argmin_min(_rows(images, MAX_COMPARED), training)[1]
        return float(np.mean(distances))

    nearest = {"nearest": mean_distance(samples), "nearest_of_tests": mean_distance(test.images)}
    return nearest | {"nearest_ratio": nearest["nearest"] / max(nearest["nearest_of_tests"], 1e-6)}


def _rows(images: Images, most: int) -> np.ndarray:
    """At most `most` flattened images in units of [-1, 1], evenly spaced (files may be sorted)."""
    count = min(len(images), most)
    chosen = images[np.arange(count) * len(images) // count]
    return np.asarray(chosen).reshape(count, -1) / np.float32(127.5)


MAX_RECONSTRUCTED = 2000  # test samples, as in the paper for CIFAR-10


def measure_reconstruction(
    model: TrainedModel, train: Examples, test: Examples, workdir: Path
) -> dict[str, float]:
    """Returns `reconstruction_l2` and draws examples; empty if the decoder is not invertible."""
    if not isinstance(model.space.decoders.get(model.main_type), Invertible):
        return {}
    rows, kind = reconstructed_rows(len(test.labels)), model.space.types[model.main_type]
    samples = kind.samples(test)[rows]
    result = model.reconstruct(samples, test.labels[rows])
    draw(figures_folder(workdir, model.config) / "reconstructions.png", kind, samples, result)
    return {"reconstruction_l2": float(np.mean(result["errors"]))}


def draw(path: Path, kind: DataType, samples: Any, result: Mapping[str, Any]) -> None:
    """Draws samples above the result of `TrainedModel.reconstruct`."""
    shown, again = kind.shown(samples), kind.shown(result[kind.output])
    title = f"Real {kind.plural} and their reconstructions"
    if are_images(shown):
        plots.reconstructions(path, shown, again, result["errors"], title)
    else:
        plots.translations(path, shown, again, title)


def reconstructed_rows(count: int) -> np.ndarray:
    """Rows of test samples to reconstruct, evenly spaced because files may be sorted by class."""
    chosen = min(count, MAX_RECONSTRUCTED)
    return np.arange(chosen) * count // chosen


MIN_IMAGES = 50  # fewer cannot represent a distribution
MAX_REFERENCE = 50_000
FEATURES = "features"  # name of the feature network, as in fd_features
SEED = 0  # of the feature network and of subsets, whatever the seed of the run

_log = logging.getLogger(__name__)


class SampleQuality:
    """Compares generated images with the training images by the features of pretrained networks.

    Uses Inception if `evaluation.inception_path` gives its weights, else, for images of at most 32
    pixels per side, a classifier trained on the labelled training images. Adds CLIP if
    `evaluation.clip_path` gives its weights. Weights are read on first use. Raises UserError if a
    config of grey images gives weights.
    """

    def __init__(self, config: ConfigDict) -> None:
        self.data, self._paths = config.data, config.evaluation
        for name, field in (("Inception", "inception_path"), ("CLIP", "clip_path")):
            if self._paths[field] is not None and self.data.channels != 3:
                raise UserError(
                    f"evaluation.{field} must be None for grey images (data.channels 1), "
                    f"because {name} expects RGB; got {self._paths[field]}"
                )

    def read_weights(self) -> None:
        """Reads the weights that the config names; raises UserError for unreadable weights."""
        _ = self._inception, self._clip

    @functools.cached_property
    def _inception(self) -> Extractor | None:
        path = self._paths.inception_path
        return None if path is None else inception_extractor(path)

    @functools.cached_property
    def _clip(self) -> list[Extractor]:
        path = self._paths.clip_path
        return [] if path is None else [clip_extractor(path)]

    def __call__(
        self, train: Examples, samples: UInt8[np.ndarray, "n h w c"], cache: Path
    ) -> dict[str, float]:
        """Metrics by name, see `generation_metrics`; logs which metrics are left out and why.

        The reference is the training set, or a fixed random subset of at most 50,000 images and
        8 GiB. Its features are cached in the folder `cache`.
        """
        count = min(len(train.labels), len(samples))
        extractors = self._extractors(train, count, cache)
        if not extractors:
            return {}
        reference = _reference(train.images)
        return generation_metrics(extractors, reference, samples, seed=SEED, cache_folder=cache)

    def _extractors(self, train: Examples, count: int, cache: Path) -> list[Extractor]:
        """Extractors to use if the smaller of the two sets of images has `count` images."""
        few = f"{count} images are fewer than {MIN_IMAGES}" if count < MIN_IMAGES else None
        clip = [] if few else self._clip
        obstacle = few or self._obstacle()
        if obstacle is None:
            network = self._inception or feature_extractor(
                train, name=FEATURES, seed=SEED, cache_folder=cache
            )
            return [network, *clip]
        _log.info("sample metrics%s are left out: %s", " other than CMMD" if clip else "", obstacle)
        return clip

    def _obstacle(self) -> str | None:
        """Reason why neither Inception nor the feature network applies, or None if one does."""
        if self._inception is not None:
            return None
        if self.data.image_size > MAX_PIXELS:
            return f"images of more than {MAX_PIXELS} pixels need evaluation.inception_path"
        if self.data.num_classes == 1:
            return "images of one class need evaluation.inception_path"
        return None


def _reference(images: Images) -> UInt8[np.ndarray, "n h w c"]:
    """All images, or a random subset of the largest allowed size."""
    fitting = MAX_BYTES_IN_MEMORY // int(np.prod(images.shape[1:]))
    count = min(len(images), MAX_REFERENCE, fitting)
    rows = np.random.default_rng(SEED).choice(len(images), count, replace=False)
    chosen: np.ndarray = images[np.sort(rows)]
    return chosen


def measure(
    model: TrainedModel, train: Examples, test: Examples, workdir: Path
) -> dict[str, float]:
    """Quality of generated images, and the shares of images that show their class.

    Quality is measured on class-conditional samples if the decoder has a condition, else on
    samples of the prior.
    """
    count, names = model.config.evaluation.num_samples, label_names(model.config.data)
    has_classes, folder = model.class_type is not None, figures_folder(workdir, model.config)
    is_judged = has_classes and len(np.unique(train.labels)) != 1
    if has_classes and not is_judged:
        _log.info("sample_accuracy is left out: the training images have a single class")
    judge = fit_judge(train) if is_judged else None
    labels = np.arange(count, dtype=np.int32) % len(names) if has_classes else None
    drawn = {"samples": model.draw(count, labels)}
    titles = {"samples": "Samples, one class per row" if has_classes else "Samples"}
    accuracies = {"samples": "sample_accuracy"}
    if has_classes and model.has_latents:
        drawn["unconditional_samples"] = model.draw(count)
        titles["unconditional_samples"] = "Samples from the prior, one decoded class per row"
        accuracies["unconditional_samples"] = "unconditional_sample_accuracy"
    metrics: dict[str, float] = {}
    for name, result in drawn.items():
        path = folder / f"{name}.png"
        plots.sample_grid(path, result["images"], result["labels"], names, titles[name])
        if judge:
            metrics[accuracies[name]] = float(np.mean(judge(result["images"]) == result["labels"]))
    is_conditional = model.space.decoders[model.main_type].condition is not None
    measured = drawn["samples"] if is_conditional else list(drawn.values())[-1]
    images = measured["images"]
    metrics |= _sample_quality(model.config)(train, images, workdir / "cache")
    metrics |= nearest_training_images(train, test, images)
    if "num_evaluations" in measured:
        metrics["sampling_evaluations"] = float(np.mean(measured["num_evaluations"]))
    return metrics


@functools.lru_cache(maxsize=1)  # so that a run reads weights only once
def _sample_quality(config: ConfigDict) -> SampleQuality:
    return SampleQuality(config)


def _prepare(config: ConfigDict) -> None:
    """Reads the weights of networks before training; raises UserError for unreadable ones."""
    _sample_quality(config).read_weights()


measure.prepare = _prepare  # type: ignore[attr-defined]
