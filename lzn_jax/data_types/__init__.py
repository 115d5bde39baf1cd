"""Data types: all that the package asks about one kind of sample (paper §2.1).

A data type is one object: it encodes samples as anchors and decodes latents as samples, and it
reads, checks, shows and measures them. It names no other type; what types are to each other is for
`lzn_jax.latent_space`. A type of one's own is registered by `lzn_jax.parts.add("type", ...)`.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key, PRNGKeyArray

from lzn_jax import randomness, zoning
from lzn_jax.configuration import UserError
from lzn_jax.data import Examples
from lzn_jax.microbatches import in_training
from lzn_jax.models import Variables

Samples = Any  # rows of one data type
Condition = tuple[Any, Any]  # of a decoder: latents, and the condition beside them; None without


class Zones(NamedTuple):
    """Anchors that cut the latent space into zones, and each sample's own anchor.

    Attributes:
      anchors: (n, q).
      own: (b,) index of each sample's anchor; None: sample i has anchor i.
      log_weights: (n,) unnormalised, -inf removes an anchor; None: equal weights.
      is_present: (b,) False for missing samples; None: all are present.
    """

    anchors: Float[Array, "n q"]
    own: Int[Array, " b"] | None = None
    log_weights: Float[Array, " n"] | None = None
    is_present: Array | None = None

    def noise(self, key: PRNGKeyArray) -> Float[Array, "b q"]:
        """N(0, I) for the latent of each sample; the key is consumed."""
        anchors, own = self.anchors, self.own
        shape = anchors.shape if own is None else (len(own), anchors.shape[1])
        return jax.random.normal(key, shape, anchors.dtype)

    def latents(self, noise: Float[Array, "b q"], solver: zoning.Solver) -> Float[Array, "b q"]:
        """Latent of each sample, given its noise scaled by α (paper §2.2.1)."""
        return zoning.compute_latents(
            self.anchors, noise, self.own, solver=solver, log_weights=self.log_weights
        )

    def of_rows(self, count: int) -> "Zones":
        """The same zones for the samples that `strided` takes."""
        own = jnp.arange(len(self.anchors)) if self.own is None else self.own
        own, is_present = strided((own, self.is_present), count)
        return self._replace(own=own, is_present=is_present)


def strided(samples: Any, count: int) -> Any:
    """`count` rows of a batch at even steps, so that each device has its share of them."""
    return jax.tree.map(lambda a: a.reshape(count, -1, *a.shape[1:])[:, 0], samples)


def given(batch: Mapping[str, Array], name: str, drawn: Array) -> Array:
    """The column `name` of a batch where it has one, else what the key of the update drew.

    Raises UserError for a column of another shape.
    """
    column = batch.get(name, drawn)
    if column.shape != drawn.shape:
        raise UserError(f"{name} of a batch must have the shape {drawn.shape}, got {column.shape}")
    return column


def context_rows(seed: int, count: int, size: int) -> Int[np.ndarray, " c"]:
    """The fixed random sample of `count` training examples that inference keeps."""
    key = randomness.named(jax.random.key(seed), "context")
    return np.asarray(jax.random.permutation(key, count)[:size])


@runtime_checkable
class Encoder(Protocol):
    """Samples to anchors, by a network; `NetworkEncoder` implements all of it.

    Attributes:
      network: name of the network among the variables.
      module: the network: `init` and `apply` as of a flax module.
      num_draws: random keys that `zones` takes.
      anchors_key: name of the context anchors among the arrays that inference keeps.
    """

    network: str
    module: Any
    num_draws: int
    anchors_key: str

    def init(self, key: PRNGKeyArray) -> Any:
        """Fresh variables of the network."""

    def zones(
        self, variables: Variables, batch: Mapping[str, Array], keys: Sequence[PRNGKeyArray]
    ) -> tuple[Zones, ...]:
        """Zones of a training batch, in training mode: one set, or one for each of two views."""

    def anchors(self, variables: Variables, samples: Samples) -> Float[Array, "b q"]:
        """Anchors of samples in inference, a pure function."""


@runtime_checkable
class Reader(Protocol):
    """Latents of samples by a rule of the type's own, in place of the flow among context anchors.

    Such as those of labels, whose table holds all anchors.
    """

    def latents(
        self,
        model: Any,
        samples: Samples,
        noise: Float[Array, "b q"],
        keys: Key[Array, " b"],
        solver: zoning.Solver,
    ) -> Float[Array, "b q"]:
        """Latents of samples in inference, with noise and a key for each, a pure function."""


@runtime_checkable
class Classifier(Protocol):
    """Latents to samples by zone, without a decoder; such a type has finitely many samples."""

    def predict(
        self, model: Any, latents: Float[Array, "b q"], solver: zoning.Solver
    ) -> dict[str, Array]:
        """`classes` (b,) of latents, and the flow's `probabilities` of them (paper §5.1)."""

    def class_probabilities(
        self, model: Any, latents: Float[Array, "b q"], solver: zoning.Solver
    ) -> Float[Array, "b c"]:
        """The flow's probabilities of all classes."""


