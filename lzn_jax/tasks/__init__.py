"""What can be asked of a trained latent space: names of pairs of data types.

To sample is to go from the prior or a label to an image, to classify from an image to a label, to
embed from an image to its latent, to reconstruct and interpolate from images to images. Where a
task draws, None for its key is the key of the config's seed.
"""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray, UInt8

from lzn_jax import zoning
from lzn_jax.configuration import UserError
from lzn_jax.data import Examples, Images
from lzn_jax.data_types import Condition, Encoder
from lzn_jax.data_types.label import one_hot
from lzn_jax.latent_space import LatentSpace, Model
from lzn_jax.randomness import Stream, key_or_seed, keys_by_index, normal_by_index
from lzn_jax.tasks.interpolation import Interpolation

# Of noise, by the type that latents come from; None: the prior.
STREAMS = {None: Stream.PRIOR_LATENTS, "label": Stream.SAMPLE_LATENTS, "text": Stream.TEXT_LATENTS}
NOISE_SCALE = 0.0  # α at which images are classified: by the centre of their zone
NO_CLASS = -1  # label of an image of no asked class


class Predictions(NamedTuple):
    """Classes of n images, and the flow's probability of each, in [0, 1]."""

    classes: np.ndarray
    probabilities: np.ndarray


class Tasks:
    """The tasks of a latent space, on any number of examples.

    Attributes:
      has_latents: whether there are encoders; a rectified flow alone has none.
      has_classes: whether labels are a type of the space.
      classifies: whether labels have zones; a baseline trains none.
    """

    def __init__(self, space: LatentSpace) -> None:
        self.space, self.config = space, space.config
        self.has_latents = bool(space.encoders)
        self.has_classes = "label" in space.types
        self.classifies = "label" in space.encoders and not space.baseline
        self.decoder = cast(Any, space.types["image"].decoder if "image" in space.types else None)
        if "image" in space.encoders:
            self._features = jax.jit(space.encoders["image"].features)
        if "text" in space.encoders:
            self.tokenizer = space.encoders["text"].tokenizer
        self._latents_from = jax.jit(self.latents_from, static_argnames="source")
        self._decode = jax.jit(self.decode, static_argnames=("source", "target"))
        if self.has_classes:
            self._predictions = jax.jit(self.predict)
            self._class_probabilities = jax.jit(
                lambda model, latents: space.encoders["label"].class_probabilities(
                    model, latents, space.alignment_solver
                )
            )
        if self.decoder is not None:
            self._told = jax.jit(
                lambda model, of: self.told(model, of["latents"], None, None, of["labels"])[0]
            )
            self._reconstruct = jax.jit(self.decoder.reconstruct)
            self._interpolation = Interpolation(self.decoder, space.in_batches)

    # Pure functions of a model and a batch of examples.

    def latents_from(
        self,
        model: Model,
        key: PRNGKeyArray,
        noise_scale: Float[Array, ""] | float,
        request: Mapping[str, Array],
        source: str | None,
    ) -> Float[Array, "b q"]:
        """Latents of `samples`, labels or tokens, by the noise of their `index`; None: the prior's.

        Labels stand among all classes alike, texts among the known ones.
        """
        noise = noise_scale * normal_by_index(
            key, STREAMS[source], request["index"], (self.config.latent.dim,)
        )
        if source is None:
            return noise
        encoder = self.space.encoders[source]
        of_table = source == "label" and isinstance(encoder, Encoder)
        solver = self.space.alignment_solver if of_table else self.space.solver
        keys = keys_by_index(key, Stream.MEMBERS, request["index"])
        latents: Array = encoder.latents(model, request["samples"], noise, keys, solver)
        return latents

    def decode(
        self,
        model: Model,
        key: PRNGKeyArray,
        request: Mapping[str, Array],
        source: str | None,
        target: str,
    ) -> dict[str, Array]:
        """Samples of a type from `latents` that come from `samples` of a source (paper §3.1, §5.1).

        Images have `labels` beside them: those asked for, or those of the zones that latents lie in
        (E.3), without classes -1; and `texts`, of those known, that the decoder was told of zones.
        """
        latents, index, samples = request["latents"], request["index"], request.get("samples")
        if target == "label":
            return self.predict(model, latents)
        told: Array | None = None
        beside: dict[str, Array] = {}
        if target == "image":
            labels = jnp.full(index.shape, NO_CLASS, jnp.int32)
            if source == "label":
                labels = request["samples"]
            elif self.has_classes and self.has_latents:
                labels = self.predict(model, latents)["classes"]
            told, beside = self.told(model, latents, source, samples, labels)
            beside |= {"labels": labels}
        decoder = self.space.decoders[target]
        generated: dict[str, Array] = decoder.generate(model.variables, key, (latents, told), index)
        return generated | beside

    def predict(self, model: Model, latents: Float[Array, "b q"]) -> dict[str, Array]:
        """`classes` (b,) of latents, and the flow's `probabilities` of them (paper §5.1)."""
        encoder, solver = self.space.encoders["label"], self.space.alignment_solver
        found: dict[str, Array] = encoder.predict(model, latents, solver)
        return found

    def told(
        self, model: Model, latents: Any, source: str | None, samples: Any, labels: Any
    ) -> tuple[Array | None, dict[str, Array]]:
        """What the image decoder is told: of the sample that latents come from, or their zone's.

        And the number of the zone's known text, where it is one, as `texts`.
        """
        if self.decoder.told is None:
            return None, {}
        if self.decoder.told == "label":
            return one_hot(labels, self.config.data.num_classes), {}
        if source == "text":
            return self.space.encoders["text"].anchors(model.variables, samples), {}
        zones = self.zone_of_text(model, latents, labels if self.has_classes else None)
        return model.context["text_anchors"][zones], {"texts": zones}

    def zone_of_text(
        self, model: Model, latents: Float[Array, "b q"], labels: Int[Array, " b"] | None = None
    ) -> Int[Array, " b"]:
        """In the zone of which known text latents lie, of all, or of those of the given labels."""
        solver, bank = self.space.alignment_solver, model.context["text_anchors"]
        log_weights = model.context["text_log_weights"]
        if labels is None:
            return zoning.classify(latents, bank, solver=solver, log_weights=log_weights)
        centres = zoning.compute_latents(
            bank, jnp.zeros_like(bank), solver=self.space.solver, log_weights=log_weights
        )
        fits = labels[:, None] == self.predict(model, centres)["classes"]
        fits = jnp.where(jnp.any(fits, axis=1, keepdims=True), fits, True)

        def one(latent: Array, log_weights: Array) -> Array:
            return zoning.classify(latent[None], bank, solver=solver, log_weights=log_weights)[0]

        return jax.vmap(one)(latents, jnp.where(fits, log_weights, -jnp.inf))

    # Tasks.

    def embed(
        self,
        model: Model,
        images: Images,
        stream: Stream = Stream.IMAGE_LATENTS,
        key: PRNGKeyArray | None = None,
    ) -> dict[str, np.ndarray]:
        """Features of images by name, (n, d) each: the network's, latent, latent with α = 0.

        Representations have the paper's four (D.3). Raises UserError for a run without latents.
        """
        encoder = self.space.encoder("image")
        encode = functools.partial(self._features, model.variables)
        found = self.space.in_batches(encode, images, description="encoding")
        anchors = found[encoder.anchor_feature]
        return found | self.latents(model.context, anchors, stream, key)

    def latents(
        self,
        context: Mapping[str, Array],
        anchors: np.ndarray,
        stream: Stream = Stream.IMAGE_LATENTS,
        key: PRNGKeyArray | None = None,
        index: Int[np.ndarray, " n"] | None = None,
    ) -> dict[str, Float[np.ndarray, "n q"]]:
        """`LatentSpace.latents` by name: 'latent' at the config's α, 'latent_centre' at α = 0."""
        scales = {"latent": self.config.latent.noise_scale, "latent_centre": 0.0}
        return {
            name: self.space.latents(context, anchors, scale, stream, key, index)
            for name, scale in scales.items()
        }

    def sample(
        self,
        model: Model,
        count: int,
        labels: np.ndarray | None = None,
        key: PRNGKeyArray | None = None,
    ) -> Examples:
        """Generated images of classes, None: all in equal shares; where there are none, -1.

        Raises UserError for labels in a space without classes.
        """
        drawn = self.draw(model, count, labels, key)
        return Examples(drawn["images"], drawn["labels"])

    def draw(
        self,
        model: Model,
        count: int,
        labels: np.ndarray | None = None,
        key: PRNGKeyArray | None = None,
    ) -> dict[str, np.ndarray]:
        """`images` 0 to `count` - 1, their `labels`, and `num_evaluations` of the velocity."""
        if not self.has_classes:
            if labels is not None:
                raise UserError("a generation study has no classes: leave labels out")
            return self.draw_any(model, count, key)
        if labels is None:
            labels = (np.arange(count) % self.config.data.num_classes).astype(np.int32)
        return self._translated(model, labels, "label", "image", 1.0, key, count, "sampling")

    def draw_any(
        self, model: Model, count: int, key: PRNGKeyArray | None = None
    ) -> dict[str, np.ndarray]:
        """As `draw`, from the prior: of classes nobody asked for."""
        description = "sampling any class" if self.has_classes else "sampling"
        return self._translated(model, None, None, "image", 1.0, key, count, description)

    @property
    def translations(self) -> tuple[tuple[str, str], ...]:
        """Pairs of types that the space can go between; a baseline has no zones to go by."""
        if self.space.baseline:
            return ()
        targets = [*self.space.decoders, *(["label"] if "label" in self.space.encoders else [])]
        return tuple((s, t) for s in self.space.encoders for t in targets if s != t)

    def translate(
        self,
        model: Model,
        samples: Any,
        source: str | None,
        target: str,
        *,
        count: int | None = None,
        key: PRNGKeyArray | None = None,
        noise_scale: float | None = None,
    ) -> Any:
        """Samples of one type as samples of another; source None: `count` from the prior.

        Images are (n, h, w, c) uint8, labels (n,) int, texts a list of strings. `noise_scale` is α
        of the source's latents: None is 1 for images to be made and for labels, whose zones hold
        many samples, and else 0, the middle of a zone. Raises UserError for a pair that the space
        cannot do, and for texts that it cannot read.
        """
        self.check_pair(source, target)
        if noise_scale is None:
            noise_scale = 1.0 if target == "image" or source in ("label", None) else 0.0
        samples = self.encoded(samples, source)
        count = len(samples) if count is None else count
        description = f"{source or 'prior'} to {target}"
        found = self._translated(
            model, samples, source, target, noise_scale, key, count, description
        )
        if target == "label":
            return found["classes"]
        targets = found[self.space.decoders[target].output]
        return self.tokenizer.decode(targets) if target == "text" else targets

    def _translated(
        self,
        model: Model,
        samples: Any,
        source: str | None,
        target: str,
        noise_scale: float,
        key: PRNGKeyArray | None,
        count: int,
        description: str,
    ) -> dict[str, np.ndarray]:
        """What `decode` finds for samples."""
        key = key_or_seed(key, self.config.seed)
        request = {"index": np.arange(count)} | ({} if source is None else {"samples": samples})
        latents = self._latents_of(model, key, noise_scale, request, source)
        if target != "image" or source not in ("label", "text"):  # of which images are told
            source, request = None, {"index": request["index"]}
        request["latents"] = latents
        decode = functools.partial(self._decode, model, key, source=source, target=target)
        found: dict[str, np.ndarray] = self.space.in_batches(
            decode, request, description=description
        )
        return found

    def encode(
        self,
        model: Model,
        samples: Any,
        source: str,
        noise_scale: float,
        key: PRNGKeyArray | None = None,
    ) -> Float[np.ndarray, "n q"]:
        """Latents of samples of a type, row i by the noise of its place i."""
        samples, key = self.encoded(samples, source), key_or_seed(key, self.config.seed)
        request = {"samples": samples, "index": np.arange(len(samples))}
        latents: np.ndarray = self._latents_of(model, key, noise_scale, request, source)
        return latents

    def encoded(self, samples: Any, source: str | None) -> Any:
        """Samples as encoders take them: texts as tokens; raises UserError for unreadable ones."""
        return self.tokenizer.encode(samples) if source == "text" else samples

    def check_pair(self, source: str | None, target: str) -> None:
        """Raises UserError, which names the pairs, for one that the space cannot go between."""
        pairs = self.translations
        targets = {target for _, target in pairs} | set(self.space.decoders)
        if (source, target) not in pairs and not (source is None and target in targets):
            named = ", ".join(" to ".join(pair) for pair in pairs) or "nothing"
            start = "generate" if source is None else f"translate {source} to"
            raise UserError(f"the run does not {start} {target}; it translates {named}")

    def _latents_of(
        self, model: Model, key: PRNGKeyArray, noise_scale: float, request: Any, source: str | None
    ) -> Any:
        if not self.has_latents:
            return None
        if source is not None and not hasattr(self.space.encoders[source], "latents"):
            anchors = self.space.anchors(model.variables, request["samples"], source)
            context = model.context if source == "image" else {}
            return self.space.latents(context, anchors, noise_scale, key=key)
        find = functools.partial(self._latents_from, model, key, noise_scale, source=source)
        return self.space.in_batches(find, request, description="zoning")

    def texts(self, model: Model, numbers: Int[np.ndarray, " n"]) -> list[str]:
        """The known texts of these numbers."""
        tokens = np.asarray(model.context["text_tokens"])[numbers]
        return self.tokenizer.decode(tokens)

    def classify(self, model: Model, images: Images) -> Predictions:
        """Class and probability of each image, from the middle of its zone.

        Raises UserError for a run without latents.
        """
        if not self.has_latents:
            raise UserError("a run with latent.enabled=False has no latents to classify by")
        anchors = self.space.anchors(model.variables, images)
        return self.classes(model, self.space.latents(model.context, anchors, NOISE_SCALE))

    def classes(self, model: Model, latents: np.ndarray | Array) -> Predictions:
        """Classes of latents."""
        predict = functools.partial(self._predictions, model)
        return Predictions(**self.space.in_batches(predict, latents, description="classifying"))

    def class_probabilities(
        self, model: Model, latents: np.ndarray | Array
    ) -> Float[np.ndarray, "n c"]:
        """Probabilities of all classes for each latent."""
        find = functools.partial(self._class_probabilities, model)
        found: np.ndarray = self.space.in_batches(find, latents, description="classifying")
        return found

    def siblings(
        self, model: Model, images: Images, key: PRNGKeyArray | None = None
    ) -> UInt8[np.ndarray, "n h w c"]:
        """Of each image another one: a random latent of its zone, decoded (paper §3.1)."""
        options = (key, len(images), "decoding")
        return self._translated(model, images, "image", "image", 1.0, *options)["images"]

    def reconstruct(
        self,
        model: Model,
        images: Images,
        labels: np.ndarray | None = None,
        key: PRNGKeyArray | None = None,
    ) -> dict[str, np.ndarray]:
        """`images` to noise and back, and their `errors` (n,), l2 norms in [-1, 1] (C.3, E.3).

        Labels that are not given are those that `classify` finds.
        """
        request = (images, self.condition(model, images, labels, key))
        found: dict[str, np.ndarray] = self.space.in_batches(
            lambda batch: self._reconstruct(model.variables, *batch),
            request,
            description="reconstructing",
        )
        return found

    def interpolate(
        self,
        model: Model,
        images: Images,
        labels: np.ndarray | None = None,
        key: PRNGKeyArray | None = None,
    ) -> dict[str, np.ndarray]:
        """`images` from the first of two to the second, and `weights` of the second.

        Labels as for `reconstruct`.
        """
        condition = self.condition(model, images, labels, key)
        return self._interpolation(model.variables, images, condition)

    def condition(
        self,
        model: Model,
        images: Images,
        labels: np.ndarray | None = None,
        key: PRNGKeyArray | None = None,
    ) -> Condition:
        """What the decoder is told of images: latents at α = 1, as in training, and classes."""
        if labels is None and self.has_classes:
            labels = self.classify(model, images).classes
        latents = None
        if self.has_latents:
            anchors = self.space.anchors(model.variables, images)
            latents = self.space.latents(model.context, anchors, 1.0, key=key)
        if self.decoder.told is None:
            return latents, None
        told = functools.partial(self._told, model)
        request = {"latents": latents, "labels": labels}
        return latents, self.space.in_batches(told, request, description="finding zones")
