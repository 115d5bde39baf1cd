"""What is measured of a run, by the pairs of data types that its latent space can go between."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from lzn_jax import plots
from lzn_jax.data import Examples, label_names, measured_set
from lzn_jax.data.examples import decoded, evenly_spaced
from lzn_jax.data_types import text
from lzn_jax.data_types.image import ViewEncoder
from lzn_jax.evaluation.caption_quality import CaptionQuality
from lzn_jax.evaluation.classification import accuracy_curves
from lzn_jax.evaluation.judge import fit_judge
from lzn_jax.evaluation.nearest import nearest_training_images
from lzn_jax.evaluation.representation import RepresentationQuality
from lzn_jax.evaluation.retrieval import RetrievalQuality
from lzn_jax.evaluation.sample_quality import SampleQuality
from lzn_jax.evaluation.text_quality import TextQuality
from lzn_jax.latent_space import Model
from lzn_jax.run.progress import progress
from lzn_jax.tasks import NOISE_SCALE, Tasks

SHOWN = 8  # examples of each task
MAX_RECONSTRUCTED = 2000  # test images, as the paper takes of CIFAR-10


class Measurements:
    """The metrics and pictures of a latent space's runs."""

    def __init__(self, tasks: Tasks) -> None:
        self.config, self.space, self.tasks = tasks.config, tasks.space, tasks
        self._names = label_names(self.config.data)
        self._sample_quality = SampleQuality(self.config) if self.space.decoders else None

    def prepare(self, test: Examples) -> None:
        """Reads networks' weights, and logs which test texts will be left out of the measures.

        Raises UserError for weights that cannot be read.
        """
        if self._sample_quality:
            self._sample_quality.read_weights()
        if "text" in self.space.encoders:
            assert test.texts is not None
            text.readable(self.config, test.texts, "test ")

    def __call__(
        self,
        model: Model,
        train: Examples,
        test: Examples,
        workdir: Path,
        figures: str = "figures",
    ) -> dict[str, float]:
        """Metrics by name, first the number of examples, which names the set measured.

        Pictures go into the folder `figures` of `workdir`, what to keep into its cache.
        """
        folder, cache, shown = workdir / figures, workdir / "cache", test
        parts: dict[str, Callable[[], Mapping[str, float]]] = {}
        if isinstance(self.space.encoders.get("image"), ViewEncoder):
            quality = RepresentationQuality(self.tasks)
            parts["representations"] = lambda: quality(model, train, test, folder)
        if ("image", "label") in self.tasks.translations:
            parts["classification"] = lambda: self._image_to_label(model, test, folder)
        if "image" in self.space.decoders:
            parts["samples"] = lambda: self._to_image(model, train, test, folder, cache)
            parts["reconstruction"] = lambda: self._image_to_image(model, test, folder)
        if "text" in self.space.encoders:
            shown = self.pairs(test)
            parts["texts"] = lambda: self._of_texts(model, train, shown, folder)
        if self.tasks.translations and len(shown.labels):
            parts["examples of tasks"] = lambda: self._draw_examples(model, shown, folder)
        metrics = {f"{measured_set(self.config.data)}_examples": float(len(test.labels))}
        with progress(len(parts), "evaluation", unit="measurement") as bar:
            for name, part in parts.items():
                bar.set_postfix_str(name, refresh=True)
                metrics |= part()
                bar.update(1)
        return metrics

    def pairs(self, test: Examples) -> Examples:
        """Test examples whose text has tokens and whose own image can be read."""
        assert test.texts is not None
        return decoded(test, self.tasks.tokenizer.sayable(test.texts))

    def _of_texts(
        self, model: Model, train: Examples, pairs: Examples, folder: Path
    ) -> dict[str, float]:
        """Retrieval, and quality of texts and of their images; nothing without pairs."""
        if len(pairs.labels) == 0:
            return {}
        metrics = RetrievalQuality(self.tasks)(model, pairs, folder / "retrieval.png")
        if "text" in self.space.decoders:
            is_ruled = self.config.data.name == "digits"
            quality = TextQuality(self.tasks, train) if is_ruled else CaptionQuality(self.tasks)
            metrics |= quality(model, pairs)
        return metrics

    def _draw_examples(self, model: Model, test: Examples, folder: Path) -> dict[str, float]:
        plots.tasks(folder / "tasks.png", self._examples(model, test))
        return {}

    def _examples(self, model: Model, test: Examples) -> list[tuple[str, Any, Any]]:
        """Titles, sources and targets of each pair of types; sources are of different classes."""
        rows = np.arange(len(test.labels))
        if self.tasks.has_classes:
            rows = rows[np.unique(test.labels[rows], return_index=True)[1]][:SHOWN]
        rows = rows[evenly_spaced(min(len(rows), SHOWN), len(rows))]
        samples = {"image": test.images[rows], "label": test.labels[rows]}
        if test.texts is not None:
            samples["text"] = test.texts[rows]
        found: list[tuple[str, Any, Any]] = []
        for source, target in self.tasks.translations:
            made = self.tasks.translate(model, samples[source], source, target)
            pair = self._named(samples[source], source), self._named(made, target)
            found.append((f"{source} to {target}", *pair))
        for target in self.space.decoders:
            drawn = self.tasks.translate(model, None, None, target, count=len(rows))
            found.append((f"prior to {target}", None, drawn))
        return found

    def _named(self, samples: Any, kind: str) -> Any:
        """Names of the classes where samples are labels, else the samples."""
        return np.array(self._names)[samples] if kind == "label" else samples

    def _image_to_label(self, model: Model, test: Examples, folder: Path) -> dict[str, float]:
        """Accuracy of classification by zone, and a picture of the zones."""
        anchors = self.space.anchors(model.variables, test.images)
        latents = self.space.latents(model.context, anchors, 1.0)

        def accuracy_of(latents: np.ndarray | Array) -> float:
            return float(np.mean(self.tasks.classes(model, latents).classes == test.labels))

        banks: dict[str, Mapping[str, Array]] = {"test_accuracy_batch": {}}
        if "anchors" in model.context:
            banks = {"test_accuracy": model.context, **banks}
        metrics = {
            name: accuracy_of(self.space.latents(bank, anchors, NOISE_SCALE))
            for name, bank in banks.items()
        }
        curves = accuracy_curves(self.space, model.context, anchors, accuracy_of)
        if any(curves):
            plots.classification(folder / "classification.png", *curves)
        if np.isfinite(latents).all():  # a run that diverges is still evaluated to its end
            classes = jnp.arange(self.config.data.num_classes)
            request = {"samples": classes, "index": classes}
            key = jax.random.key(0)
            centres = self.tasks.latents_from(model, key, 0.0, request, "label")
            plots.latent_zones(
                folder / "zones.png",
                anchors,
                latents,
                test.labels,
                np.asarray(centres),
                title="Latent zones of the test images",
                class_names=self._names,
            )
        if "anchors" in model.context:
            metrics["image_to_label_accuracy"] = metrics["test_accuracy"]
        return metrics | curves.named()

    def _to_image(
        self, model: Model, train: Examples, test: Examples, folder: Path, cache: Path
    ) -> dict[str, float]:
        """Quality of samples, and whether they are of the classes that they should be.

        Samples of classes count where the decoder is told of them, else those of the prior.
        """
        count, has_classes = self.config.evaluation.num_samples, self.tasks.has_classes
        judge = fit_judge(train) if has_classes else None
        drawn = {"samples": self.tasks.draw(model, count)}
        titles = {"samples": "Samples, a row a class" if has_classes else "Samples"}
        names = {"samples": "sample_accuracy"}
        if has_classes and self.tasks.has_latents:
            drawn["unconditional_samples"] = self.tasks.draw_any(model, count)
            titles["unconditional_samples"] = "Samples from the prior, a row a decoded class"
            names["unconditional_samples"] = "unconditional_sample_accuracy"
        metrics = {}
        for name, found in drawn.items():
            path = folder / f"{name}.png"
            plots.sample_grid(path, found["images"], found["labels"], self._names, titles[name])
            if judge:
                metrics[names[name]] = float(np.mean(judge(found["images"]) == found["labels"]))
        is_told = self.space.decoders["image"].told is not None
        counted = drawn["samples"] if is_told else list(drawn.values())[-1]
        assert self._sample_quality is not None
        metrics |= self._sample_quality(train, counted["images"], cache)
        metrics |= nearest_training_images(train, test, counted["images"])
        metrics["sampling_evaluations"] = float(np.mean(counted["num_evaluations"]))
        return metrics

    def _image_to_image(self, model: Model, test: Examples, folder: Path) -> dict[str, float]:
        """Reconstruction error: to noise and back through the decoder's flow (paper C.3)."""
        rows = reconstructed_rows(len(test.labels))
        images = test.images[rows]
        result = self.tasks.reconstruct(model, images, test.labels[rows])
        path = folder / "reconstructions.png"
        plots.reconstructions(path, images, result["images"], result["errors"])
        return {"reconstruction_l2": float(np.mean(result["errors"]))}


def reconstructed_rows(count: int) -> np.ndarray:
    """The test images that are reconstructed: all, or some at even steps, as files go by class."""
    chosen = min(count, MAX_RECONSTRUCTED)
    return np.arange(chosen) * count // chosen
