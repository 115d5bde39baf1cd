"""Case study 3: generation and classification in one latent space (paper §5, E).

Images and labels share the latent space. An image's anchor comes from the encoder, a class's from
a table; the image decoder turns noise, a latent and a class into an image by a rectified flow.
Training adds the flow's loss on each image's own latents to the alignment of image latents with
the zone of their class. Without latents (`latent.enabled` False) what is left is the baseline, a
class-conditional rectified flow.
"""

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, PRNGKeyArray
from ml_collections import ConfigDict

from lzn_jax import plots, zoning
from lzn_jax.configuration import UserError
from lzn_jax.data import Examples, Images, normalise
from lzn_jax.evaluation.judge import fit_judge
from lzn_jax.models import Variables
from lzn_jax.randomness import Stream, normal_by_index
from lzn_jax.studies import Model, Predictions
from lzn_jax.studies.classification import NOISE_SCALE, accuracy_curves
from lzn_jax.studies.image_decoder import Condition
from lzn_jax.studies.image_latents import make_solver
from lzn_jax.studies.images import ImageStudy


class Joint(ImageStudy):
    """The joint study of a config."""

    def __init__(self, config: ConfigDict, mesh: Mesh) -> None:
        super().__init__(config, mesh)
        self.label_solver = make_solver(config, "alignment")
        self._generate = jax.jit(self.generate)
        self._generate_any = jax.jit(self.generate_any)
        self._predictions = jax.jit(self.predict)

    # Training.

    def loss(
        self, variables: Variables, batch: Mapping[str, jax.Array], key: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """RF loss + weight x alignment of image latents with label anchors (paper §5.1, E.2)."""
        config = self.config
        images, labels = normalise(batch["images"]), batch["labels"]
        flow_key, decoder_key, encoder_key, latent_key, align_key = jax.random.split(key, 5)
        terms, metrics = [], {}

        # 1. Latents of the images, for generation and for alignment.
        draws = [(latent_key, config.latent.noise_scale)]
        if config.alignment.noise_scale is not None:
            draws.append((align_key, config.alignment.noise_scale))
        drawn = self.latents.training_latents(variables, images, encoder_key, draws)
        latents, aligned = drawn[0], drawn[-1]

        # 2. Generation: rectified flow given latents and classes.
        if self._generates:
            condition = (latents, self._one_hot(labels))
            keys = (flow_key, decoder_key)
            generation_loss = self.decoder.loss(variables, images, condition, keys)
            metrics["generation_loss"] = generation_loss
            terms.append(config.training.generation_weight * generation_loss)

        # 3. Alignment: each image's latent inside the zone of its class. Classes weigh as much as
        # their share of the batch; one that is absent has no zone.
        if aligned is not None and config.alignment.weight > 0:
            alignment_loss, alignment_metrics = zoning.alignment_loss(
                aligned,
                self._label_anchors(variables),
                labels,
                solver=self.label_solver,
                cutoff=config.alignment.cutoff,
                form=config.alignment.form,
                log_weights=jnp.log(jnp.sum(self._one_hot(labels), axis=0)),
            )
            metrics |= {"alignment_loss": alignment_loss, **alignment_metrics}
            terms.append(config.alignment.weight * alignment_loss)
        return sum(terms, start=jnp.zeros(())), metrics

    def _label_anchors(self, variables: Variables) -> Array:
        anchors: Any = self.modules["label_anchors"].apply(variables["label_anchors"])
        return anchors

    def _one_hot(self, labels: Any) -> Array:
        return jax.nn.one_hot(jnp.asarray(labels), self.config.data.num_classes)

    # Inference, as pure functions of variables and a batch of examples.

    def generate(
        self, variables: Variables, key: PRNGKeyArray, request: Mapping[str, Array]
    ) -> dict[str, Array]:
        """Image i of class `labels`, from a latent drawn in the label's zone (paper §5.1)."""
        labels, index = request["labels"], request["index"]
        latents = None
        if self.has_latents:
            noise = self._noise(key, Stream.SAMPLE_LATENTS, index)
            latents = self._label_latents(variables, labels, noise)
        return self.decoder.generate(variables, key, (latents, self._one_hot(labels)), index)

    def generate_any(
        self, variables: Variables, key: PRNGKeyArray, request: Mapping[str, Array]
    ) -> dict[str, Array]:
        """Image i of no asked class: a latent from the prior, decoded to its class (paper E.3)."""
        index = request["index"]
        latents = self._noise(key, Stream.PRIOR_LATENTS, index)
        label_anchors = self._label_anchors(variables)
        labels = zoning.classify(latents, label_anchors, solver=self.label_solver)
        condition = (latents, self._one_hot(labels))
        return {**self.decoder.generate(variables, key, condition, index), "labels": labels}

    def predict(self, variables: Variables, latents: Float[Array, "b q"]) -> dict[str, Array]:
        """`classes` (b,) of latents, and the flow's `probabilities` of them (paper §5.1)."""
        label_anchors = self._label_anchors(variables)
        classes = zoning.classify(latents, label_anchors, solver=self.label_solver)
        log_probs = zoning.assignment_log_probs(
            latents, label_anchors, classes, solver=self.label_solver
        )
        return {"classes": classes, "probabilities": jnp.exp(log_probs[-1])}

    def _label_latents(self, variables: Variables, labels: Array, noise: Array) -> Array:
        label_anchors = self._label_anchors(variables)
        return zoning.compute_latents(label_anchors, noise, labels, solver=self.label_solver)

    def _noise(self, key: PRNGKeyArray, stream: Stream, index: Array) -> Array:
        return normal_by_index(key, stream, index, (self.config.latent.dim,))

    # Inference on any number of examples.

    def _draw(
        self, model: Model, count: int, labels: np.ndarray | None, key: PRNGKeyArray | None
    ) -> dict[str, np.ndarray]:
        """Images of the classes `labels`; None: class i modulo their number for image i."""
        index = np.arange(count)
        if labels is None:
            labels = (index % self.config.data.num_classes).astype(np.int32)
        request = {"labels": labels, "index": index}
        return self._generated(self._generate, model, request, key) | {"labels": labels}

    def classify(self, model: Model, images: Images) -> Predictions:
        """Class and probability of each image, from the middle of its zone.

        Raises UserError for a run without latents.
        """
        if not self.has_latents:
            raise UserError("a run with latent.enabled=False has no latents to classify by")
        latents = self.latents.of_images(model.variables, model.context, images, NOISE_SCALE)
        return self._predict(model.variables, latents)

    def _condition(
        self, model: Model, images: Images, labels: np.ndarray | None, key: PRNGKeyArray | None
    ) -> Condition:
        """Classes that are not given are those that `classify` finds."""
        if labels is None:
            labels = self.classify(model, images).classes
        return super()._condition(model, images, labels, key)

    def _predict(self, variables: Variables, latents: np.ndarray | Array) -> Predictions:
        predict = functools.partial(self._predictions, variables)
        return Predictions(**self._in_batches(predict, latents, description="classifying"))

    # Evaluation.

    def evaluate(
        self, model: Model, train: Examples, test: Examples, workdir: Path
    ) -> dict[str, float]:
        """Accuracy and reconstruction error on the test images, quality of samples.

        The former needs latents, the others a decoder that trained.
        """
        folder = workdir / "figures"
        metrics: dict[str, float] = {}
        if self.has_latents:
            anchors = self.latents.all_anchors(model.variables, test.images)
            latents = self.latents.latents(model.context, anchors, 1.0)
            metrics |= self._evaluate_classification(model, anchors, test, folder)
            if np.isfinite(latents).all():  # a run that diverges is still evaluated to its end
                self._draw_zones(model, anchors, latents, test, folder)
        return metrics | super().evaluate(model, train, test, workdir)

    def _evaluate_classification(
        self, model: Model, anchors: np.ndarray, test: Examples, folder: Path
    ) -> dict[str, float]:
        def accuracy_of(latents: np.ndarray | Array) -> float:
            return float(np.mean(self._predict(model.variables, latents).classes == test.labels))

        banks: dict[str, Mapping[str, Array]] = {"test_accuracy_batch": {}}
        if model.context:
            banks = {"test_accuracy": model.context, **banks}
        metrics = {
            name: accuracy_of(self.latents.latents(bank, anchors, NOISE_SCALE))
            for name, bank in banks.items()
        }
        curves = accuracy_curves(self.latents, model.context, anchors, accuracy_of)
        if any(curves):
            plots.classification(folder / "classification.png", *curves)
        return metrics | curves.named()

    def _draw_zones(
        self, model: Model, anchors: np.ndarray, latents: np.ndarray, test: Examples, folder: Path
    ) -> None:
        classes = jnp.arange(self.config.data.num_classes)
        nothing = jnp.zeros((len(classes), self.config.latent.dim))
        plots.latent_zones(
            folder / "zones.png",
            anchors,
            latents,
            test.labels,
            np.asarray(self._label_latents(model.variables, classes, nothing)),
            title="Latent zones of the test images",
        )

    def _evaluate_samples(self, model: Model, train: Examples, workdir: Path) -> dict[str, float]:
        judge = fit_judge(train)
        drawn = self._draw(model, self.config.evaluation.num_samples, None, None)
        metrics = {
            "sample_accuracy": float(np.mean(judge(drawn["images"]) == drawn["labels"])),
            **self._quality(drawn, train, workdir, title="Samples, a row a class"),
        }
        if self.has_latents:
            metrics |= self._evaluate_any(model, judge, workdir / "figures")
        return metrics

    def _evaluate_any(
        self, model: Model, judge: Callable[[np.ndarray], np.ndarray], folder: Path
    ) -> dict[str, float]:
        request = {"index": np.arange(self.config.evaluation.num_samples)}
        drawn = self._generated(
            self._generate_any, model, request, description="sampling any class"
        )
        plots.sample_grid(
            folder / "unconditional_samples.png",
            drawn["images"],
            drawn["labels"],
            title="Samples from the prior, a row a decoded class",
        )
        agreed = judge(drawn["images"]) == drawn["labels"]
        return {"unconditional_sample_accuracy": float(np.mean(agreed))}
