"""Data types: the interface between one kind of sample and the latent space (paper §2.1).

A `DataType` reads, checks and displays its samples. Its encoder maps samples to anchors, and its
decoder maps latents to samples; a type may lack either. In training, `Encoder.zones` returns the
anchors of a batch, which cut the latent space into zones; latents are drawn in these zones and
passed to `Decoder.loss`. At inference, anchors of training samples (the context) cut the zones, and
`Decoder.generate` decodes latents.

A data type does not depend on other types: `lzn_jax.latent_space` connects them by alignments and
conditions. Register your own type with `lzn_jax.parts.add("type", ...)`, as in docs/parts.md.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray
from ml_collections import ConfigDict

from lzn_jax import models, zoning
from lzn_jax.data import Examples
from lzn_jax.errors import UserError
from lzn_jax.models import Variables, in_training
from lzn_jax.parts import Field, require, words

Samples = Any  # samples of one data type, one per row
Batch = Mapping[str, Array]  # columns of a training batch
Keys = Sequence[PRNGKeyArray]
Condition = tuple[Any, Any]  # inputs of a decoder: latents and the further condition, each or None
Loss = Float[Array, ""]


class Zones(NamedTuple):
    """Anchors that partition the latent space into zones, and the anchor of each sample."""

    anchors: Float[Array, "n q"]
    own: Int[Array, " b"] | None = None  # anchor of each sample; None: sample i has anchor i
    log_weights: Float[Array, " n"] | None = None  # -inf removes an anchor; None: equal weights
    is_present: Array | None = None  # (b,) False for missing samples; None: all are present

    def noise(self, key: PRNGKeyArray) -> Float[Array, "b q"]:
        """Draws from N(0, I), one for each sample; the key is consumed."""
        count = len(self.anchors if self.own is None else self.own)
        return jax.random.normal(key, (count, self.anchors.shape[1]), self.anchors.dtype)

    def latents(self, noise: Float[Array, "b q"], solver: zoning.Solver) -> Float[Array, "b q"]:
        """Latent of each sample for noise that is already scaled by α (paper §2.2.1)."""
        return zoning.compute_latents(
            self.anchors, noise, self.own, solver=solver, log_weights=self.log_weights
        )

    def of_rows(self, count: int) -> "Zones":
        """The same zones with the samples that `strided` selects."""
        own = jnp.arange(len(self.anchors)) if self.own is None else self.own
        own, is_present = strided((own, self.is_present), count)
        return self._replace(own=own, is_present=is_present)


def strided(samples: Any, count: int) -> Any:
    """Evenly spaced `count` rows of each array, so that every device contributes equally."""
    return jax.tree.map(lambda a: a.reshape(count, -1, *a.shape[1:])[:, 0], samples)


def trained_on(*types: str) -> Field:
    """Field of the types whose latents a decoder is trained on."""
    return words("types whose latents it is trained on, in turn", types, part="type")


def given(batch: Batch, name: str, drawn: Array) -> Array:
    """Column `name` of a batch, or `drawn` if there is none; UserError for another shape."""
    column = batch.get(name, drawn)
    if column.shape != drawn.shape:
        raise UserError(f"{name} of a batch must have the shape {drawn.shape}, got {column.shape}")
    return column


def are_images(shown: Any) -> bool:
    """Whether `DataType.shown` returned an array of images, not strings."""
    return len(getattr(shown, "shape", ())) == 4


def context_rows(seed: int, count: int, size: int) -> Int[np.ndarray, " c"]:
    """Indices of the `size` training examples, out of `count`, that form the context."""
    key = models.named(jax.random.key(seed), "context")
    return np.asarray(jax.random.permutation(key, count)[:size])


@runtime_checkable
class Encoder(Protocol):
    """A network from samples to anchors; `NetworkEncoder` implements it, with a context."""

    network: str  # its name in the variables
    module: Any  # with `init` and `apply` as in a flax module
    num_draws: int  # number of random keys that `zones` takes
    anchors_key: str  # name of the context anchors in the context of a model

    def init(self, key: PRNGKeyArray) -> Any:
        """Initial variables of the network."""

    def zones(self, variables: Variables, batch: Batch, keys: Keys) -> tuple[Zones, ...]:
        """Zones of a training batch, in training mode: one `Zones`, or two for two views."""

    def anchors(self, variables: Variables, samples: Samples) -> Float[Array, "b q"]:
        """Anchors of samples at inference. Must be a pure function."""


@runtime_checkable
class Reader(Protocol):
    """Computes latents of samples itself, instead of by the flow among context anchors."""

    def latents(
        self, model: Any, samples: Samples, noise: Array, keys: Array, solver: zoning.Solver
    ) -> Float[Array, "b q"]:
        """Latents of samples at inference, given noise and a key for each. Must be pure."""


class Classifier:
    """Classifies latents by anchors that have a class each, without a decoder (paper §5.1)."""

    num_classes: int

    def classes(self, model: Any) -> tuple[Float[Array, "n q"], Int[Array, " n"]]:
        """Anchors that cut the zones, and the class of each."""
        raise NotImplementedError

    def predict(
        self, model: Any, latents: Float[Array, "b q"], solver: zoning.Solver
    ) -> dict[str, Array]:
        """`classes` (b,) of the anchors whose zones contain the latents, and `probabilities`.

        A probability is that of the anchor under the flow.
        """
        anchors, classes = self.classes(model)
        own = zoning.classify(latents, anchors, solver=solver)
        log_probs = zoning.assignment_log_probs(latents, anchors, own, solver=solver)
        return {"classes": classes[own], "probabilities": jnp.exp(log_probs[-1])}

    def class_probabilities(
        self, model: Any, latents: Float[Array, "b q"], solver: zoning.Solver
    ) -> Float[Array, "b c"]:
        """Probability of every class at the start of the flow's last step: a sum over anchors."""
        anchors, classes = self.classes(model)
        log_probs = zoning.log_assignments(latents, anchors, solver=solver)
        members = jax.nn.one_hot(classes, self.num_classes)
        return jnp.matmul(jnp.exp(log_probs[-1]), members, precision="highest")


