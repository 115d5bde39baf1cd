"""Case study 3: generation and classification in one latent space (paper §5, E).

Images and labels share the latent space. An image's anchor comes from the encoder, a class's from
a table; the image decoder turns noise, a latent and a class into an image by a rectified flow.
Training adds the flow's loss on each image's own latents to the alignment of image latents with
the zone of their class. Without latents (`latent.enabled` False) what is left is the baseline, a
class-conditional rectified flow.
"""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.sharding import Mesh
from jaxtyping import Array, Float, UInt8
from ml_collections import ConfigDict

from lzn_jax import figures, models, rectified_flow, zoning
from lzn_jax.data import Examples, Images, Transform, normalise, to_uint8, whole_image
from lzn_jax.evaluation.batching import in_batches
from lzn_jax.evaluation.judge import fit_judge
from lzn_jax.microbatches import by_example
from lzn_jax.randomness import Stream, normal_by_index, stream_key
from lzn_jax.studies import Model, Predictions, Variables, examples_at_a_time

_SHOWN_RECONSTRUCTIONS = 30


class Joint:
    """The joint study of a config; inference divides its batches over the mesh."""

    def __init__(self, config: ConfigDict, mesh: Mesh) -> None:
        self.config = config
        self.modules: Mapping[str, nn.Module] = models.build(config)
        self.transform: Transform = whole_image(config.data)
        solvers = {"euler": zoning.Euler, "dpm": zoning.DPMSolver}
        latent, precision = config.latent, config.latent.precision
        self.latent_solver = solvers[latent.solver](latent.num_steps, precision=precision)
        self.label_solver = zoning.Euler(config.alignment.num_steps, precision=precision)
        self.sampler = rectified_flow.Sampler(config.sampling.sampler, config.sampling.num_steps)
        self._in_batches = functools.partial(
            in_batches,
            mesh=mesh,
            batch_size=examples_at_a_time(config.training),
        )
        self._jit = {
            function.__name__: jax.jit(function)
            for function in (self.anchors, self.generate, self.generate_any, self.reconstruct)
        }

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
            anchors = self._train("encoder", variables, encoder_key, images)
            latents = aligned = self._draw_latents(anchors, latent_key, config.latent.noise_scale)
            if config.alignment.noise_scale is not None:
                aligned = self._draw_latents(anchors, align_key, config.alignment.noise_scale)

        # 2. Generation: rectified flow given latents and classes.
        if config.training.generation_weight > 0:

            def velocity(x_t, t, condition):
                return self._train("decoder", variables, decoder_key, x_t, t, *condition)

            condition = (latents, self._one_hot(labels))
            generation_loss = rectified_flow.loss(velocity, images, condition, flow_key)
            metrics["generation_loss"] = generation_loss
            terms.append(config.training.generation_weight * generation_loss)

        # 3. Alignment: each image's latent inside the zone of its class. Classes weigh as much as
        # their share of the batch; one that is absent has no zone.
        if aligned is not None and config.alignment.weight > 0:
            alignment_loss, alignment_metrics = zoning.alignment_loss(
                aligned,
                self._apply("label_anchors", variables),
                labels,
                solver=self.label_solver,
                cutoff=config.alignment.cutoff,
                form=config.alignment.form,
                log_weights=jnp.log(jnp.sum(self._one_hot(labels), axis=0)),
            )
            metrics |= {"alignment_loss": alignment_loss, **alignment_metrics}
            terms.append(config.alignment.weight * alignment_loss)
        return sum(terms, start=jnp.zeros(())), metrics

    def _train(self, network: str, variables: Variables, key: jax.Array, *inputs: Any) -> Array:
        """A network on a batch in training mode, a micro-batch at a time; the key is consumed."""

        def apply(variables, key, *inputs):
            rngs = {"dropout": key}
            return self.modules[network].apply(variables, *inputs, train=True, rngs=rngs)

        is_random = self.config[network].dropout > 0
        train = by_example(apply, self.config.training.microbatch_size, is_random=is_random)
        output: Array = train(variables[network], key, *inputs)
        return output

    def _apply(self, network: str, variables: Variables, *inputs: Any, **options: Any) -> Array:
        output: Any = self.modules[network].apply(variables[network], *inputs, **options)
        return output

    def _draw_latents(self, anchors: Array, key: jax.Array, noise_scale: float) -> Array:
        noise = noise_scale * jax.random.normal(key, anchors.shape, anchors.dtype)
        return zoning.compute_latents(anchors, noise, solver=self.latent_solver)

    def _one_hot(self, labels: Array) -> Array:
        return jax.nn.one_hot(labels, self.config.data.num_classes)

    # Inference, as pure functions of variables and a batch of examples.

    def anchors(self, variables: Variables, images: UInt8[Array, "b h w c"]) -> Float[Array, "b q"]:
        """Anchors of images."""
        return self._apply("encoder", variables, normalise(images), train=False)

    def velocity(self, variables: Variables, x_t: Array, t: Array, condition: Any) -> Array:
        """The decoder's velocity, its condition being (latents or None, one-hot classes)."""
        return self._apply("decoder", variables, x_t, t, *condition, train=False)

    def generate(self, variables: Variables, request: Mapping[str, Array]) -> dict[str, Array]:
        """Image i of class `labels`, from a latent drawn in the label's zone (paper §5.1)."""
        labels, index = request["labels"], request["index"]
        latents = None
        if self.config.latent.enabled:
            noise = self._noise(Stream.SAMPLE_LATENTS, index, self.config.latent.dim)
            latents = self._label_latents(variables, labels, noise)
        return {"images": self._flow(variables, latents, labels, index)}

    def generate_any(self, variables: Variables, request: Mapping[str, Array]) -> dict[str, Array]:
        """Image i of no asked class: a latent from the prior, decoded to its class (paper E.3)."""
        index = request["index"]
        latents = self._noise(Stream.PRIOR_LATENTS, index, self.config.latent.dim)
        label_anchors = self._apply("label_anchors", variables)
        labels = zoning.classify(latents, label_anchors, solver=self.label_solver)
        return {"images": self._flow(variables, latents, labels, index), "labels": labels}

    def reconstruct(self, variables: Variables, request: Mapping[str, Array]) -> dict[str, Array]:
        """Images to noise and back given their latents and classes (paper C.3)."""
        images = normalise(request["images"])
        condition = (request.get("latents"), self._one_hot(request["labels"]))
        velocity = functools.partial(self.velocity, variables)
        noise = rectified_flow.invert(velocity, images, condition, self.sampler).x
        again = rectified_flow.generate(velocity, noise, condition, self.sampler).x
        errors = jnp.sqrt(jnp.sum((again - images) ** 2, axis=(1, 2, 3)))
        return {"images": to_uint8(again), "errors": errors}

    def _flow(
        self, variables: Variables, latents: Array | None, labels: Array, index: Array
    ) -> Array:
        data = self.config.data
        shape = (data.image_size, data.image_size, data.channels)
        noise = self._noise(Stream.SAMPLE_NOISE, index, *shape)
        condition = (latents, self._one_hot(labels))
        velocity = functools.partial(self.velocity, variables)
        return to_uint8(rectified_flow.generate(velocity, noise, condition, self.sampler).x)

    def _label_latents(self, variables: Variables, labels: Array, noise: Array) -> Array:
        label_anchors = self._apply("label_anchors", variables)
        return zoning.compute_latents(label_anchors, noise, labels, solver=self.label_solver)

    def _noise(self, stream: Stream, index: Array, *shape: int) -> Array:
        return normal_by_index(self.config.seed, stream, index, shape)

    # Inference on any number of examples.

    def context(self, variables: Variables, train: Examples) -> dict[str, jax.Array]:
        """Anchors of a fixed random sample of training images, labels not used."""
        shapes = self.context_shapes()
        if not shapes:
            return {}
        key = stream_key(self.config.seed, Stream.CONTEXT)
        chosen = jax.random.permutation(key, len(train.images))[: self.config.latent.context_size]
        images = train.images[np.asarray(chosen)]
        return {"anchors": jnp.asarray(self._all_anchors(variables, images, "context anchors"))}

    def context_shapes(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Shape of the bank of context anchors; empty without latents or context."""
        latent = self.config.latent
        if not latent.enabled or latent.context_size == 0:
            return {}
        shape = (latent.context_size, latent.dim)
        return {"anchors": jax.ShapeDtypeStruct(shape, jnp.float32)}

    def sample(self, model: Model, count: int) -> Examples:
        """`count` class-conditional images; image i has class i modulo the number of classes."""
        index = np.arange(count)
        labels = (index % self.config.data.num_classes).astype(np.int32)
        images = self._in_batches(
            functools.partial(self._jit["generate"], model.variables),
            {"labels": labels, "index": index},
            description="sampling",
        )["images"]
        return Examples(images, labels)

    def classify(self, model: Model, images: Images) -> Predictions:
        """Class and probability of each image, from the middle of its zone (α = 0)."""
        anchors = self._all_anchors(model.variables, images, "encoding")
        latents = self._latents(model.context, anchors, noise_scale=0.0)
        return self._predict(model.variables, latents)

    def _all_anchors(self, variables: Variables, images: Images, description: str) -> np.ndarray:
        encode = functools.partial(self._jit["anchors"], variables)
        return self._in_batches(encode, images, description=description)

    def _latents(
        self, context: Mapping[str, Array], anchors: np.ndarray, noise_scale: float
    ) -> Array:
        """Latents among the context anchors, or, without any, among the images themselves."""
        count, dim = anchors.shape
        noise = noise_scale * self._noise(Stream.IMAGE_LATENTS, jnp.arange(count), dim)
        if not context:
            return zoning.compute_latents(anchors, noise, solver=self.latent_solver)
        return zoning.latents_in_context(
            anchors, context["anchors"], noise, solver=self.latent_solver
        )

    def _predict(self, variables: Variables, latents: Array) -> Predictions:
        label_anchors = self._apply("label_anchors", variables)
        classes = zoning.classify(latents, label_anchors, solver=self.label_solver)
        log_probs = zoning.assignment_log_probs(
            latents, label_anchors, classes, solver=self.label_solver
        )
        return Predictions(np.asarray(classes), np.exp(np.asarray(log_probs[-1])))

    # Evaluation.

    def evaluate(
        self, model: Model, train: Examples, test: Examples, figures: Path
    ) -> dict[str, float]:
        """Accuracy, recognised samples and reconstruction error on the test images."""
        metrics: dict[str, float] = {}
        if self.config.latent.enabled:
            metrics |= self._evaluate_latents(model, test, figures)
        metrics |= self._evaluate_samples(model, train, figures)
        metrics |= self._evaluate_reconstruction(model, test, figures)
        return metrics

    def _evaluate_latents(self, model: Model, test: Examples, folder: Path) -> dict[str, float]:
        anchors = self._all_anchors(model.variables, test.images, "encoding")
        metrics = {}
        if model.context:
            centres = self._latents(model.context, anchors, noise_scale=0.0)
            predictions = self._predict(model.variables, centres)
            metrics["test_accuracy"] = float(np.mean(predictions.classes == test.labels))
        centres = self._latents({}, anchors, noise_scale=0.0)
        predictions = self._predict(model.variables, centres)
        metrics["test_accuracy_batch"] = float(np.mean(predictions.classes == test.labels))

        latents = np.asarray(self._latents(model.context, anchors, noise_scale=1.0))
        if np.isfinite(latents).all():  # a run that diverges is still evaluated to its end
            self._draw_zones(model, anchors, latents, test, folder)
        return metrics

    def _draw_zones(
        self, model: Model, anchors: np.ndarray, latents: np.ndarray, test: Examples, folder: Path
    ) -> None:
        classes = jnp.arange(self.config.data.num_classes)
        nothing = jnp.zeros((len(classes), self.config.latent.dim))
        figures.latent_zones(
            folder / "zones.png",
            anchors,
            latents,
            test.labels,
            np.asarray(self._label_latents(model.variables, classes, nothing)),
            title="Latent zones of the test images",
        )

    def _evaluate_samples(self, model: Model, train: Examples, folder: Path) -> dict[str, float]:
        count = self.config.evaluation.num_samples
        judge = fit_judge(train)
        samples = self.sample(model, count)
        metrics = {"sample_accuracy": float(np.mean(judge(samples.images) == samples.labels))}
        figures.sample_grid(
            folder / "samples.png", samples.images, samples.labels, title="Samples, a row a class"
        )
        if self.config.latent.enabled:
            drawn = self._in_batches(
                functools.partial(self._jit["generate_any"], model.variables),
                {"index": np.arange(count)},
                description="sampling any class",
            )
            agreed = judge(drawn["images"]) == drawn["labels"]
            metrics["unconditional_sample_accuracy"] = float(np.mean(agreed))
            figures.sample_grid(
                folder / "unconditional_samples.png",
                drawn["images"],
                drawn["labels"],
                title="Samples from the prior, a row a decoded class",
            )
        return metrics

    def _evaluate_reconstruction(
        self, model: Model, test: Examples, folder: Path
    ) -> dict[str, float]:
        request: dict[str, Any] = {"images": test.images, "labels": test.labels}
        if self.config.latent.enabled:
            anchors = self._all_anchors(model.variables, test.images, "encoding")
            request["latents"] = self._latents(model.context, anchors, noise_scale=1.0)
        result = self._in_batches(
            functools.partial(self._jit["reconstruct"], model.variables),
            request,
            description="reconstructing",
        )
        shown = slice(_SHOWN_RECONSTRUCTIONS)
        figures.reconstructions(
            folder / "reconstructions.png",
            test.images[shown],
            result["images"][shown],
            result["errors"][shown],
            title="Test images and their reconstructions",
        )
        return {"reconstruction_l2": float(np.mean(result["errors"]))}
