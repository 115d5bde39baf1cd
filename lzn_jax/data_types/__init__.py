"""Data types: how samples of each become anchors, and how latents become samples (paper §2.1).

A data type is its encoder and its decoder. It knows no other type; what they are to each other is
for `lzn_jax.latent_space`. A new one is a file here, its networks in `lzn_jax.models`, and a source
of data for its samples.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key, PRNGKeyArray
from ml_collections import ConfigDict

from lzn_jax import zoning
from lzn_jax.configuration import UserError
from lzn_jax.data import Examples
from lzn_jax.models import Variables
from lzn_jax.randomness import Stream, stream_key

Samples = Any  # rows of one data type: what a batch holds of it
Condition = tuple[Any, Any]  # of a decoder: latents, and what else it is told; None without


class Zones(NamedTuple):
    """Anchors that cut the latent space into zones, and whose zone is each sample's.

    Attributes:
      anchors: (n, q).
      own: (b,) index of each sample's anchor; None: sample i has anchor i.
      log_weights: (n,) unnormalised, -inf removes an anchor; None: all weigh the same.
      is_present: (b,) False for samples that are missing; None: all are there.
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

    def of_some(self, count: int) -> "Zones":
        """The same zones, and the samples that `some` takes."""
        own = jnp.arange(len(self.anchors)) if self.own is None else self.own
        own, is_present = some((own, self.is_present), count)
        return self._replace(own=own, is_present=is_present)


def some(samples: Any, count: int) -> Any:
    """As many of a batch, at even steps, so that each device has its share of them."""
    return jax.tree.map(lambda a: a.reshape(count, -1, *a.shape[1:])[:, 0], samples)


def given(batch: Mapping[str, Array], name: str, drawn: Array) -> Array:
    """The column `name` of a batch where it has one, else what the key of the update drew.

    Raises UserError for a column of another shape.
    """
    column = batch.get(name, drawn)
    if column.shape != drawn.shape:
        raise UserError(f"{name} of a batch must have the shape {drawn.shape}, got {column.shape}")
    return column


@runtime_checkable
class Encoder(Protocol):
    """Samples to anchors."""

    network: str  # its name among the modules
    num_draws: int  # random keys that `zones` takes

    def init(self, key: PRNGKeyArray) -> Any:
        """Fresh variables of its network."""

    def zones(
        self, variables: Variables, batch: Mapping[str, Array], keys: Sequence[PRNGKeyArray]
    ) -> tuple[Zones, ...]:
        """Zones of a training batch, in training mode: one set, or one for each of two views."""

    def anchors(self, variables: Variables, samples: Samples) -> Float[Array, "b q"]:
        """Anchors of samples in inference: a pure function."""


class Reader(Protocol):
    """What finds latents of samples in the zones of another type, without a network of its own."""

    def latents(
        self,
        model: Any,
        samples: Samples,
        noise: Float[Array, "b q"],
        keys: Key[Array, " b"],
        solver: zoning.Solver,
    ) -> Float[Array, "b q"]:
        """Latents of samples in inference, with noise and a key for each: a pure function."""


@runtime_checkable
class WithContext(Protocol):
    """An encoder that needs training samples in inference."""

    def context_shapes(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes and types of what is kept; empty where a config keeps nothing."""

    def context(self, anchors: Callable[..., Any], train: Examples) -> dict[str, Any]:
        """What is kept; `anchors` are those of samples of the type, with a `description`."""


def context_rows(config: ConfigDict, count: int) -> Int[np.ndarray, " c"]:
    """The fixed random sample of `count` training images that is kept."""
    key = stream_key(config.seed, Stream.CONTEXT)
    return np.asarray(jax.random.permutation(key, count)[: config.latent.context_size])


@runtime_checkable
class Decoder(Protocol):
    """Latents to samples."""

    network: str
    output: str  # the name of samples in what `generate` returns
    num_draws: int  # random keys that `loss` takes
    sources: tuple[str, ...]  # types whose latents it learns from, in turn
    noise_scale: float | None  # α of these latents, None: from 0 to 1 at random
    told: str | None  # the type of whose samples it is told beside latents

    def init(self, key: PRNGKeyArray, condition: Condition) -> Any:
        """Fresh variables of its network, given what it will be told."""

    def loss(
        self,
        variables: Variables,
        batch: Mapping[str, Array],
        condition: Condition,
        keys: Sequence[PRNGKeyArray],
    ) -> Float[Array, ""]:
        """What it is trained on, given each sample's latent: a mean over the batch."""

    def generate(
        self,
        variables: Variables,
        key: PRNGKeyArray,
        condition: Condition,
        index: Int[Array, " b"],
    ) -> dict[str, Array]:
        """Samples of the given numbers, each with its own noise of the key: a pure function."""


class DataType(NamedTuple):
    """One kind of sample.

    Attributes:
      encoder, decoder: None where a config has no use for them.
      tell: what another type's decoder is told of a batch beside its latents, a pure function
        (batch, zones of the type or None) -> (b, dim_to_tell).
    """

    encoder: Encoder | Reader | None = None
    decoder: Decoder | None = None
    tell: Callable[[Mapping[str, Array], Zones | None], Array] | None = None
    dim_to_tell: int = 0
