"""One latent space for every kind of data: its types, their alignments, translations (paper §2).

A config names the data types, the alignments between them ("image:label" puts latents of images
into the zones of their labels) and what a decoder is told beside a latent. The three case studies,
their baselines and what else is tried are this class with other fields.

Training adds up the decoders' losses on the latents of a batch and the alignments' losses. A
translation takes a sample of one type to its latent, or draws one from the prior, and decodes the
latent as a sample of another type.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple
from zlib import crc32

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray
from ml_collections import ConfigDict

from lzn_jax import data, models, zoning
from lzn_jax.configuration import UserError
from lzn_jax.data import Examples
from lzn_jax.data_types import (
    Condition,
    DataType,
    Encoder,
    WithContext,
    Zones,
    bank,
    given,
    image,
    label,
    some,
    text,
)
from lzn_jax.losses import contrastive
from lzn_jax.models import Variables, split_variables
from lzn_jax.randomness import Stream, key_or_seed, normal_by_index
from lzn_jax.run.batching import in_batches
from lzn_jax.run.sharding import examples_at_a_time
from lzn_jax.tokenizers import num_tokens

# Of a config's seed each network has a key of its own, by its place here.
_INIT_ORDER = ("decoder", "encoder", "label_anchors", "text_encoder", "text_decoder")


class Model(NamedTuple):
    """What inference needs: variables of the networks, and context anchors."""

    variables: Variables
    context: Mapping[str, jax.Array]


class Alignment(NamedTuple):
    """Latents of one type, and the other whose zones they shall lie in."""

    source: str
    target: str

    def __str__(self) -> str:
        return f"{self.source}_to_{self.target}"


def make_solver(config: ConfigDict, flow: Literal["latent", "alignment"]) -> zoning.Solver:
    """The solver of one of a config's two flows."""
    setting = config[flow]
    return zoning.SOLVERS[setting.solver](setting.num_steps)


def _stand_ins(is_there: Bool[Array, " b"]) -> Int[Array, " b"]:
    """Index of each present row; for an absent one, of the last present row before, cyclically."""
    last = jax.lax.cummax(jnp.where(is_there, jnp.arange(len(is_there)), -1))
    return jnp.where(last < 0, jnp.max(last), last)


