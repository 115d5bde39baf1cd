"""Quality of generated images: sample metrics, class accuracy, distances to training images."""

import functools
import logging
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from ml_collections import ConfigDict

from lzn_jax import plots
from lzn_jax.configuration import UserError
from lzn_jax.data import Examples, Images, label_names
from lzn_jax.data.examples import MAX_BYTES_IN_MEMORY
from lzn_jax.evaluation.clip_weights import clip_extractor
from lzn_jax.evaluation.extractors import Extractor
from lzn_jax.evaluation.feature_network import feature_extractor
from lzn_jax.evaluation.inception_weights import inception_extractor
from lzn_jax.evaluation.judge import fit_judge
from lzn_jax.evaluation.measurements import figures_folder
from lzn_jax.evaluation.metrics import generation_metrics
from lzn_jax.evaluation.nearest import nearest_training_images
from lzn_jax.trained_model import TrainedModel

MIN_IMAGES = 50  # fewer cannot represent a distribution
MAX_REFERENCE = 50_000
MAX_PIXELS = 32  # per side, for the feature network
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