@runtime_checkable
class Decoder(Protocol):
    """A network from latents to samples."""

    network: str  # its name in the variables
    module: Any
    output: str  # key of the samples in the results of `generate`
    num_draws: int  # number of random keys that `loss` takes
    sources: tuple[str, ...]  # types whose latents it is trained on, by row in turn; (): no latents
    noise_scale: float | None  # α of these latents; None: uniform in [0, 1] for each sample
    condition: str | None  # type of the condition beside the latents; None: no condition

    def init(self, key: PRNGKeyArray, condition: Condition) -> Any:
        """Initial variables of the network, given an example of its condition."""

    def loss(self, variables: Variables, batch: Batch, condition: Condition, keys: Keys) -> Loss:
        """Training loss given each sample's latent: a mean over the batch."""

    def generate(
        self, variables: Variables, key: PRNGKeyArray, condition: Condition, index: Int[Array, " b"]
    ) -> dict[str, Array]:
        """Samples as `output`; their noise depends on the key and each `index`. Must be pure."""


@runtime_checkable
class Invertible(Protocol):
    """A decoder that maps samples back to noise, as reconstruction and interpolation require."""

    def invert(self, variables: Variables, samples: Samples, condition: Condition) -> Array:
        """Noise from which the decoder generates the samples."""

    def render(self, variables: Variables, noise: Array, condition: Condition) -> Samples:
        """Samples generated from noise."""

    def reconstruct(
        self, variables: Variables, samples: Samples, condition: Condition
    ) -> dict[str, Array]:
        """Samples mapped to noise and back as `output`, and their l2 `errors` (paper C.3)."""