class LatentSpace:
    """The latent space of a config; inference divides its batches over the mesh.

    A latent exists only relative to other anchors. For images these are in inference the context
    anchors, or, with `latent.context_size` 0 as in the paper, the other images at hand.

    Attributes:
      modules: networks by name.
      types: data types by name.
      encoders, decoders: of the types that have one; decoders are those that train.
      own_encoders: those that have a network of their own.
      sources: types of which training takes latents.
      alignments: what is trained to lie in whose zones.
      baseline: what trains the encoders in place of zones, None: zones.
      in_batches: runs a function over any number of examples, as many at once as training.
    """

    def __init__(
        self, config: ConfigDict, mesh: Mesh, more_types: Mapping[str, DataType] | None = None
    ) -> None:
        self.config = config
        self.modules: Mapping[str, nn.Module] = models.build(config, num_tokens(config))
        count = examples_at_a_time(config.training)
        self.in_batches = functools.partial(in_batches, mesh=mesh, batch_size=count)
        self.solver = make_solver(config, "latent")
        self.alignments = [Alignment(*pair.split(":")) for pair in config.alignments]
        if "alignment" in config:
            self.alignment_solver = make_solver(config, "alignment")
        known = {"image": image, "label": label, "text": text}
        self.types: dict[str, DataType] = {
            name: known[name].build(config, self.modules) for name in config.types
        } | dict(more_types or {})
        self.encoders: dict[str, Any] = {
            name: each.encoder for name, each in self.types.items() if each.encoder
        }
        names = {name: f"{name}_weight" for name in self.types} | {"image": "generation_weight"}
        weights = {name: config.training.get(names[name], 1.0) for name in self.types}
        objective = config.get("objective", "lzn")
        self.baseline: str | None = None if objective == "lzn" else objective
        self.weights = {n: w for n, w in weights.items() if w > 0 and not self.baseline}
        self.decoders: dict[str, Any] = {
            name: each.decoder
            for name, each in self.types.items()
            if each.decoder and name in self.weights
        }
        sources = {pair.source for pair in self.alignments}
        sources.update(*(decoder.sources for decoder in self.decoders.values()))
        self.sources = [name for name in self.encoders if name in sources]
        self._in_context = {n: e for n, e in self.encoders.items() if isinstance(e, WithContext)}
        self.own_encoders = {n: e for n, e in self.encoders.items() if isinstance(e, Encoder)}
        self._jitted_anchors = {
            name: jax.jit(encoder.anchors) for name, encoder in self.own_encoders.items()
        }
        self._jitted_latents = jax.jit(self.latents_in_context, static_argnames="stream")

    def encoder(self, name: str) -> Any:
        """The encoder of a type; raises UserError where there is none."""
        if not self.encoders:
            raise UserError("a run with latent.enabled=False has no encoder, anchors or latents")
        if name not in self.encoders:
            raise UserError(f"{name!r} is no data type of the run: {', '.join(self.encoders)}")
        return self.encoders[name]

    @property
    def transform(self) -> data.Transform:
        """Of training images, on the host."""
        whole: data.Transform = data.whole_image(self.config.data)
        return self.encoders["image"].transform if "image" in self.encoders else whole

    # Training.

    def init(self, key: jax.Array) -> Variables:
        """Fresh variables of every network."""
        keys = dict(zip(_INIT_ORDER, jax.random.split(key, len(_INIT_ORDER)), strict=True))
        if "decoder" not in self.modules:
            keys["encoder"] = key  # as in all runs of representations so far
        latents = jnp.zeros((1, self.config.latent.dim)) if self.encoders else None
        variables: Variables = {}

        def own(network: str) -> PRNGKeyArray:
            return keys.get(network, jax.random.fold_in(key, crc32(network.encode())))

        for encoder in self.own_encoders.values():
            variables[encoder.network] = encoder.init(own(encoder.network))
        for each in self.types.values():
            if each.decoder:
                network, told = each.decoder.network, each.decoder.told
                shown = told and jnp.zeros((1, self.types[told].dim_to_tell))
                variables[network] = each.decoder.init(own(network), (latents, shown))
        return variables

    def loss(
        self, variables: Variables, batch: Mapping[str, jax.Array], key: jax.Array
    ) -> tuple[jax.Array, tuple[dict[str, jax.Array], dict[str, Any]]]:
        """Losses of decoders and alignments, or SimCLR's in their place (paper §2.2).

        Beside the loss: metrics, and the variables that are not trained, by network, as the next
        update shall find them. The batch is global, the key is consumed.

        A batch may hold draws, which then take the place of the key's: `image_latent_noise` and
        `text_latent_noise` (b, q) before α, and the flow's `flow_noise` (b, h, w, c) and
        `flow_time` (b,) in [1e-3, 1]. Raises UserError for one of another shape.
        """
        keys = self._training_keys(key)
        zones: dict[str, tuple[Zones, ...]] = {
            name: encoder.zones(variables, batch, keys[name, "encoder"])
            for name, encoder in self.own_encoders.items()
        }
        newest = {each.network: zones[name][0] for name, each in self.own_encoders.items()}
        constants = bank.remembered(split_variables(variables)[1], newest)
        if self.baseline:
            loss, metrics = self._baseline_loss(zones)
            return loss, (metrics, constants)
        if queries := self.config.training.get("queries"):  # anchors are those of the whole batch
            batch = some(batch, queries)
            zones = {name: tuple(z.of_some(queries) for z in each) for name, each in zones.items()}

        @functools.cache
        def latents(source: str, use: str, scale: float | None) -> Array:
            among, (key,) = zones[source][0], keys[source, use]
            noise = given(batch, f"{source}_latent_noise", among.noise(key))
            if scale is None:  # α from 0 to 1, for each sample
                noise *= jax.random.uniform(jax.random.fold_in(key, 1), (len(noise), 1))
                scale = 1.0
            return among.latents(scale * noise, self.solver)

        terms, metrics = [], {}
        for name, decoder in self.decoders.items():
            condition, has_latent = self._condition(name, batch, zones, latents)
            examples: Any = batch
            if has_latent is not None:  # examples without a latent make way for others
                rows = _stand_ins(has_latent)
                examples, condition = jax.tree.map(lambda a, rows=rows: a[rows], (batch, condition))
            loss = decoder.loss(variables, examples, condition, keys[name, "decoder"])
            if has_latent is not None:
                loss *= jnp.any(has_latent)
            metrics["generation_loss" if name == "image" else f"{name}_loss"] = loss
            terms.append(self.weights[name] * loss)
        weight = self.config.get("alignment", {}).get("weight", 1.0)
        for pair in self.alignments if self.sources and weight > 0 else ():
            loss, found = self._alignment_loss(pair, zones, latents)
            suffix = "" if len(self.alignments) == 1 else f"_{pair}"
            found = {"alignment_loss": loss, **found}
            metrics |= {f"{name}{suffix}": value for name, value in found.items()}
            terms.append(weight * loss)
        return sum(terms, start=jnp.zeros(())), (metrics, constants)

    def _baseline_loss(
        self, zones: Mapping[str, tuple[Zones, ...]]
    ) -> tuple[Array, dict[str, Array]]:
        """SimCLR's of two views of images, or CLIP's of images and texts."""
        kwargs = {"temperature": self.config[self.baseline].temperature}
        if self.baseline == "simclr":
            first, second = (view.anchors for view in zones["image"])
            return contrastive.nt_xent(first, second, **kwargs)
        first, second = zones["image"][0].anchors, zones["text"][0].anchors
        return contrastive.info_nce(first, second, is_present=zones["text"][0].is_present, **kwargs)

    def _training_keys(self, key: PRNGKeyArray) -> dict[tuple[str, str], tuple[PRNGKeyArray, ...]]:
        """Keys by type and use: decoders' first, then encoders', then those of latents."""
        decoders = {name: each.decoder for name, each in self.types.items() if each.decoder}
        latents = {"image": "image", "aligned": "aligned"} | {name: name for name in decoders}
        counts = {
            **{(name, "decoder"): decoder.num_draws for name, decoder in decoders.items()},
            **{(name, "encoder"): each.num_draws for name, each in self.own_encoders.items()},
            **{(name, use): 1 for name in self.sources for use in latents},
        }
        keys, used = jax.random.split(key, sum(counts.values())), 0
        found = {}
        for use, count in counts.items():
            found[use] = tuple(keys[used : used + count])
            used += count
        return found

    def _condition(
        self,
        name: str,
        batch: Mapping[str, Array],
        zones: Mapping[str, tuple[Zones, ...]],
        latents: Callable[[str, str, float | None], Array],
    ) -> tuple[Condition, Bool[Array, " b"] | None]:
        """Condition of a decoder in training, and which examples have a latent; None: all.

        Sources take turns by row. Where a sample of one is missing, the next that has one steps in.
        """
        decoder, mixed, has_latent, told = self.decoders[name], None, None, None
        if self.sources and decoder.sources:
            found = [latents(source, name, decoder.noise_scale) for source in decoder.sources]
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
        if decoder.told is not None:
            tell: Any = self.types[decoder.told].tell
            told = tell(batch, zones.get(decoder.told, (None,))[0])
        return (mixed, told), has_latent

    def _alignment_loss(
        self,
        pair: Alignment,
        zones: Mapping[str, tuple[Zones, ...]],
        latents: Callable[[str, str, float | None], Array],
    ) -> tuple[Array, dict[str, Array]]:
        """Of latents with the zones of their targets; of two views the second's (paper §5.1)."""
        setting = self.config.alignment
        scale, use = setting.get("noise_scale"), "aligned"
        if scale is None:
            scale, use = self.config.latent.noise_scale, "image"
        source, target = zones[pair.source][0], zones[pair.target][-1]
        targets = jnp.arange(len(target.anchors)) if target.own is None else target.own
        present = [each.is_present for each in (source, target) if each.is_present is not None]
        return zoning.alignment_loss(
            latents(pair.source, use, scale),
            target.anchors,
            targets,
            solver=self.alignment_solver,
            cutoff=setting.cutoff,
            form=setting.form,
            log_weights=target.log_weights,
            is_present=functools.reduce(jnp.logical_and, present) if present else None,
        )

    # Inference, as pure functions of arrays.

    def latents_in_context(
        self,
        context: Float[Array, "c q"],
        key: PRNGKeyArray,
        noise_scale: Float[Array, ""] | float,
        request: Mapping[str, Array],
        stream: Stream = Stream.IMAGE_LATENTS,
    ) -> Float[Array, "b q"]:
        """Latents of `anchors` (b, q), each with the noise of its `index`."""
        anchors = request["anchors"]
        noise = noise_scale * normal_by_index(key, stream, request["index"], anchors.shape[1:])
        return zoning.latents_in_context(anchors, context, noise, solver=self.solver)

    # Inference on any number of samples.

    def anchors(
        self,
        variables: Variables,
        samples: Any,
        source: str = "image",
        description: str = "encoding",
    ) -> Float[np.ndarray, "n q"]:
        """Anchors of samples; raises UserError for a type without an encoder."""
        self.encoder(source)
        if source not in self.own_encoders:
            raise UserError(f"nothing is aligned with {source}s: they have no anchors of their own")
        encode = functools.partial(self._jitted_anchors[source], variables)
        anchors: np.ndarray = self.in_batches(encode, samples, description=description)
        return anchors

    def latents(
        self,
        context: Mapping[str, Array],
        anchors: np.ndarray,
        noise_scale: float,
        stream: Stream = Stream.IMAGE_LATENTS,
        key: PRNGKeyArray | None = None,
        index: Int[np.ndarray, " n"] | None = None,
    ) -> Float[np.ndarray, "n q"]:
        """Latents among the context anchors, or, without any, among the images themselves.

        The key is consumed, None is that of the config's seed. Noise goes by `index`, None is the
        place in `anchors`: sets that are compared need streams of their own.
        """
        key = key_or_seed(key, self.config.seed)
        if index is None:
            index = np.arange(len(anchors))
        if "anchors" not in context:
            shape = anchors.shape[1:]
            noise = noise_scale * normal_by_index(key, stream, jnp.asarray(index), shape)
            return np.asarray(zoning.compute_latents(anchors, noise, solver=self.solver))
        draw = functools.partial(
            self._jitted_latents, context["anchors"], key, noise_scale, stream=stream
        )
        request = {"anchors": anchors, "index": index}
        latents: np.ndarray = self.in_batches(draw, request, description="zoning")
        return latents

    def context(self, variables: Variables, train: Examples) -> dict[str, jax.Array]:
        """What inference keeps of training samples: anchors of some images, known texts."""
        found: dict[str, Any] = {}
        for name, encoder in self._in_context.items():
            found |= encoder.context(functools.partial(self.anchors, variables, source=name), train)
        return {name: jnp.asarray(values) for name, values in found.items()}

    def context_shapes(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes of what `context` returns; empty where nothing is kept."""
        kept: dict[str, jax.ShapeDtypeStruct] = {}
        for encoder in self._in_context.values():
            kept |= encoder.context_shapes()
        return kept
