"""One latent space for every kind of data: its types and their alignments (paper §2).

A config names the data types, the alignments between them ("image:label" puts latents of images
into the zones of their labels) and the condition of each decoder. The three case studies, their
baselines and what else is tried are this class with other fields.

Training adds up the decoders' losses on the latents of a batch and the alignments' losses.
Inference is in `lzn_jax.inference`, as pure functions, and in `lzn_jax.trained_model`.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray
from ml_collections import ConfigDict

from lzn_jax import data, parts
from lzn_jax.configuration import UserError
from lzn_jax.data import Examples
from lzn_jax.data_types import (
    Condition,
    DataType,
    Decoder,
    Encoder,
    NetworkEncoder,
    WithContext,
    Zones,
    bank,
    given,
    strided,
)  # fmt: skip
from lzn_jax.losses import contrastive
from lzn_jax.losses.zone_alignment import solver
from lzn_jax.models import Variables, split_variables
from lzn_jax.randomness import named
from lzn_jax.run.batching import in_batches
from lzn_jax.run.sharding import examples_at_a_time

BASELINES: dict[str, Callable[..., Any]] = {
    "simclr": contrastive.nt_xent,
    "infonce": contrastive.info_nce,
}


class Model(NamedTuple):
    """What inference needs: variables of the networks, and context anchors."""

    variables: Variables
    context: Mapping[str, jax.Array]


class Alignment(NamedTuple):
    """Latents of the source are trained to lie in the zones of the target."""

    source: str
    target: str

    def __str__(self) -> str:
        return f"{self.source}_to_{self.target}"


class LatentSpace:
    """The latent space of a config; inference divides its batches over the mesh.

    Attributes:
      types: data types by name.
      modules: networks by name.
      encoders, decoders: of the types that have one; decoders are those that train.
      own_encoders: those with a network of their own.
      sources: types whose latents training draws.
      alignments: pairs of types.
      baseline: the loss that trains the encoders in place of zones, None: zones.
      solver, alignment_solver: of the two flows; the second is None without alignments.
      in_batches: runs a function over any number of examples, as many at once as training.
    """

    def __init__(self, config: ConfigDict, mesh: Mesh) -> None:
        self.config = config
        self.types: dict[str, DataType] = {
            name: _checked_type(name, parts.get("type", name)(config), config.latent.dim)
            for name in config.types
        }
        types = self.types.values()
        self.modules: dict[str, Any] = {n: m for t in types for n, m in t.modules.items()}
        self.in_batches = functools.partial(
            in_batches, mesh=mesh, batch_size=examples_at_a_time(config.training)
        )
        self.alignments = [Alignment(*pair.split(":")) for pair in config.alignments]
        self.solver = solver(config.latent)
        self.alignment_solver: Any = solver(config.alignment) if "alignment" in config else None
        objective = config.get("objective", "lzn")
        self.baseline: str | None = None if objective == "lzn" else objective
        self.encoders: dict[str, Any] = {each.name: each.encoder for each in types if each.encoder}
        self.decoders: dict[str, Any] = {
            each.name: each.decoder
            for each in types
            if each.decoder and each.weight > 0 and not self.baseline
        }
        used = {pair.source for pair in self.alignments}
        used.update(*(decoder.sources for decoder in self.decoders.values()))
        self.sources = [name for name in self.encoders if name in used]
        self.own_encoders = {n: e for n, e in self.encoders.items() if isinstance(e, Encoder)}
        self._jitted: dict[Any, Any] = {}

    @property
    def transform(self) -> data.Transform | None:
        """Of training images, on the host; None in a space without images."""
        transforms = [getattr(encoder, "transform", None) for encoder in self.encoders.values()]
        found = next((each for each in transforms if each is not None), None)
        is_plain = found is None and "image_size" in self.config.data
        return data.whole_image(self.config.data) if is_plain else found

    def columns(self, examples: Examples) -> dict[str, Any]:
        """Columns of the data types in training batches."""
        return {k: v for each in self.types.values() for k, v in each.columns(examples).items()}

    def jitted(self, function: Callable[..., Any], static: tuple[str, ...] = ()) -> Any:
        """`function(space, ...)` of this space, compiled once."""
        if function not in self._jitted:
            bound = functools.partial(function, self)
            self._jitted[function] = jax.jit(bound, static_argnames=static)
        return self._jitted[function]

    def init(self, key: PRNGKeyArray) -> Variables:
        """Fresh variables of every network; each has a key by its name."""
        latents = jnp.zeros((1, self.config.latent.dim)) if self.encoders else None
        variables: Variables = {}
        for encoder in self.own_encoders.values():
            variables[encoder.network] = encoder.init(named(key, encoder.network))
        for each in self.types.values():
            if decoder := each.decoder:
                beside = None
                if decoder.condition is not None:
                    beside = jnp.zeros((1, self.types[decoder.condition].condition_dim))
                own = named(key, decoder.network)
                variables[decoder.network] = decoder.init(own, (latents, beside))
        return variables

    def context(self, variables: Variables, train: Examples) -> dict[str, jax.Array]:
        """Training samples and anchors that inference keeps, see `WithContext`."""
        found: dict[str, Any] = {}
        for name, encoder in self._with_context().items():
            found |= encoder.context(functools.partial(self.anchors, variables, source=name), train)
        return {name: jnp.asarray(values) for name, values in found.items()}

    def context_shapes(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes of what `context` returns; empty where nothing is kept."""
        shapes = [encoder.context_shapes() for encoder in self._with_context().values()]
        return {name: shape for each in shapes for name, shape in each.items()}

    def _with_context(self) -> dict[str, WithContext]:
        return {n: e for n, e in self.encoders.items() if isinstance(e, WithContext)}

    def anchors(
        self, variables: Variables, samples: Any, source: str, description: str = "encoding"
    ) -> Any:
        """Anchors (n, q) of samples as the encoder takes them."""
        encode = functools.partial(self.jitted(encoded_anchors, ("source",)), variables)
        return self.in_batches(
            functools.partial(encode, source=source), samples, description=description
        )

    def loss(
        self, variables: Variables, batch: Mapping[str, jax.Array], key: jax.Array
    ) -> tuple[jax.Array, tuple[dict[str, jax.Array], dict[str, Any]]]:
        """Losses of decoders and alignments, or a baseline's in their place (paper §2.2).

        Beside the loss: metrics, and the variables that are not trained, by network, for the next
        update. The batch is global, the key is consumed.

        A batch may hold draws, which then take the place of the key's: `TYPE_latent_noise` (b, q)
        before α, and the flow's `flow_noise` (b, h, w, c) and `flow_time` (b,) in [1e-3, 1]. Raises
        UserError for one of another shape.
        """
        zones: dict[str, tuple[Zones, ...]] = {
            name: encoder.zones(variables, batch, _draws(key, f"{name}_encoder", encoder.num_draws))
            for name, encoder in self.own_encoders.items()
        }
        newest = {each.network: zones[name][0] for name, each in self.own_encoders.items()}
        constants = bank.remembered(split_variables(variables)[1], newest)
        if self.baseline:
            views = [  # of an image, or an image and its text: a class is no view of an example
                view
                for name, each in zones.items()
                if not self.types[name].has_classes
                for view in each
            ]
            kwargs: Any = {"temperature": self.config[self.baseline].temperature}
            if (present := _both_present(*views)) is not None:
                kwargs["is_present"] = present
            first, second = (view.anchors for view in views[:2])
            loss, metrics = BASELINES[self.baseline](first, second, **kwargs)
            return loss, (metrics, constants)
        if queries := self.config.training.get("queries"):  # anchors are those of the whole batch
            batch = strided(batch, queries)
            zones = {name: tuple(z.of_rows(queries) for z in each) for name, each in zones.items()}

        @functools.cache
        def latents(source: str, use: str, scale: float | None) -> Array:
            own, among = named(key, f"{source}_latents_{use}"), zones[source][0]
            noise = given(batch, f"{source}_latent_noise", among.noise(own))
            if scale is None:  # α from 0 to 1, for each sample
                noise *= jax.random.uniform(jax.random.fold_in(own, 1), (len(noise), 1))
                scale = 1.0
            return among.latents(scale * noise, self.solver)

        terms, metrics = [], {}
        for name, decoder in self.decoders.items():
            condition, has_latent = self._condition(decoder, batch, zones, latents)
            examples: Any = batch
            if has_latent is not None:  # another example takes the place of one without a latent
                rows = _stand_ins(has_latent)
                examples, condition = jax.tree.map(lambda a, rows=rows: a[rows], (batch, condition))
            draws = _draws(key, f"{name}_decoder", decoder.num_draws)
            loss = decoder.loss(variables, examples, condition, draws)
            if has_latent is not None:
                loss *= jnp.any(has_latent)
            metrics[self.types[name].loss_name] = loss
            terms.append(self.types[name].weight * loss)
        weight = self.config.get("alignment", {}).get("weight", 1.0)
        for pair in self.alignments if self.sources and weight > 0 else ():
            loss, found = self._alignment_loss(pair, zones, latents)
            suffix = "" if len(self.alignments) == 1 else f"_{pair}"
            found = {"alignment_loss": loss, **found}
            metrics |= {f"{name}{suffix}": value for name, value in found.items()}
            terms.append(weight * loss)
        return sum(terms, start=jnp.zeros(())), (metrics, constants)

    def _condition(
        self,
        decoder: Decoder,
        batch: Mapping[str, Array],
        zones: Mapping[str, tuple[Zones, ...]],
        latents: Callable[[str, str, float | None], Array],
    ) -> tuple[Condition, Bool[Array, " b"] | None]:
        """Condition of a decoder in training, and which examples have a latent; None: all.

        Sources take turns by row. Where a sample of one is missing, the next that has one steps in.
        """
        mixed, has_latent, beside = None, None, None
        if self.sources and decoder.sources:
            use = decoder.network
            found = [latents(source, use, decoder.noise_scale) for source in decoder.sources]
            present = [zones[source][0].is_present for source in decoder.sources]
            row, count = jnp.arange(len(found[0])), len(found)
            distances = [
                (turn - row) % count + (0 if there is None else count * ~there)
                for turn, there in enumerate(present)
            ]
            chosen = jnp.argmin(jnp.stack(distances), axis=0)
            mixed = jnp.select([(chosen == turn)[:, None] for turn in range(count)], found)
            known = [there for there in present if there is not None]
            if len(known) == count:  # no source has a sample of every example
                has_latent = functools.reduce(jnp.logical_or, known)
        if decoder.condition is not None:
            of, (first, *_) = decoder.condition, zones.get(decoder.condition, (None,))
            beside = self.types[of].condition(batch, first)
        return (mixed, beside), has_latent

    def _alignment_loss(
        self,
        pair: Alignment,
        zones: Mapping[str, tuple[Zones, ...]],
        latents: Callable[[str, str, float | None], Array],
    ) -> tuple[Array, dict[str, Array]]:
        """Of latents with the zones of their targets; of two views the second's (paper §5.1)."""
        setting = self.config.alignment
        scale, use = setting.get("noise_scale"), "aligned"
        if scale is None:  # the latents of generation
            scale, decoder = self.config.latent.noise_scale, self.types[pair.source].decoder
            use = decoder.network if decoder else use
        source, target = zones[pair.source][0], zones[pair.target][-1]
        targets = jnp.arange(len(target.anchors)) if target.own is None else target.own
        target = target._replace(is_present=_both_present(source, target))
        align = parts.get("alignment", setting.form)
        loss, metrics = align(latents(pair.source, use, scale), target, targets, setting)
        return loss, dict(metrics)


