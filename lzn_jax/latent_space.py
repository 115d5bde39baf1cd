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

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, PRNGKeyArray
from ml_collections import ConfigDict

from lzn_jax import data, models, zoning
from lzn_jax.configuration import UserError
from lzn_jax.data import Examples
from lzn_jax.data_types import DataType, Decoder, Zones, image, label
from lzn_jax.losses import contrastive
from lzn_jax.models import Variables
from lzn_jax.randomness import Stream, key_or_seed, normal_by_index, stream_key
from lzn_jax.run.batching import in_batches
from lzn_jax.run.sharding import examples_at_a_time

# Of a config's seed each network has a key of its own, by its place here.
_INIT_ORDER = ("decoder", "encoder", "label_anchors")


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
    solver = zoning.SOLVERS[setting.solver]
    return solver(setting.num_steps, precision=config.latent.precision)


def batched(config: ConfigDict, mesh: Mesh) -> Callable[..., Any]:
    """`in_batches` of as many examples as the networks of a config see at once."""
    return functools.partial(in_batches, mesh=mesh, batch_size=examples_at_a_time(config.training))


class LatentSpace:
    """The latent space of a config; inference divides its batches over the mesh.

    A latent exists only relative to other anchors. For images these are in inference the context
    anchors, or, with `latent.context_size` 0 as in the paper, the other images at hand.

    Attributes:
      modules: networks by name.
      types: data types by name.
      encoders, decoders: of the types that have one; decoders are those that train.
      sources: types of which training takes latents.
      alignments: what is trained to lie in whose zones.
      in_batches: runs a function over any number of examples.
    """

    def __init__(self, config: ConfigDict, mesh: Mesh) -> None:
        self.config = config
        self.modules: Mapping[str, nn.Module] = models.build(config)
        self.in_batches = batched(config, mesh)
        self.solver = make_solver(config, "latent")
        self.alignments = [Alignment(*pair.split(":")) for pair in config.alignments]
        if self.alignments:
            self.alignment_solver = make_solver(config, "alignment")
        build = {"image": image.build, "label": label.build}
        self.types: dict[str, DataType] = {
            name: build[name](config, self.modules) for name in config.types
        }
        self.encoders: dict[str, Any] = {
            name: each.encoder for name, each in self.types.items() if each.encoder
        }
        sources = {"image", *(pair.source for pair in self.alignments)}
        self.sources = [name for name in self.encoders if name in sources]
        trains = config.training.get("generation_weight", 1.0) > 0
        self.decoders = {
            name: each.decoder for name, each in self.types.items() if each.decoder and trains
        }
        self._jitted_anchors = {
            name: jax.jit(encoder.anchors) for name, encoder in self.encoders.items()
        }
        self._jitted_latents = jax.jit(self.latents_in_context, static_argnames="stream")

    def encoder(self, name: str) -> Any:
        """The encoder of a type; raises UserError where there is none."""
        if name not in self.encoders:
            raise UserError("a run with latent.enabled=False has no encoder, anchors or latents")
        return self.encoders[name]

    @property
    def transform(self) -> data.Transform:
        """Of training images, on the host."""
        encoder = self.encoders.get("image")
        transform: data.Transform = (
            encoder.transform if encoder else data.whole_image(self.config.data)
        )
        return transform

    # Training.

    def init(self, key: jax.Array) -> Variables:
        """Fresh variables of every network."""
        keys = dict(zip(_INIT_ORDER, jax.random.split(key, len(_INIT_ORDER)), strict=True))
        if "decoder" not in self.modules:
            keys["encoder"] = key  # as in all runs of representations so far
        variables: Variables = {}
        for each in self.types.values():
            if each.encoder:
                variables[each.encoder.network] = each.encoder.init(keys[each.encoder.network])
            if each.decoder:
                told = each.decoder.told and jnp.zeros(
                    (1, self.types[each.decoder.told].dim_to_tell)
                )
                latents = jnp.zeros((1, self.config.latent.dim)) if self.encoders else None
                network = each.decoder.network
                variables[network] = each.decoder.init(keys[network], (latents, told))
        return {name: variables[name] for name in self.modules}

    def loss(
        self, variables: Variables, batch: Mapping[str, jax.Array], key: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Losses of decoders and alignments, or SimCLR's in their place, and metrics (paper §2.2).

        The batch is global, the key is consumed.
        """
        keys = self._training_keys(key)
        zones: dict[str, tuple[Zones, ...]] = {
            name: encoder.zones(variables, batch, keys[name, "encoder"])
            for name, encoder in self.encoders.items()
        }
        if self.config.get("objective") == "simclr":
            first, second = (view.anchors for view in zones["image"])
            return contrastive.nt_xent(first, second, temperature=self.config.simclr.temperature)
        latents, aligned = self._training_latents(zones, keys)
        terms, metrics = [], {}
        for name, decoder in self.decoders.items():
            condition = (latents.get("image"), self._told(decoder, variables, batch))
            loss = decoder.loss(variables, batch, condition, keys[name, "decoder"])
            metrics["generation_loss"] = loss
            terms.append(self.config.training.get("generation_weight", 1.0) * loss)
        for pair in self.alignments if aligned else ():
            weight = self.config.alignment.get("weight", 1.0)
            if weight > 0:
                loss, found = self._alignment_loss(pair, aligned, zones)
                metrics |= {"alignment_loss": loss, **found}
                terms.append(weight * loss)
        return sum(terms, start=jnp.zeros(())), metrics

    def _told(self, decoder: Decoder, variables: Variables, batch: Mapping[str, Array]) -> Any:
        """What a decoder is told of a batch beside its latents."""
        if decoder.told is None:
            return None
        tell = self.types[decoder.told].tell
        assert tell is not None
        return tell(variables, batch)

    def _training_keys(self, key: PRNGKeyArray) -> dict[tuple[str, str], tuple[PRNGKeyArray, ...]]:
        """Keys by type and use: decoders' first, then encoders', then those of latents."""
        decoders = {name: each.decoder for name, each in self.types.items() if each.decoder}
        counts = {
            **{(name, "decoder"): decoder.num_draws for name, decoder in decoders.items()},
            **{(name, "encoder"): encoder.num_draws for name, encoder in self.encoders.items()},
            **{(name, "latents"): 2 for name in self.sources},
        }
        keys, used = jax.random.split(key, sum(counts.values())), 0
        found = {}
        for use, count in counts.items():
            found[use] = tuple(keys[used : used + count])
            used += count
        return found

    def _training_latents(
        self, zones: Mapping[str, tuple[Zones, ...]], keys: Mapping[tuple[str, str], Any]
    ) -> tuple[dict[str, Array], dict[str, Array]]:
        """Latents of types, which decoders are told, and those that are aligned (paper §5.1)."""
        scale = self.config.latent.noise_scale
        aligned_scale = self.config.get("alignment", {}).get("noise_scale")
        latents, aligned = {}, {}
        for name in self.sources:
            latent_key, align_key = keys[name, "latents"]
            latents[name] = aligned[name] = self.draw(zones[name][0], latent_key, scale)
            if aligned_scale is not None:
                aligned[name] = self.draw(zones[name][0], align_key, aligned_scale)
        return latents, aligned

    def draw(self, zones: Zones, key: PRNGKeyArray, noise_scale: float) -> Float[Array, "b q"]:
        """Latents of a batch among its own anchors, noise scaled by α (paper §2.2.1)."""
        anchors, own = zones.anchors, zones.own
        shape = anchors.shape if own is None else (len(own), anchors.shape[1])
        noise = noise_scale * jax.random.normal(key, shape, anchors.dtype)
        return zoning.compute_latents(
            anchors, noise, own, solver=self.solver, log_weights=zones.log_weights
        )

    def _alignment_loss(
        self,
        pair: Alignment,
        aligned: Mapping[str, Array],
        zones: Mapping[str, tuple[Zones, ...]],
    ) -> tuple[Array, dict[str, Array]]:
        """Of latents with the zones of their targets; of two views the second's."""
        setting, target = self.config.alignment, zones[pair.target][-1]
        targets = jnp.arange(len(target.anchors)) if target.own is None else target.own
        return zoning.alignment_loss(
            aligned[pair.source],
            target.anchors,
            targets,
            solver=self.alignment_solver,
            cutoff=setting.cutoff,
            form=setting.form,
            log_weights=target.log_weights,
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
        if not context:
            shape = anchors.shape[1:]
            noise = noise_scale * normal_by_index(key, stream, jnp.asarray(index), shape)
            return np.asarray(zoning.compute_latents(anchors, noise, solver=self.solver))
        draw = functools.partial(
            self._jitted_latents, context["anchors"], key, noise_scale, stream=stream
        )
        request = {"anchors": anchors, "index": index}
        latents: np.ndarray = self.in_batches(draw, request, description="zoning")
        return latents

    def latent_features(
        self,
        context: Mapping[str, Array],
        anchors: np.ndarray,
        stream: Stream = Stream.IMAGE_LATENTS,
        key: PRNGKeyArray | None = None,
        index: Int[np.ndarray, " n"] | None = None,
    ) -> dict[str, Float[np.ndarray, "n q"]]:
        """`latents` by name: 'latent' at the config's α, 'latent_centre' at α = 0."""
        scales = {"latent": self.config.latent.noise_scale, "latent_centre": 0.0}
        return {
            name: self.latents(context, anchors, scale, stream, key, index)
            for name, scale in scales.items()
        }

    def context(self, variables: Variables, train: Examples) -> dict[str, jax.Array]:
        """Anchors of a fixed random sample of training images; empty without latents or context."""
        if not self.context_shapes():
            return {}
        key = stream_key(self.config.seed, Stream.CONTEXT)
        chosen = jax.random.permutation(key, len(train.images))[: self.config.latent.context_size]
        images = train.images[np.asarray(chosen)]
        found = self.anchors(variables, images, description="context anchors")
        return {"anchors": jnp.asarray(found)}

    def context_shapes(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes of what `context` returns."""
        latent = self.config.latent
        if latent.context_size == 0 or not self.encoders:
            return {}
        shape = (latent.context_size, latent.dim)
        return {"anchors": jax.ShapeDtypeStruct(shape, jnp.float32)}