class DataType:
    """One kind of sample. Subclasses implement `samples` and override defaults."""

    weight: float = 1.0  # of the decoder's loss; 0: the decoder is not trained
    # The default α of a translation is the larger of the source's `source_scale` and the target's
    # `target_scale`. 0 gives the centre of a zone, 1 a random point in it.
    source_scale = target_scale = 0.0
    condition_dim = 0  # size of the condition that a sample is to another type's decoder
    has_classes = False  # whether samples are classes, integers from 0
    is_images = False  # whether samples are images (n, h, w, c) uint8
    plural = ""  # name of several samples; "": `name`, with an s unless it ends in one
    measurements: tuple[str, ...] = ()  # of a run with this type, by name
    figures: tuple[str, ...] = ("tasks",)  # after an evaluation of such a run, by name
    example: str | None = None  # --input of the suggested commands; None: they use test samples
    # `transform(row, rng) -> columns` to add to an example, or to replace, in training on the host.
    transform: Any = None
    # Gradio's components of one sample on the page. The first takes its initial value. None: a line
    # of text, and what is `shown`.
    input_component: Callable[[Any], Any] | None = None
    output_component: Callable[[], Any] | None = None

    def __init__(
        self, name: str, encoder: Encoder | Reader | None = None, decoder: Decoder | None = None
    ) -> None:
        """Builds the type `name` of configs, commands and batches.

        Without `encoder` it has no latents; without `decoder` no network decodes latents to it.
        """
        self.name, self.encoder, self.decoder = name, encoder, decoder
        self.loss_name, self.plural = f"{name}_loss", self.plural or f"{name.removesuffix('s')}s"
        self.output = decoder.output if decoder else self.plural
        if isinstance(encoder, NetworkEncoder) and encoder.samples is None:
            encoder.samples = lambda examples: self.encoded(self.samples(examples))

    @property
    def modules(self) -> dict[str, Any]:
        """Networks by name."""
        both = (self.encoder, self.decoder)
        return {each.network: each.module for each in both if isinstance(each, Encoder | Decoder)}

    def columns(self, examples: Examples) -> dict[str, np.ndarray]:
        """Columns of the training data besides images and labels, with one row per example."""
        return {}

    def column_shapes(self) -> dict[str, jax.ShapeDtypeStruct] | None:
        """Shape and dtype of one row of each column, for `--mode=compile` without the data.

        None: those of `columns` for the first training example.
        """
        return {} if type(self).columns is DataType.columns else None

    def encoded_shape(self) -> jax.ShapeDtypeStruct:
        """Shape and dtype of one row of `encoded`; by default the column's or the example's."""
        encoder: Any = self.encoder
        example = jax.eval_shape(lambda: encoder.example[0])
        return (self.column_shapes() or {encoder.column: example})[encoder.column]

    def sample_format(self) -> dict[str, Any]:
        """Meaning of rows of `encoded` and of the decoder's outputs, as JSON, for `--mode=export`.

        `description` is a sentence; a `vocabulary` gets a file of its own.
        """
        return {"description": "what its encoder reads and its decoder returns"}

    def samples(self, examples: Examples) -> Samples:
        """Samples of a split."""
        raise NotImplementedError(f"{type(self).__qualname__}.samples is not defined")

    def readable(self, examples: Examples) -> Int[np.ndarray, " k"]:
        """Indices of the examples whose sample can be encoded."""
        return np.arange(len(examples.labels))

    def check(self, examples: Examples, name: str) -> None:
        """Logs which samples of a split are left out, and what they are like."""

    def checked(self, samples: Any) -> Samples:
        """Validates samples passed by a user; raises UserError for invalid ones."""
        if isinstance(samples, str):
            raise UserError(f"{self.plural} must be a list of samples, got the string {samples!r}")
        if len(samples) == 0:
            raise UserError("the number of samples must be at least 1, got 0")
        if isinstance(samples, np.ndarray | jax.Array):
            is_finite = samples.dtype.kind != "f" or bool(np.isfinite(samples).all())
            require(is_finite, f"{self.plural} must be finite, got NaN or infinity")
            row = np.shape(self.encoded(samples[:1]))[1:]
            needed = getattr(getattr(self.encoder, "example", None), "shape", (1, *row))[1:]
            require(row == needed, f"the encoder reads {self.plural} of shape {needed}, got {row}")
        return samples

    def encoded(self, samples: Samples) -> Any:
        """Inputs of the encoder; raises UserError for samples that cannot be encoded."""
        return samples

    def decoded(self, outputs: Any) -> Samples:
        """Samples from outputs of the decoder."""
        return outputs

    def parse(self, text: str) -> Samples:
        """Samples from the value of `--input`; raises UserError for an invalid value."""
        raise UserError(f"--input does not support {self.name} samples")

    def written(self, value: Any) -> Samples:
        """Samples from the value of `input_component`, such as text; reads no file."""
        return self.parse(value)

    def displayed(self, samples: Samples) -> Any:
        """Value of a component of the page for each sample."""
        return self.shown(samples)

    def named(self, text: str) -> tuple[Samples, list[str]]:
        """Samples from the value of `--input`, and the file or text of each as its name."""
        samples = self.checked(self.parse(text))
        return samples, [name or text for name in self.names(samples)]

    def names(self, samples: Samples) -> list[str]:
        """Name of each sample in tables: what is shown, empty if that is an image."""
        if are_images(self.shown(samples[:1])):
            return [""] * len(samples)
        return list(self.shown(samples))

    def draw(self, sample: Any, axes: Any) -> None:
        """Draws a sample into axes of matplotlib, for a type without its own `shown`."""

    def shown(self, samples: Samples) -> Any:
        """Samples in figures and the demo: images (n, h, w, c) uint8, or a string for each."""
        if type(self).draw is DataType.draw:
            return [str(sample) for sample in samples]
        from lzn_jax.plots import sheets  # only figures need matplotlib

        return sheets.drawn(self.draw, samples)

    def words(self, samples: Samples) -> list[str]:
        """Words of samples; the demo reports words that training samples lack. Empty by default."""
        return []

    def condition(self, batch: Batch, zones: Zones | None) -> Array:
        """Condition (b, condition_dim) of another type's decoder for a training batch.

        By default each sample's anchor, 0 for a missing sample. Raises UserError for a type without
        zones.
        """
        if zones is None:
            raise UserError(f"no decoder can be conditioned on {self.name}")
        # By rows, as indexing by `own` would gather the anchors from all devices again.
        anchors = zones.anchors if zones.own is None else strided(zones.anchors, len(zones.own))
        if zones.is_present is None:
            return anchors
        return jnp.where(zones.is_present[:, None], anchors, 0)

    def condition_of(self, variables: Variables, samples: Samples) -> Array:
        """The same condition for samples at inference."""
        encoder: Any = self.encoder
        return encoder.anchors(variables, samples)