@runtime_checkable
class WithContext(Protocol):
    """An encoder that keeps training samples for inference."""

    def context_shapes(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes and dtypes of what is kept; empty where a config keeps nothing."""

    def context(self, anchors: Callable[..., Any], train: Examples) -> dict[str, Any]:
        """What is kept; `anchors` maps samples to their anchors, with a `description`."""


@runtime_checkable
class Decoder(Protocol):
    """Latents to samples.

    Attributes:
      network: name of the network among the variables.
      module: the network.
      output: name of the samples among the results of `generate`.
      num_draws: random keys that `loss` takes.
      sources: types whose latents it learns from, in turn.
      noise_scale: α of these latents; None: from 0 to 1 at random.
      condition: the type of the condition beside the latents; None: there is none.
    """

    network: str
    module: Any
    output: str
    num_draws: int
    sources: tuple[str, ...]
    noise_scale: float | None
    condition: str | None

    def init(self, key: PRNGKeyArray, condition: Condition) -> Any:
        """Fresh variables of the network, given an example of its condition."""

    def loss(
        self,
        variables: Variables,
        batch: Mapping[str, Array],
        condition: Condition,
        keys: Sequence[PRNGKeyArray],
    ) -> Float[Array, ""]:
        """The training loss given each sample's latent: a mean over the batch."""

    def generate(
        self,
        variables: Variables,
        key: PRNGKeyArray,
        condition: Condition,
        index: Int[Array, " b"],
    ) -> dict[str, Array]:
        """Samples of the given numbers, each with its own noise of the key, a pure function."""


@runtime_checkable
class Invertible(Protocol):
    """A decoder that finds the noise of a sample: reconstruction and interpolation need it."""

    def invert(self, variables: Variables, samples: Samples, condition: Condition) -> Array:
        """The noise that samples come from."""

    def render(self, variables: Variables, noise: Array, condition: Condition) -> Samples:
        """The samples that come from noise."""

    def reconstruct(
        self, variables: Variables, samples: Samples, condition: Condition
    ) -> dict[str, Array]:
        """Samples to noise and back, and the l2 `errors` of each (paper C.3)."""


class DataType:
    """One kind of sample. Subclasses say what differs from the answers here.

    Attributes:
      name: by which configs, commands and batches call it.
      encoder: an `Encoder`, or a `Reader` without a network; None: the type has no latents.
      decoder: None where latents are not decoded by a network.
      weight: of the decoder's loss; 0: the decoder does not train.
      loss_name: of the decoder's loss among the metrics.
      output: name of its samples among results.
      plural: name of several samples; "" stands for the name and an s.
      source_scale, target_scale: α of a translation is at least the first from this type and at
        least the second to it: 0 is the middle of a zone, 1 a random place in it.
      condition_dim: length of a sample as another type's condition.
      has_classes: whether its samples are classes, numbers from 0.
      is_images: whether its samples are images (n, h, w, c) uint8, which a page draws.
      measurements: names of the measurements of a run that has the type.
      example: an example of `--input` for it; None: the test samples are a better one.
    """

    weight: float = 1.0
    source_scale = target_scale = 0.0
    condition_dim = 0
    has_classes = is_images = False
    plural = ""
    measurements: tuple[str, ...] = ()
    example: str | None = None

    def __init__(
        self,
        name: str,
        encoder: Encoder | Reader | None = None,
        decoder: Decoder | None = None,
    ) -> None:
        self.name, self.encoder, self.decoder = name, encoder, decoder
        self.loss_name, self.plural = f"{name}_loss", self.plural or f"{name}s"
        self.output = decoder.output if decoder else self.plural

    @property
    def modules(self) -> dict[str, Any]:
        """Networks by name."""
        both = (self.encoder, self.decoder)
        return {each.network: each.module for each in both if isinstance(each, Encoder | Decoder)}

    def columns(self, examples: Examples) -> dict[str, np.ndarray]:
        """Columns of a training batch beside images and labels, a row an example."""
        return {}

    def column_shapes(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Shape and dtype of one row of each column."""
        return {}

    def samples(self, examples: Examples) -> Samples:
        """The samples of a split."""
        raise NotImplementedError

    def readable(self, examples: Examples) -> Int[np.ndarray, " k"]:
        """Rows of the examples with a sample that the encoder can read."""
        return np.arange(len(examples.labels))

    def check(self, examples: Examples, name: str) -> None:
        """Logs which samples of a set are left out; raises UserError where none is left."""

    def describe(self, examples: Examples, name: str) -> None:
        """Logs what --mode=check_data reports of a split's samples."""
        self.check(examples, name)

    def checked(self, samples: Any) -> Samples:
        """Samples as users pass them; raises UserError for what does not fit."""
        if isinstance(samples, str):
            raise UserError(f"{self.plural} must be a list of samples, got the string {samples!r}")
        if len(samples) == 0:
            raise UserError("the number of samples must be at least 1, got 0")
        return samples

    def encoded(self, samples: Samples) -> Any:
        """Samples as the encoder takes them; raises UserError for unreadable ones."""
        return samples

    def decoded(self, outputs: Any) -> Samples:
        """Samples of what the decoder returns."""
        return outputs

    def parse(self, text: str) -> Samples:
        """Samples of the value of --input; raises UserError for one that gives none."""
        raise UserError(f"{self.name} samples cannot be named by --input")

    def written(self, text: str) -> Samples:
        """Samples that a person writes on a page; like `parse`, but no file is read."""
        return self.parse(text)

    def named(self, text: str) -> tuple[Samples, list[str]]:
        """Samples of the value of --input, and the name of each: its file, or what is written."""
        samples = self.parse(text)
        return samples, list(self.shown(samples))

    def shown(self, samples: Samples) -> Any:
        """Samples as figures and pages show them: images, or one string each."""
        return [str(sample) for sample in samples]

    def words(self, samples: Samples) -> list[str]:
        """Words of samples, to name those that training does not have; none by default."""
        return []

    def condition(self, batch: Mapping[str, Array], zones: Zones | None) -> Array:
        """Condition (b, condition_dim) of another type's decoder for a training batch.

        The samples' anchors, one for each row of the batch; 0 for a missing sample. Raises
        UserError for a type without zones.
        """
        if zones is None:
            raise UserError(f"no decoder can be conditioned on {self.name}")
        # By rows: an index by `own` would gather the anchors from all devices once more.
        anchors = zones.anchors if zones.own is None else strided(zones.anchors, len(zones.own))
        if zones.is_present is None:
            return anchors
        return jnp.where(zones.is_present[:, None], anchors, 0)

    def condition_of(self, variables: Variables, samples: Samples) -> Array:
        """The same for samples in inference."""
        encoder: Any = self.encoder
        anchors: Array = encoder.anchors(variables, samples)
        return anchors


class NetworkEncoder:
    """A network that reads a column of the batch; context anchors are those of training samples.

    Attributes:
      transform: of training images, on the host; None: the type reads no images.
      main_feature, anchor_feature: of those that `features` finds.
    """

    num_draws = 1
    transform: Any = None
    main_feature = anchor_feature = "anchor"

    def __init__(
        self,
        name: str,
        module: Any,
        *,
        column: str,
        samples: Callable[[Examples], np.ndarray],
        example: Any,
        latent_dim: int,
        context_size: int,
        seed: int,
        microbatch_size: int | None,
        distinct: bool = False,
    ) -> None:
        """An encoder of the type `name`.

        Args:
          name: of the type; the network is called `NAME_encoder`.
          module: the network, (b, ...) -> (b, q).
          column: name of its inputs in a batch.
          samples: the inputs of a split.
          example: one input row (1, ...), for `init`.
          latent_dim: q.
          context_size: training samples whose anchors inference keeps; 0: the samples at hand
            cut the zones.
          seed: of their choice.
          microbatch_size: examples at a time in training; None: all.
          distinct: equal inputs of a batch share one anchor.
        """
        self.network, self.anchors_key = f"{name}_encoder", f"{name}_anchors"
        self.module, self.column, self.distinct = module, column, distinct
        self._samples, self._example, self._seed = samples, example, seed
        self._microbatch_size = microbatch_size
        self._shape = (context_size, latent_dim)

    def init(self, key: PRNGKeyArray) -> Any:
        """Fresh variables."""
        return self.module.init(key, self._example, train=False)

    def anchors_shape(self) -> tuple[int, ...]:
        """Shape of the anchors of one sample, (1, q), without any computation."""
        return _output_shape(self.module, jax.eval_shape(lambda: self._example))

    def inputs(self, samples: Any) -> Any:
        """What the network reads of samples."""
        return samples

    def zones(
        self, variables: Variables, batch: Mapping[str, Array], keys: Sequence[PRNGKeyArray]
    ) -> tuple[Zones, ...]:
        """Zones of a training batch; the key is dropout's."""
        inputs, (key,) = batch[self.column], keys
        network = in_training(self.module, self._microbatch_size)
        anchors = network(variables[self.network], key, self.inputs(inputs))
        if not self.distinct:
            return (Zones(anchors),)
        is_present = self.is_present(inputs)
        own, log_counts = zoning.distinct(inputs, is_present)
        return (Zones(anchors, own, log_counts, is_present),)

    def is_present(self, inputs: Array) -> Array | None:
        """Which samples of a batch are present; None: all."""
        return None

    def anchors(self, variables: Variables, samples: Samples) -> Float[Array, "b q"]:
        """Anchors of samples."""
        output: Any = self.module.apply(variables[self.network], self.inputs(samples), train=False)
        return output

    def features(self, variables: Variables, samples: Samples) -> dict[str, Float[Array, "b d"]]:
        """Features of samples by name, the anchor among them, a pure function."""
        return {"anchor": self.anchors(variables, samples)}

    def context_shapes(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Of the context anchors."""
        if self._shape[0] == 0:
            return {}
        return {self.anchors_key: jax.ShapeDtypeStruct(self._shape, jnp.float32)}

    def context(self, anchors: Callable[..., Any], train: Examples) -> dict[str, Any]:
        """Anchors of a random sample of the training set."""
        if self._shape[0] == 0:
            return {}
        rows = context_rows(self._seed, len(train.labels), self._shape[0])
        samples = self._samples(train)[rows]
        return {self.anchors_key: anchors(samples, description="context anchors")}


@functools.lru_cache(maxsize=64)
def _output_shape(module: Any, example: jax.ShapeDtypeStruct) -> tuple[int, ...]:
    def output(example: Array) -> Array:
        variables = module.init(jax.random.key(0), example, train=False)
        anchors: Array = module.apply(variables, example, train=False)
        return anchors

    shape: tuple[int, ...] = jax.eval_shape(output, example).shape
    return shape
