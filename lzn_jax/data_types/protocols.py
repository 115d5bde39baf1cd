"""Protocols of encoders and decoders, and the records that the latent space passes to them."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from lzn_jax import zoning
from lzn_jax.errors import UserError
from lzn_jax.models import Module, Tree, Variables
from lzn_jax.parts import Field, words

Samples = Any  # samples of one data type, one per row
Batch = Mapping[str, Array]  # columns of a training batch
Keys = Sequence[PRNGKeyArray]
Condition = tuple[Tree, Tree]  # inputs of a decoder: latents, further condition; each or None
Loss = Float[Array, ""]


class Zones(NamedTuple):
    """Anchors that partition the latent space into zones, and the anchor of each sample."""

    anchors: Float[Array, "n q"]
    own: Int[Array, " b"] | None = None  # anchor of each sample; None: sample i has anchor i
    log_weights: Float[Array, " n"] | None = None  # -inf removes an anchor; None: equal weights
    is_present: Array | None = None  # (b,) False for missing samples; None: all are present

    def noise(self, key: PRNGKeyArray) -> Float[Array, "b q"]:
        """Draws from N(0, I), one for each sample. The key is consumed."""
        count = len(self.anchors if self.own is None else self.own)
        return jax.random.normal(key, (count, self.anchors.shape[1]), self.anchors.dtype)

    def draw(self, noise: Float[Array, "b q"], solver: zoning.Solver) -> Float[Array, "b q"]:
        """Latent of each sample for noise that is already scaled by α (paper §2.2.1)."""
        return zoning.compute_latents(
            self.anchors, noise, self.own, solver=solver, log_weights=self.log_weights
        )

    def of_rows(self, count: int) -> "Zones":
        """The same zones for the samples that `strided` selects."""
        own = jnp.arange(len(self.anchors)) if self.own is None else self.own
        own, is_present = strided((own, self.is_present), count)
        return self._replace(own=own, is_present=is_present)


class Context(NamedTuple):
    """Training samples that cut the zones of a type at inference."""

    anchors: Float[Array, "c q"]
    log_weights: Float[Array, " c"] | None = None  # None: equal weights
    samples: Array | None = None  # (c, ...), None: inference does not need them
    limit: Float[Array, ""] | None = None  # of misfits, see `inference.misfits`; None: unknown


class Model(NamedTuple):
    """Variables of the networks, and contexts by type: all that inference needs."""

    variables: Variables
    context: Mapping[str, Context]


def strided(samples: Tree, count: int) -> Tree:
    """`count` evenly spaced rows of each array, so that every device contributes equally."""
    return jax.tree.map(lambda a: a.reshape(count, -1, *a.shape[1:])[:, 0], samples)


def trained_on(*types: str) -> Field:
    """Field of the types whose latents a decoder is trained on."""
    return words("types whose latents it is trained on, in turn", types, part="type")


def given(batch: Batch, name: str, drawn: Array) -> Array:
    """Column `name` of a batch, or else `drawn`. Raises UserError for another shape."""
    column = batch.get(name, drawn)
    if column.shape != drawn.shape:
        raise UserError(f"{name} of a batch must have the shape {drawn.shape}, got {column.shape}")
    return column


@runtime_checkable
class Encoder(Protocol):
    """A network from samples to anchors. `NetworkEncoder` implements it, with a context."""

    network: str  # its name in the variables
    module: Module  # with `init` and `apply` as in a flax module
    num_draws: int  # number of random keys that `zones` takes

    def init(self, key: PRNGKeyArray) -> Tree:
        """Initial variables of the network."""

    def zones(self, variables: Variables, batch: Batch, keys: Keys) -> tuple[Zones, ...]:
        """Zones of a training batch, in training mode: one `Zones`, or two for two views."""

    def anchors(self, variables: Variables, samples: Samples) -> Float[Array, "b q"]:
        """Anchors of samples at inference. Must be a pure function."""


@runtime_checkable
class Reader(Protocol):
    """An encoder that computes latents of samples itself, without context anchors."""

    def encode(
        self, model: Model, samples: Samples, noise: Array, keys: Array, solver: zoning.Solver
    ) -> Float[Array, "b q"]:
        """Latents of samples at inference, given noise and a key for each. Must be pure."""


class Classifier:
    """Classifies latents without a decoder, by anchors with a class each (paper §5.1)."""

    num_classes: int
    probability_time = 1.0  # of the flow, at which probabilities are read

    def classes(self, model: Model) -> tuple[Float[Array, "n q"], Int[Array, " n"]]:
        """Anchors that cut the zones, and the class of each."""
        raise NotImplementedError

    def predict(
        self, model: Model, latents: Float[Array, "b q"], solver: zoning.Solver
    ) -> dict[str, Array]:
        """`classes` (b,) of the anchors whose zones contain the latents, and `probabilities`.

        A probability is the anchor's probability under the flow at `probability_time`.
        """
        anchors, classes = self.classes(model)
        own = zoning.classify(latents, anchors, solver=solver)
        log_probs = zoning.assignment_log_probs(latents, anchors, own, solver=solver)
        return {"classes": classes[own], "probabilities": self._read(log_probs)}

    def class_probabilities(
        self, model: Model, latents: Float[Array, "b q"], solver: zoning.Solver
    ) -> Float[Array, "b c"]:
        """Probability of every class at `probability_time`, summed over anchors."""
        anchors, classes = self.classes(model)
        log_probs = zoning.log_assignments(latents, anchors, solver=solver)
        members = jax.nn.one_hot(classes, self.num_classes)
        return jnp.matmul(self._read(log_probs), members, precision="highest")

    def _read(self, log_probs: Float[Array, "s ..."]) -> Float[Array, "..."]:
        """Probabilities before the step at `probability_time`, at most the last one."""
        last = len(log_probs) - 1
        return jnp.exp(log_probs[min(int(self.probability_time * len(log_probs)), last)])


@runtime_checkable
class Decoder(Protocol):
    """A network from latents to samples."""

    network: str  # its name in the variables
    module: Module
    output: str  # key of the samples in the results of `generate`
    num_draws: int  # number of random keys of `loss`
    sources: tuple[str, ...]  # types whose latents it is trained on, by row in turn; (): no latents
    noise_scale: float | None  # α of these latents; None: uniform in [0, 1] for each sample
    condition: str | None  # type of the condition beside the latents; None: no condition

    def init(self, key: PRNGKeyArray, condition: Condition) -> Tree:
        """Initial variables of the network, given an example of its condition."""

    def loss(self, variables: Variables, batch: Batch, condition: Condition, keys: Keys) -> Loss:
        """Training loss given each sample's latent, averaged over the batch."""

    def generate(
        self, variables: Variables, key: PRNGKeyArray, condition: Condition, index: Int[Array, " b"]
    ) -> dict[str, Array]:
        """Samples as `output`. Their noise depends on the key and each `index`. Must be pure."""


@runtime_checkable
class Measuring(Protocol):
    """A decoder that measures how badly latents explain samples, to mark far samples."""

    condition: str | None

    def misfits(
        self, variables: Variables, samples: Samples, condition: Condition
    ) -> Float[Array, " b"]:
        """Error of each sample given its condition. A pure function without random numbers."""


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
