"""Quality of samples, and reconstruction."""

import functools
import logging
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int, UInt8
from ml_collections import ConfigDict

from lzn_jax import plots
from lzn_jax.data import Examples, label_names
from lzn_jax.data.pixels import MAX_BYTES_IN_MEMORY, Images
from lzn_jax.data_types import DataType, Invertible, Samples, are_images
from lzn_jax.errors import UserError
from lzn_jax.evaluation.clip import clip_extractor
from lzn_jax.evaluation.features import (
    Extractor,
    FeatureSet,
    extract,
    feature_extractor,
    generation_metrics,
)
from lzn_jax.evaluation.inception import inception_extractor
from lzn_jax.latent_space import LatentSpace
from lzn_jax.trained_model import TrainedModel

MAX_JUDGED = 10_000  # training images of the judge; fitting takes quadratic time
MAX_PIXELS = 32  # pixels per side; pixel distances mean little for larger images
MAX_COMPARED = 2000  # number of samples and of test images, enough for a mean
MAX_TRAINING = 100_000
MAX_RECONSTRUCTED = 2000  # test samples, as in the paper for CIFAR-10
MIN_IMAGES = 50  # fewer cannot represent a distribution
MAX_REFERENCE = 50_000
FEATURES = "features"  # name of the feature network, as in fd_features
SEED = 0  # of the feature network and of subsets, whatever the seed of the run

_log = logging.getLogger(__name__)


def fit_judge(
    train: Examples,
) -> Callable[[UInt8[np.ndarray, "n h w c"]], Int[np.ndarray, " n"]]:
    """Function from images to classes: an RBF SVM fitted to at most 10,000 training images.

    Its accuracy on the test images of scikit-learn's digits is about 0.99. Raises ValueError for
    images of a single class.
    """
    from sklearn.svm import SVC  # here, as it takes a second

    count = len(train.labels)
    rows = np.sort(np.random.default_rng(0).permutation(count)[:MAX_JUDGED])
    classifier = SVC(C=10.0, gamma="scale").fit(as_pixels(train.images[rows]), train.labels[rows])
    return lambda images: classifier.predict(as_pixels(images))


def as_pixels(images: UInt8[np.ndarray, "n h w c"]) -> Float[np.ndarray, "n d"]:
    """Flattened images in [0, 1], d = h w c."""
    return images.reshape(len(images), -1) / 255.0


def nearest_training_images(
    train: Examples, test: Examples, samples: UInt8[np.ndarray, "n h w c"]
) -> dict[str, float]:
    """Mean l2 distance of samples and of test images to the nearest training image.

    Distances are in units of [-1, 1]. `nearest_ratio` is the mean over samples divided by the mean
    over test images. A ratio far below 1 means that samples are copies. Uses at most 100,000
    training images. Returns no metrics for images of more than 32 pixels per side.
    """
    from sklearn.metrics import pairwise_distances_argmin_min  # here, as it takes a second

    if samples.shape[1] > MAX_PIXELS:
        return {}

    def rows(images: Images, most: int) -> np.ndarray:
        chosen = images[reconstructed_rows(len(images), most)]
        return np.asarray(chosen).reshape(len(chosen), -1) / np.float32(127.5)

    training = rows(train.images, MAX_TRAINING)
    samples_mean, tests_mean = (
        float(np.mean(pairwise_distances_argmin_min(rows(images, MAX_COMPARED), training)[1]))
        for images in (samples, test.images)
    )
    ratio = samples_mean / max(tests_mean, 1e-6)
    return {"nearest": samples_mean, "nearest_of_tests": tests_mean, "nearest_ratio": ratio}


def reconstructed_rows(count: int, most: int = MAX_RECONSTRUCTED) -> Int[np.ndarray, " k"]:
    """At most `most` of `count` rows, evenly spaced, since files may be sorted by class."""
    chosen = min(count, most)
    return np.arange(chosen) * count // chosen


def measure_reconstruction(
    model: TrainedModel, train: Examples, test: Examples, workdir: Path
) -> dict[str, float]:
    """Returns `reconstruction_l2` and draws examples, or nothing without an invertible decoder."""
    if not isinstance(model.space.decoders.get(model.main_type), Invertible):
        return {}
    rows = reconstructed_rows(len(test.labels))
    kind = model.space.types[model.main_type]
    samples = kind.samples(test)[rows]
    result = model.reconstruct(samples, test.labels[rows])
    draw(workdir / "figures" / "reconstructions.png", kind, samples, result)
    return {"reconstruction_l2": float(np.mean(result["errors"]))}


def draw(path: Path, kind: DataType, samples: Samples, result: Mapping[str, Samples]) -> None:
    """Draws samples above the result of `TrainedModel.reconstruct`."""
    some = slice(plots.sheets.MAX_RECONSTRUCTIONS)
    shown, again = kind.shown(samples[some]), kind.shown(result[kind.output][some])
    title = f"Real {kind.plural} and their reconstructions"
    if are_images(shown):
        plots.reconstructions(path, shown, again, result["errors"][some], title)
    else:
        plots.translations(path, shown, again, title)


