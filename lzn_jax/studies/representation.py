"""Case study 2: representations without labels (paper §4, D).

Two augmented views of an image shall share a zone: latents of the first views, cut by their own
anchors, are aligned with the zones that the second views' anchors cut. Nothing else is trained
on. The objective 'simclr' puts SimCLR's loss in place of it, on the same network and batches.
"""

import contextlib
import dataclasses
import functools
import itertools
import logging
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.sharding import Mesh
from jaxtyping import Array, Float, PRNGKeyArray, UInt8
from ml_collections import ConfigDict

from lzn_jax import models, plots, zoning
from lzn_jax.data import Examples, Images, TrainingBatches, Transform, normalise
from lzn_jax.data.augment import Augmentation, augment
from lzn_jax.data.crops import random_views
from lzn_jax.evaluation import probes
from lzn_jax.evaluation.neighbours import knn_log_votes
from lzn_jax.losses import contrastive
from lzn_jax.microbatches import by_example
from lzn_jax.models import Variables
from lzn_jax.randomness import Stream, stream_key
from lzn_jax.studies import Model, batched
from lzn_jax.studies.image_latents import ImageLatents, make_solver

_log = logging.getLogger(__name__)


class Representation:
    """The representation study of a config; inference divides its batches over the mesh."""

    main_feature = "backbone"

    def __init__(self, config: ConfigDict, mesh: Mesh) -> None:
        self.config = config
        self.modules: Mapping[str, nn.Module] = models.build(config)
        self.augmentation = _augmentation(config)
        self.probe_augmentation = _probe_augmentation(config)
        self._views = Views(
            config.data.image_size, config.data.channels, config.augmentation.min_area
        )
        self.transform: Transform = self._views
        self._in_batches = batched(config, mesh)
        self.latents = ImageLatents(config, self.modules["encoder"], self._in_batches)
        self.alignment_solver = make_solver(config, "alignment")
        self._features = jax.jit(self.features)
        self._augmented_features = jax.jit(self.augmented_features)

    # Training.

    def init(self, key: jax.Array) -> Variables:
        """Fresh variables of the encoder."""
        data = self.config.data
        image = jnp.zeros((1, data.image_size, data.image_size, data.channels))
        return {"encoder": self.modules["encoder"].init(key, image, train=False)}

    def loss(
        self, variables: Variables, batch: Mapping[str, jax.Array], key: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Alignment of the two views of each image (paper §4.1, D.1), or SimCLR's loss.

        The batch is {'views': (b, 2, h, w, c) uint8}, cropped and not yet augmented otherwise.
        """
        augment_key, latent_key = jax.random.split(key)
        anchors = self.view_anchors(variables, batch["views"], augment_key)
        first, second = anchors[:, 0], anchors[:, 1]
        if self.config.objective == "simclr":
            temperature = self.config.simclr.temperature
            return contrastive.nt_xent(first, second, temperature=temperature)
        latents = self.latents.draw(first, latent_key, self.config.latent.noise_scale)
        return zoning.alignment_loss(
            latents,
            second,
            jnp.arange(len(second)),
            solver=self.alignment_solver,
            cutoff=self.config.alignment.cutoff,
            form=self.config.alignment.form,
        )

    def view_anchors(
        self, variables: Variables, views: UInt8[Array, "b 2 h w c"], key: PRNGKeyArray
    ) -> Float[Array, "b 2 q"]:
        """Anchors of augmented views, in training mode, a micro-batch of images at a time."""
        encoder, augmentation = self.modules["encoder"], self.augmentation

        def network(variables, keys, views):
            view_keys = jax.vmap(lambda key: jax.random.split(key, 2))(keys)
            one = functools.partial(augment, settings=augmentation)
            images = jax.vmap(jax.vmap(one))(views, view_keys)
            anchors: Any = encoder.apply(
                variables, images.reshape(-1, *images.shape[2:]), train=True
            )
            return anchors.reshape(len(views), 2, -1)

        call = by_example(network, self.config.training.microbatch_size)
        anchors: Array = call(variables["encoder"], key, views)
        return anchors

    # Inference.

    def features(
        self, variables: Variables, images: UInt8[Array, "b h w c"]
    ) -> dict[str, Float[Array, "b d"]]:
        """Anchors ('head') and pooled features before the head ('backbone'): a pure function."""
        return self._encode(variables, normalise(images))

    def augmented_features(
        self, variables: Variables, request: Mapping[str, Array]
    ) -> dict[str, Float[Array, "b d"]]:
        """Features of crops (b, h, w, c) uint8, each augmented by the random numbers of its index.

        A pure function; augmented as the probe's protocol says.
        """
        key = stream_key(self.config.seed, Stream.PROBE)
        keys = jax.vmap(functools.partial(jax.random.fold_in, key))(request["index"])
        one = functools.partial(augment, settings=self.probe_augmentation)
        return self._encode(variables, jax.vmap(one)(request["crops"], keys))

    def _encode(self, variables: Variables, images: Array) -> dict[str, Array]:
        encode: Any = functools.partial(
            self.modules["encoder"].apply, variables["encoder"], images, train=False
        )
        return {name: encode(features=name) for name in ("head", "backbone")}

    def context(self, variables: Variables, train: Examples) -> dict[str, jax.Array]:
        """Context anchors of the encoder; empty without context."""
        return self.latents.context(variables, train)

    def context_shapes(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes of what `context` returns."""
        return self.latents.context_shapes()

    def embed(
        self,
        model: Model,
        images: Images,
        stream: Stream = Stream.IMAGE_LATENTS,
        key: PRNGKeyArray | None = None,
    ) -> dict[str, Float[np.ndarray, "n d"]]:
        """The paper's four features (D.3): backbone, head, latent, latent with α = 0."""
        encode = functools.partial(self._features, model.variables)
        found = self._in_batches(encode, images, description="embedding")
        return found | self.latents.features(model.context, found["head"], stream, key)

    # Evaluation.

    def prepare_evaluation(self) -> None:
        """Nothing: probes need features alone."""

    def evaluate(
        self, model: Model, train: Examples, test: Examples, workdir: Path
    ) -> dict[str, float]:
        """Linear probes and nearest neighbours, trained with the labels of training images.

        Metrics of the backbone have plain names, those of other features a suffix. Images of one
        class have none.
        """
        queries = self.embed(model, test.images)
        if len(test.labels) >= plots.MIN_POINTS:
            plots.tsne(
                workdir / "figures" / "embedding.png",
                queries["backbone"],
                test.labels,
                title="Features of the test images (t-SNE)",
            )
        if self.config.data.num_classes == 1:
            _log.info("probes and neighbours are left out: they need labels of two classes or more")
            return {}
        return self._scores(model, train, test, queries)

    def _scores(
        self, model: Model, train: Examples, test: Examples, queries: Mapping[str, np.ndarray]
    ) -> dict[str, float]:
        """Accuracy of probes and neighbours on each of the test images' features."""
        bank = self.embed(model, train.images, Stream.TRAIN_LATENTS)
        num_classes = self.config.data.num_classes
        classifiers = self._fit_probes(model, train, bank)
        metrics = {}
        for name, features in queries.items():
            suffix = "" if name == "backbone" else f"_{name}"
            scores = classifiers[name](features)
            for k, share in probes.accuracy(scores, test.labels).items():
                metrics[f"linear_probe_top{k}{suffix}"] = share
            votes = knn_log_votes(bank[name], train.labels, features, num_classes=num_classes)
            metrics[f"knn_top1{suffix}"] = probes.accuracy(votes, test.labels)[1]
        return metrics

    def _fit_probes(
        self, model: Model, train: Examples, features: Mapping[str, np.ndarray]
    ) -> dict[str, probes.LinearClassifier]:
        """A linear classifier for each feature by the config's protocol."""
        num_classes, name = self.config.data.num_classes, self.config.evaluation.probe_protocol
        if name == "cached":
            return {
                name: probes.fit_cached(values, train.labels, num_classes)[0]
                for name, values in features.items()
            }
        protocol = probes.PROTOCOLS[name]
        batch_size = min(protocol.batch_size, len(train.labels))
        dims = {name: values.shape[1] for name, values in features.items()}
        num_steps = protocol.epochs * len(train.labels) // batch_size
        stream = self._augmented_batches(model, train, batch_size)
        with contextlib.closing(stream):
            return probes.train_linear(stream, dims, num_classes, protocol, num_steps)

    def _augmented_batches(
        self, model: Model, train: Examples, batch_size: int
    ) -> Generator[tuple[dict[str, np.ndarray], np.ndarray]]:
        """Endless features and labels of augmented training images."""
        config = self.config
        transform = dataclasses.replace(self._views, name="crops", count=1)
        workers = config.data.get("workers", 0)
        encode = functools.partial(self._augmented_features, model.variables)
        with TrainingBatches(train, batch_size, config.seed, transform, workers=workers) as batches:
            for step in itertools.count():
                batch = next(batches)
                index = step * batch_size + np.arange(batch_size)
                request = {"crops": batch["crops"][:, 0], "index": index}
                found = self._in_batches(encode, request, description="embedding")
                latents = self.latents.features(
                    model.context, found["head"], Stream.TRAIN_LATENTS, index=index
                )
                yield found | latents, batch["labels"]


@dataclasses.dataclass(frozen=True)
class Views:
    """The transform {name: (count, h, w, c)}: random crops of one decoded image."""

    image_size: int
    channels: int
    min_area: float
    name: str = "views"
    count: int = 2

    def __call__(
        self, image: bytes | np.ndarray, rng: np.random.Generator
    ) -> dict[str, np.ndarray]:
        crops = random_views(
            image,
            rng,
            self.image_size,
            channels=self.channels,
            count=self.count,
            area=(self.min_area, 1.0),
        )
        return {self.name: crops}


def _augmentation(config: ConfigDict) -> Augmentation:
    group = config.augmentation
    return Augmentation(
        flip=config.data.flip,
        jitter_probability=group.jitter_probability,
        brightness=group.brightness,
        contrast=group.contrast,
        saturation=group.saturation,
        hue=group.hue,
        grey_probability=group.grey_probability,
        blur_probability=group.blur_probability,
        blur_kernel=group.blur_kernel,
        blur_sigma=(0.1, group.blur_max_sigma),
    )


def _probe_augmentation(config: ConfigDict) -> Augmentation:
    protocol = probes.PROTOCOLS.get(config.evaluation.probe_protocol)
    if protocol is None or protocol.distorts:
        return _augmentation(config)
    return dataclasses.replace(
        _augmentation(config), jitter_probability=0.0, grey_probability=0.0, blur_probability=0.0
    )