@dataclasses.dataclass(eq=False)
class NetworkEncoder:
    """An encoder whose network takes one column of the batch.

    Its context anchors are the anchors of a random subset of the training samples.
    """

    name: str  # of the type; the network is called `NAME_encoder`
    module: Any  # the network, (b, ...) -> (b, q)
    _: dataclasses.KW_ONLY
    column: str  # name of the network's inputs in a batch
    example: Any  # one input row (1, ...), for `init`
    samples: Any = None  # from a split to its inputs; None: what the type encodes
    latent_dim: int  # q
    context_size: int  # of context anchors; 0: samples that are encoded together cut the zones
    seed: int  # of the choice of training samples for the context
    microbatch_size: int | None  # examples per micro-batch in training; None: the whole batch
    distinct: bool = False  # whether equal inputs of a batch share one anchor
    transform: Any = None  # of training images on the host; None: the network takes no images

    num_draws = 1
    main_feature = anchor_feature = "anchor"  # keys in `features`: to evaluate, and of the anchor

    def __post_init__(self) -> None:
        self.network, self.anchors_key = f"{self.name}_encoder", f"{self.name}_anchors"
        self.module = models.functional(self.module)

    @classmethod
    def from_config(cls, name: str, config: ConfigDict, module: Any, **others: Any) -> Any:
        """The encoder of type `name` with the numbers of a config, such as `NAME.context_size`."""
        return cls(name, module, **cls.settings(config, name), **others)

    @staticmethod
    def settings(config: ConfigDict, group: str) -> dict[str, Any]:
        """Arguments that are numbers of a config, with the context size of a config group."""
        return {
            "latent_dim": config.latent.dim,
            "context_size": config[group].context_size,
            "seed": config.seed,
            "microbatch_size": config.training.microbatch_size,
        }

    def init(self, key: PRNGKeyArray) -> Any:
        """Initial variables."""
        return self.module.init(key, self.example, train=False)

    def anchors_shape(self) -> tuple[int, ...]:
        """Shape of the anchors of one sample, (1, q), found without running the network."""
        return _output_shape(self.module, jax.eval_shape(lambda: self.example))

    def inputs(self, samples: Any) -> Any:
        """Inputs of the network for rows of the column."""
        return samples

    def zones(self, variables: Variables, batch: Batch, keys: Keys) -> tuple[Zones, ...]:
        """Zones of a training batch; the key is for dropout."""
        inputs, (key,) = batch[self.column], keys
        network = in_training(self.module, self.microbatch_size)
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
        return self.module.apply(variables[self.network], self.inputs(samples), train=False)

    def features(self, variables: Variables, samples: Samples) -> dict[str, Float[Array, "b d"]]:
        """Features of samples by name, including the anchor. Must be a pure function."""
        return {"anchor": self.anchors(variables, samples)}

    def context_shapes(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes and dtypes of the context; empty if the config has no context."""
        shape = jax.ShapeDtypeStruct((self.context_size, self.latent_dim), jnp.float32)
        return {self.anchors_key: shape} if self.context_size else {}

    def context(self, anchors: Callable[..., Any], train: Examples) -> dict[str, Any]:
        """The context by name; `anchors(samples, description=...)` returns anchors of samples."""
        if self.context_size == 0:
            return {}
        rows = context_rows(self.seed, len(train.labels), self.context_size)
        return {self.anchors_key: anchors(self.samples(train)[rows], description="context anchors")}


@functools.lru_cache(maxsize=64)
def _output_shape(module: Any, example: jax.ShapeDtypeStruct) -> tuple[int, ...]:
    def output(example: Array) -> Array:
        variables = module.init(jax.random.key(0), example, train=False)
        return module.apply(variables, example, train=False)

    return getattr(jax.eval_shape(output, example), "shape", ())
