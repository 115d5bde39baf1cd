"""One latent space for all data types: encoders, zones, decoders and alignments (paper §2, Fig. 1).

A config names the data types, the alignments between them ("image:label" moves latents of images
into the zones of their labels) and the condition of each decoder. The paper's three case studies
and their baselines differ only in these fields.

The training loss is in `lzn_jax.plan`. Inference is in `lzn_jax.inference`, as pure functions, and
in `lzn_jax.trained_model`.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, PRNGKeyArray
from ml_collections import ConfigDict

from lzn_jax import parts
from lzn_jax.alignments import solver
from lzn_jax.data import Examples
from lzn_jax.data.batches import RowTransform, Transform, whole_image
from lzn_jax.data_types import (
    Context,
    DataType,
    Decoder,
    Encoder,
    Measuring,
    NetworkEncoder,
    Samples,
)
from lzn_jax.models import Module, Tree, Variables, named
from lzn_jax.plan import plan_of
from lzn_jax.run.batching import in_batches


class LatentSpace:
    """The latent space of a config. Batches of inference are divided over the mesh.

    Attributes:
      types: data types by name.
      modules: networks by name.
      encoders, decoders: by name of their type, without decoders whose weight is 0.
      losses: further loss functions by name, besides decoders and alignments.
      plan: what training draws, decodes and aligns.
      solver: solver of the encoders' flow.
      alignment_solver: solver of the alignment's flow, or None without alignments.
      in_batches: calls a function on any number of examples, with the batch size of training.
    """

    def __init__(self, config: ConfigDict, mesh: Mesh) -> None:
        self.config = config
        self.types: dict[str, DataType] = {}
        for name in config.types:
            with parts.mistakes(f"type {name!r}"):
                made = parts.get("type", name)(config)
                self.types[name] = _checked_type(name, made, config.types, config.latent.dim)
            if (weight := config.training.get(f"{name}_weight")) is not None:
                line = f"training.{name}_weight needs a decoder of type {name!r}"
                parts.require(made.decoder is not None, line)
                made.weight = weight
        types = self.types.values()
        names = ["labels", "errors", "weights"]  # of arrays in results
        names += [n for t in types if t.name != "label" for n in {t.output, t.plural}]
        line = f"plurals and outputs of types must differ from others: {', '.join(sorted(names))}"
        parts.require(len({*names}) == len(names), line)
        self.modules: dict[str, Module] = {n: m for t in types for n, m in t.modules.items()}
        size = config.training.microbatch_size or config.training.batch_size
        self.in_batches = functools.partial(in_batches, mesh=mesh, batch_size=size)
        names = [n for n in config.training.losses if config.training[f"{n}_weight"] > 0]
        self.losses = {name: parts.get("loss", name) for name in names}
        own = {name: functools.partial(loss, self) for name, loss in self.losses.items()}
        self.plan = plan_of(config, self.types, own)
        self.solver = self.plan.flow[1]
        self.alignment_solver: Any = solver(config.alignment) if "alignment" in config else None
        self.encoders: dict[str, Any] = {each.name: each.encoder for each in types if each.encoder}
        self.decoders: dict[str, Any] = {d.target: d.decoder for d in self.plan.decodings}
        self._jitted: dict[Callable[..., Tree], Callable[..., Tree]] = {}

    @property
    def transform(self) -> Transform | None:
        """Transform of training images on the host, or None in a space without images."""
        for encoder in self.encoders.values():
            if (transform := getattr(encoder, "transform", None)) is not None:
                return transform
        return whole_image(self.config.data) if "image_size" in self.config.data else None

    @property
    def row_transforms(self) -> list[RowTransform]:
        """Transforms of training examples on the host, of data types and losses, in this order."""
        owners = (*self.types.values(), *self.losses.values())
        return [each.transform for each in owners if getattr(each, "transform", None)]

    def columns(self, examples: Examples) -> dict[str, np.ndarray]:
        """Columns of the data types for training batches."""
        return {k: v for each in self.types.values() for k, v in each.columns(examples).items()}

    def jitted(
        self, function: Callable[..., Tree], static: tuple[str, ...] = ()
    ) -> Callable[..., Tree]:
        """`function(space, ...)` bound to this space and jitted, cached by function."""
        if function not in self._jitted:
            bound = functools.partial(function, self)
            self._jitted[function] = jax.jit(bound, static_argnames=static)
        return self._jitted[function]

    def init(self, key: PRNGKeyArray) -> Variables:
        """Initial variables of all networks, each with a key derived from its name."""
        latents = jnp.zeros((1, self.config.latent.dim)) if self.encoders else None
        variables: Variables = {}
        for encoder in self.plan.encoders.values():
            variables[encoder.network] = encoder.init(named(key, encoder.network))
        for each in self.types.values():
            if decoder := each.decoder:
                further = None
                if (name := decoder.condition) is not None:
                    size = self.types[name].condition_dim
                    parts.require(size > 0, f"no decoder can be conditioned on {name}")
                    further = jnp.zeros((1, size))
                decoder_key, own = named(key, decoder.network), latents if decoder.sources else None
                variables[decoder.network] = decoder.init(decoder_key, (own, further))
        for network, tree in variables.items():
            with parts.mistakes(f"type {network.rpartition('_')[0]!r}"):
                if "batch_stats" in tree:  # samples would depend on their batch
                    name = type(self.modules[network]).__name__
                    raise TypeError(f"{name}() contains BatchNorm: use GroupNorm or LayerNorm")
        return variables

    def context(self, variables: Variables, train: Examples) -> dict[str, Context]:
        """Contexts by type, for the types that need one at inference."""
        found: dict[str, Context | None] = {}
        for name, encoder in self._with_context().items():
            anchors = functools.partial(self.anchors, variables, source=name)
            found[name] = encoder.context(anchors, train)
        return jax.tree.map(jnp.asarray, {n: each for n, each in found.items() if each})

    def context_shapes(self) -> dict[str, Context]:
        """Shapes of the arrays that `context` returns."""
        shapes = {name: each.context_shapes() for name, each in self._with_context().items()}
        limit = jax.ShapeDtypeStruct((), jnp.float32)
        found = {name: shape for name, shape in shapes.items() if shape}
        return found | {n: found[n]._replace(limit=limit) for n in self.measured}

    @property
    def measured(self) -> list[str]:
        """Types with context anchors whose decoder measures how well it explains samples."""
        contexts = [n for n, each in self._with_context().items() if each.context_shapes()]
        known = {None, *contexts, *(n for n in self.encoders if self.types[n].has_classes)}
        return [
            name
            for name, decoder in self.decoders.items()
            if name in contexts
            and isinstance(self.encoders[name], NetworkEncoder)
            and isinstance(decoder, Measuring)
            and decoder.condition in known
        ]

    def model_shapes(self) -> dict[str, Tree]:
        """Shapes of the fields of `Model` by name."""
        variables = jax.eval_shape(self.init, jax.random.key(0))
        return {"variables": variables, "context": self.context_shapes()}

    def _with_context(self) -> dict[str, Any]:
        return {n: e for n, e in self.encoders.items() if hasattr(e, "context")}

    def anchors(
        self, variables: Variables, samples: Samples, source: str, description: str = "encoding"
    ) -> Float[np.ndarray, "n q"]:
        """Anchors (n, q) of any number of samples, given in the form that the encoder reads."""
        jitted = self.jitted(encoded_anchors, ("source",))
        encode = functools.partial(jitted, variables, source=source)
        return self.in_batches(encode, samples, description=description)


def encoded_anchors(
    space: LatentSpace, variables: Variables, samples: Samples, source: str
) -> Float[Array, "b q"]:
    """Anchors of samples of a type, as a pure function."""
    return space.encoders[source].anchors(variables, samples)


def _checked_type(name: str, made: Any, types: Sequence[str], dim: int) -> DataType:
    """The data type `name` among `types`; raises UserError if it lacks what protocols need."""
    require = parts.require
    is_type = isinstance(made, DataType)
    require(is_type, f"type {name!r} must build a lzn_jax.data_types.DataType, got {made!r}")
    require(made.name == name, f"type {name!r} builds a DataType named {made.name!r}")
    encoder, decoder = made.encoder, made.decoder
    if decoder is not None:
        owner = f"the decoder of type {name!r}"
        _check_members(owner, decoder, (*Decoder.__annotations__, "init", "loss", "generate"))
        sources = decoder.sources
        is_tuple = not isinstance(sources, str)
        require(
            is_tuple, f"sources of {owner} must be a tuple of types, got the string {sources!r}"
        )
        for needed in (*sources, decoder.condition):
            require(needed in (None, *types), f"{owner} needs {needed!r} among types")
    owner = f"the encoder of type {name!r}"
    if encoder is not None and not hasattr(encoder, "encode"):
        _check_members(owner, encoder, (*Encoder.__annotations__, "init", "zones", "anchors"))
    if isinstance(encoder, NetworkEncoder):
        got, needed = encoder.anchors_shape(), f"{owner} must give anchors (n, {dim})"
        require(got == (1, dim), f"{needed}, as latent.dim is {dim}; one sample gives {got}")
    return made


def _check_members(owner: str, made: object, members: tuple[str, ...]) -> None:
    missing = [member for member in members if not hasattr(made, member)]
    parts.require(not missing, f"{owner} lacks {', '.join(missing)}")
