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
from flax import linen as nn
from jax.sharding import Mesh
from jaxtyping import Array, Float, PRNGKeyArray
from ml_collections import ConfigDict

from lzn_jax import models, plots, zoning
from lzn_jax.configuration import UserError
from lzn_jax.data import Examples, Images, Transform, normalise, whole_image
from lzn_jax.evaluation.judge import fit_judge
from lzn_jax.models import Variables
from lzn_jax.randomness import Stream, key_or_seed, normal_by_index
from lzn_jax.studies import Model, Predictions, batched
from lzn_jax.studies.classification import accuracy_curves
from lzn_jax.studies.image_decoder import Condition, ImageDecoder
from lzn_jax.studies.image_latents import ImageLatents, make_solver
from lzn_jax.studies.interpolation import Interpolation
from lzn_jax.studies.reconstruction import Reconstruction, evaluated_rows
from lzn_jax.studies.sample_quality import SampleQuality


class Joint:
    """The joint study of a config; inference divides its batches over the mesh."""

    main_feature = "anchor"

    def __init__(self, config: ConfigDict, mesh: Mesh) -> None:
        self.config = config
        self.modules: Mapping[str, nn.Module] = models.build(config)
        self.transform: Transform = whole_image(config.data)
        self.label_solver = make_solver(config, "alignment")
        self._in_batches = batched(config, mesh)
        self.decoder = ImageDecoder(config, self.modules["decoder"])
        if config.latent.enabled:
            self.latents = ImageLatents(config, self.modules["encoder"], self._in_batches)
        self._generate = jax.jit(self.generate)
        self._generate_any = jax.jit(self.generate_any)
        self._predictions = jax.jit(self.predict)
        self._reconstruction = Reconstruction(self.decoder, self._in_batches)
        self._interpolation = Interpolation(self.decoder, self._in_batches)
        self._sample_quality = SampleQuality(config)

    # Training.

    def init(self, key: jax.Array) -> Variables:
        """Fresh variables of every network."""
        data, latent = self.config.data, self.config.latent
        image = jnp.zeros((1, data.image_size, data.image_size, data.channels))
        z = jnp.zeros((1, latent.dim)) if latent.enabled else None
        label = jnp.zeros((1, data.num_classes))
        init = {
            "encoder": lambda module, key: module.init(key, image, train=False),
            "decoder": lambda module, key: module.init(
                key, image, jnp.zeros(1), z, label, train=False
            ),
            "label_anchors": lambda module, key: module.init(key),
        }
        keys = dict(zip(sorted(init), jax.random.split(key, len(init)), strict=True))
        return {name: init[name](module, keys[name]) for name, module in self.modules.items()}

    def loss(
        self, variables: Variables, batch: Mapping[str, jax.Array], key: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """RF loss + weight x alignment of image latents with label anchors (paper §5.1, E.2)."""
        config = self.config
        images, labels = normalise(batch["images"]), batch["labels"]
        flow_key, decoder_key, encoder_key, latent_key, align_key = jax.random.split(key, 5)
        terms, metrics = [], {}

        # 1. Latents of the images, for generation and for alignment.
        latents = aligned = None
        if config.latent.enabled:
            anchors = self.latents.training_anchors(variables, images, encoder_key)
            latents = aligned = self.latents.draw(anchors, latent_key, config.latent.noise_scale)
            if config.alignment.noise_scale is not None:
                aligned = self.latents.draw(anchors, align_key, config.alignment.noise_scale)

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

    @property
    def _generates(self) -> bool:
        """Whether the decoder trains; there is nothing to evaluate of one that does not."""
        generates: bool = self.config.training.generation_weight > 0
        return generates

    def _label_anchors(self, variables: Variables) -> Array:
        anchors: Any = self.modules["label_anchors"].apply(variables["label_anchors"])
        return anchors

    def _one_hot(self, labels: Array) -> Array:
        return jax.nn.one_hot(labels, self.config.data.num_classes)

    # Inference, as pure functions of variables and a batch of examples.

    def generate(
        self, variables: Variables, key: PRNGKeyArray, request: Mapping[str, Array]
    ) -> dict[str, Array]:
        """Image i of class `labels`, from a latent drawn in the label's zone (paper §5.1)."""
        labels, index = request["labels"], request["index"]
        latents = None
        if self.config.latent.enabled:
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

    def context(self, variables: Variables, train: Examples) -> dict[str, jax.Array]:
        """Context anchors of the image encoder; empty without latents or context."""
        return self.latents.context(variables, train) if self.config.latent.enabled else {}

    def context_shapes(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes of what `context` returns."""
        return self.latents.context_shapes() if self.config.latent.enabled else {}

    def sample(
        self,
        model: Model,
        count: int,
        labels: np.ndarray | None = None,
        key: PRNGKeyArray | None = None,
    ) -> Examples:
        """Images of the classes `labels`; None: class i modulo their number for image i."""
        drawn = self._draw(model, count, labels, key)
        return Examples(drawn["images"], drawn["labels"])

    def _draw(
        self,
        model: Model,
        count: int,
        labels: np.ndarray | None = None,
        key: PRNGKeyArray | None = None,
    ) -> dict[str, np.ndarray]:
        """`generate` of the images 0 to `count` - 1, and their `labels`."""
        index = np.arange(count)
        if labels is None:
            labels = (index % self.config.data.num_classes).astype(np.int32)
        key = key_or_seed(key, self.config.seed)
        generate = functools.partial(self._generate, model.variables, key)
        request = {"labels": labels, "index": index}
        return self._in_batches(generate, request, description="sampling") | {"labels": labels}

    def classify(self, model: Model, images: Images) -> Predictions:
        """Class and probability of each image, from the middle of its zone (α = 0).

        Raises UserError for a run without latents.
        """
        if not self.config.latent.enabled:
            raise UserError("a run with latent.enabled=False has no latents to classify by")
        anchors = self.latents.all_anchors(model.variables, images)
        return self._predict(model.variables, self.latents.latents(model.context, anchors, 0.0))

    def embed(
        self, model: Model, images: Images, key: PRNGKeyArray | None = None
    ) -> dict[str, np.ndarray]:
        """Features of images: anchor, latent, latent with α = 0; for runs with latents."""
        anchors = self.latents.all_anchors(model.variables, images)
        return {"anchor": anchors} | self.latents.features(model.context, anchors, key=key)

    def reconstruct(
        self,
        model: Model,
        images: Images,
        labels: np.ndarray | None = None,
        key: PRNGKeyArray | None = None,
    ) -> dict[str, np.ndarray]:
        """Images to noise and back given their latents (α = 1) and classes (paper E.3).

        Without labels, classes are those that `classify` finds.
        """
        condition = self._condition(model, images, labels, key)
        return self._reconstruction(model.variables, images, condition)

    def interpolate(
        self,
        model: Model,
        images: Images,
        labels: np.ndarray | None = None,
        key: PRNGKeyArray | None = None,
    ) -> dict[str, np.ndarray]:
        """From the first of two images to the second; classes as in `reconstruct`."""
        condition = self._condition(model, images, labels, key)
        return self._interpolation(model.variables, images, condition)

    def _condition(
        self,
        model: Model,
        images: Images,
        labels: np.ndarray | None,
        key: PRNGKeyArray | None,
    ) -> Condition:
        """What the decoder gets to see of images: latents at α = 1, as in training, and classes."""
        latents = None
        if self.config.latent.enabled:
            anchors = self.latents.all_anchors(model.variables, images)
            latents = self.latents.latents(model.context, anchors, 1.0, key=key)
        if labels is None:
            labels = self.classify(model, images).classes
        return latents, self._one_hot(jnp.asarray(labels))

    def _predict(self, variables: Variables, latents: np.ndarray | Array) -> Predictions:
        predict = functools.partial(self._predictions, variables)
        return Predictions(**self._in_batches(predict, latents, description="classifying"))

    # Evaluation.

    def prepare_evaluation(self) -> None:
        """Reads the weights of the networks that look at samples; raises UserError."""
        if self._generates:
            self._sample_quality.read_weights()

    def evaluate(
        self, model: Model, train: Examples, test: Examples, workdir: Path
    ) -> dict[str, float]:
        """Accuracy and reconstruction error on the test images, quality of samples.

        The former needs latents, the others a decoder that trained.
        """
        folder = workdir / "figures"
        metrics: dict[str, float] = {}
        if self.config.latent.enabled:
            anchors = self.latents.all_anchors(model.variables, test.images)
            latents = self.latents.latents(model.context, anchors, 1.0)
            metrics |= self._evaluate_classification(model, anchors, test, folder)
            if np.isfinite(latents).all():  # a run that diverges is still evaluated to its end
                self._draw_zones(model, anchors, latents, test, folder)
        if self._generates:
            metrics |= self._evaluate_samples(model, train, workdir)
            metrics |= self._evaluate_reconstruction(model, test, folder)
        return metrics

    def _evaluate_classification(
        self, model: Model, anchors: np.ndarray, test: Examples, folder: Path
    ) -> dict[str, float]:
        def accuracy_of(latents: np.ndarray | Array) -> float:
            return float(np.mean(self._predict(model.variables, latents).classes == test.labels))

        banks: dict[str, Mapping[str, Array]] = {"test_accuracy_batch": {}}
        if model.context:
            banks = {"test_accuracy": model.context, **banks}
        metrics = {
            name: accuracy_of(self.latents.latents(bank, anchors, 0.0))
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
        folder, count = workdir / "figures", self.config.evaluation.num_samples
        judge = fit_judge(train)
        drawn = self._draw(model, count)
        images, labels = drawn["images"], drawn["labels"]
        metrics = {
            "sample_accuracy": float(np.mean(judge(images) == labels)),
            **self._sample_quality(train, images, workdir / "cache"),
            "sampling_evaluations": float(np.mean(drawn["num_evaluations"])),
        }
        plots.sample_grid(folder / "samples.png", images, labels, title="Samples, a row a class")
        if self.config.latent.enabled:
            metrics |= self._evaluate_any(model, judge, folder)
        return metrics

    def _evaluate_any(
        self, model: Model, judge: Callable[[np.ndarray], np.ndarray], folder: Path
    ) -> dict[str, float]:
        drawn = self._in_batches(
            functools.partial(
                self._generate_any, model.variables, jax.random.key(self.config.seed)
            ),
            {"index": np.arange(self.config.evaluation.num_samples)},
            description="sampling any class",
        )
        plots.sample_grid(
            folder / "unconditional_samples.png",
            drawn["images"],
            drawn["labels"],
            title="Samples from the prior, a row a decoded class",
        )
        agreed = judge(drawn["images"]) == drawn["labels"]
        return {"unconditional_sample_accuracy": float(np.mean(agreed))}

    def _evaluate_reconstruction(
        self, model: Model, test: Examples, folder: Path
    ) -> dict[str, float]:
        rows = evaluated_rows(len(test.labels))
        images = test.images[rows]
        result = self.reconstruct(model, images, test.labels[rows])
        plots.reconstructions(
            folder / "reconstructions.png", images, result["images"], result["errors"]
        )
        return {"reconstruction_l2": float(np.mean(result["errors"]))}