class SampleQuality:
    """Compares generated images with the training images by the features of pretrained networks.

    Uses Inception if `evaluation.inception_path` names its weights. Otherwise a classifier trained
    on the labelled training images replaces it, for images of at most 32 pixels per side. Adds CLIP
    if `evaluation.clip_path` names its weights. Raises UserError for unreadable weights, and if a
    config of grey images names weights.
    """

    def __init__(self, config: ConfigDict) -> None:
        self._is_large = config.data.image_size > MAX_PIXELS
        self._has_classes = config.data.num_classes > 1
        paths, channels = config.evaluation, config.data.channels
        readers = {"inception_path": inception_extractor, "clip_path": clip_extractor}
        given = {name: paths[name] for name in readers if paths[name] is not None}
        for name, path in given.items():
            if channels != 3:
                raise UserError(
                    f"evaluation.{name} must be None for grey images (data.channels 1), because "
                    f"its network expects RGB; got {path}"
                )
        self._pretrained = {name: readers[name](path) for name, path in given.items()}
        self._seen: tuple[Callable[[], object], ...] = (
            lambda: None,
            lambda: None,
        )  # weak, as this outlives a run
        self._extractors: list[Extractor] = []
        self._reference: dict[str, FeatureSet] = {}

    def __call__(self, train: Examples, samples: UInt8[np.ndarray, "n h w c"]) -> dict[str, float]:
        """Metrics by name (see `generation_metrics`). Logs which metrics are left out and why.

        The reference is the training set, or a fixed random subset of at most 50,000 images and
        8 GiB. Its features stay in memory for further samples.
        """
        if (count := min(len(train.labels), len(samples))) < MIN_IMAGES:
            _log.info("sample metrics are left out: %d images are fewer than %d", count, MIN_IMAGES)
            return {}
        own = train.images, train.labels
        if any(seen() is not each for seen, each in zip(self._seen, own, strict=True)):
            self._extractors = [*self._classifiers(train), *self._pretrained.values()]
            self._reference = extract(self._extractors, _reference(train.images))
            self._seen = tuple(map(weakref.ref, own))
        metrics: dict[str, float] = {}
        generated = extract(self._extractors, samples)
        for name, real in self._reference.items():
            metrics |= generation_metrics(name, real, generated[name], seed=SEED)
        return metrics

    def _classifiers(self, train: Examples) -> list[Extractor]:
        """The trained classifier that replaces Inception, if any."""
        if "inception_path" in self._pretrained:
            return []
        if self._has_classes and not self._is_large:
            return [feature_extractor(train, name=FEATURES, seed=SEED)]
        kind = (
            f"images of more than {MAX_PIXELS} pixels" if self._is_large else "images of one class"
        )
        others = " other than CMMD" if self._pretrained else ""
        _log.info("sample metrics%s are left out: %s need evaluation.inception_path", others, kind)
        return []


def _reference(images: Images) -> UInt8[np.ndarray, "n h w c"]:
    """All images, or a random subset of the largest allowed size."""
    fitting = MAX_BYTES_IN_MEMORY // int(np.prod(images.shape[1:]))
    count = min(len(images), MAX_REFERENCE, fitting)
    rows = np.random.default_rng(SEED).choice(len(images), count, replace=False)
    chosen: np.ndarray = images[np.sort(rows)]
    return chosen


class MeasureSamples:
    """Measures the quality of generated images, and the share that shows the right class.

    Quality is measured on class-conditional samples if the decoder is conditioned, else on samples
    of the prior.
    """

    def prepare(self, space: LatentSpace) -> None:
        """Reads the weights of networks before training. Raises UserError if unreadable."""
        sample_quality(space.config)

    def __call__(
        self, model: TrainedModel, train: Examples, test: Examples, workdir: Path
    ) -> dict[str, float]:
        """Draws the samples and returns their metrics by name."""
        count, names = model.config.evaluation.num_samples, label_names(model.config.data)
        has_classes, judge = model.class_type is not None, None
        if has_classes and len(np.unique(train.labels)) == 1:
            _log.info("sample_accuracy is left out: the training images have a single class")
        elif has_classes:
            judge = fit_judge(train)
        labels = np.arange(count, dtype=np.int32) % len(names) if has_classes else None
        title = "Samples, one class per row" if has_classes else "Samples"
        drawn = {"sample": (model.draw(count, labels), title)}
        if has_classes and model.has_latents:
            title = "Samples from the prior, one decoded class per row"
            drawn["unconditional_sample"] = (model.draw(count), title)
        metrics: dict[str, float] = {}
        for name, (result, title) in drawn.items():
            path = workdir / "figures" / f"{name}s.png"
            plots.sample_grid(path, result["images"], result["labels"], names, title)
            if judge:
                is_right = judge(result["images"]) == result["labels"]
                metrics[f"{name}_accuracy"] = float(np.mean(is_right))
        is_conditional = model.space.decoders[model.main_type].condition is not None
        measured, _ = drawn["sample"] if is_conditional else list(drawn.values())[-1]
        metrics |= sample_quality(model.config)(train, measured["images"])
        metrics |= nearest_training_images(train, test, measured["images"])
        if "num_evaluations" in measured:
            metrics["sampling_evaluations"] = float(np.mean(measured["num_evaluations"]))
        return metrics


sample_quality = functools.lru_cache(maxsize=1)(SampleQuality)  # a run reads weights only once
measure = MeasureSamples()