def encoded_anchors(
    space: LatentSpace, variables: Variables, samples: Any, source: str
) -> Float[Array, "b q"]:
    """Anchors of samples of a type, a pure function."""
    anchors: Array = space.encoders[source].anchors(variables, samples)
    return anchors


def _checked_type(name: str, made: Any, dim: int) -> DataType:
    """The data type; raises UserError where it breaks a protocol."""
    if not isinstance(made, DataType):
        raise UserError(f"type {name!r} must build a lzn_jax.data_types.DataType, got {made!r}")
    if made.name != name:
        raise UserError(f"type {name!r} builds a DataType of the name {made.name!r}")
    decoder = made.decoder
    if decoder is not None:
        missing = [
            member
            for member in (*Decoder.__annotations__, "init", "loss", "generate")
            if not hasattr(decoder, member)
        ]
        if missing:
            raise UserError(f"the decoder of type {name!r} lacks {', '.join(missing)}")
        if isinstance(decoder.sources, str):
            raise UserError(
                f"sources of the decoder of type {name!r} must be a tuple of types, got the string "
                f"{decoder.sources!r}"
            )
    encoder = made.encoder
    if encoder is not None and not hasattr(encoder, "latents"):
        members = (*Encoder.__annotations__, "init", "zones", "anchors")
        if missing := [member for member in members if not hasattr(encoder, member)]:
            raise UserError(f"the encoder of type {name!r} lacks {', '.join(missing)}")
    if isinstance(encoder, NetworkEncoder) and (got := encoder.anchors_shape()) != (1, dim):
        raise UserError(
            f"the encoder of type {name!r} must give anchors (n, {dim}), as latent.dim is {dim}; "
            f"one sample gives {got}"
        )
    return made


def _draws(key: PRNGKeyArray, use: str, count: int) -> tuple[PRNGKeyArray, ...]:
    return tuple(jax.random.split(named(key, use), count)) if count else ()


def _both_present(*zones: Zones) -> Bool[Array, " b"] | None:
    """Which rows all have; None: every one."""
    present = [each.is_present for each in zones if each.is_present is not None]
    return functools.reduce(jnp.logical_and, present) if present else None


def _stand_ins(is_there: Bool[Array, " b"]) -> Int[Array, " b"]:
    """Index of each present row; for an absent one, of the last present row before, cyclically."""
    last = jax.lax.cummax(jnp.where(is_there, jnp.arange(len(is_there)), -1))
    return jnp.where(last < 0, jnp.max(last), last)
