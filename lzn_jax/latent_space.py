"""One latent space for all data types: encoders, zones, decoders and alignments (paper §2, Fig. 1).

A config names the data types, the alignments between them ("image:label" moves latents of images
into the zones of their labels) and the condition of each decoder. The paper's three case studies
and their baselines differ only in these fields.

The training loss is the sum of the decoders' losses on latents of the batch and of the alignment
losses. Inference is in `lzn_jax.inference`, as pure functions, and in `lzn_jax.trained_model`.
"""

import functools
import itertools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray
from ml_collections import ConfigDict

from lzn_jax import configuration, data, parts, zoning
from lzn_jax.data import Examples
from lzn_jax.data_types import (
    Condition,
    DataType,
    Decoder,
    Encoder,
    NetworkEncoder,
    Zones,
    given,
    strided,
)
from lzn_jax.errors import UserError
from lzn_jax.losses import contrastive
from lzn_jax.models import Variables, named
from lzn_jax.run.batching import in_batches
from lzn_jax.run.devices import examples_at_a_time

Batch = Mapping[str, Array]  # columns
LossAndMetrics = tuple[Float[Array, ""], Mapping[str, Array]]
ZonesByType = Mapping[str, tuple[Zones, ...]]
Draw = Callable[[str, str, float | None], Array]  # latents of (source, use, noise scale)


def solver(setting: ConfigDict) -> zoning.Solver:
    """Solver of a config group such as `latent`; raises UserError if it rejects its values."""
    part = parts.get("solver", setting.solver)
    build = getattr(part, "from_config", lambda setting: part(setting.num_steps))
    try:
        return build(setting)
    except ValueError as error:
        raise UserError(f"solver {setting.solver!r}: {error}") from error


def _zone_alignment(
    latents: Array, zones: Zones, targets: Array, setting: ConfigDict, *, form: str
) -> LossAndMetrics:
    """Loss that moves each latent into the zone of its target (paper §2.2.2), and metrics."""
    arrays = (latents, zones.anchors, targets)
    common = {"form": form, "log_weights": zones.log_weights, "is_present": zones.is_present}
    if setting.sharpness is None:
        flow = {"solver": setting.solver, "cutoff": setting.cutoff}
        return zoning.alignment_loss(*arrays, **flow, **common)
    return zoning.alignment_loss_at(*arrays, sharpness=setting.sharpness, **common)


_SHARPNESS = {
    "alignment.sharpness": parts.positive(
        "inverse temperature r of the assignments in the loss, None = the paper's form: the best "
        "assignment of the flow after alignment.cutoff",
        None,
    )
}


def _check_dpm(values: Mapping[str, Any]) -> None:
    for flow in ("latent", "alignment"):
        got = values.get(f"{flow}.num_steps", 3)
        parts.require(
            values.get(f"{flow}.solver") != "dpm" or got >= 3,
            f"{flow}.num_steps must be an integer >= 3 with {flow}.solver 'dpm', got {got}",
        )


for _name, _solver in zoning.SOLVERS.items():
    parts.add("solver", _name, _solver, check=_check_dpm if _name == "dpm" else None)
for _form in ("prob", "log"):
    _loss = functools.partial(_zone_alignment, form=_form)
    parts.add("alignment", _form, _loss, _SHARPNESS)


for _name, _function in (
    ("representations", "representation:measure"),
    ("classification", "classification:measure"),
    ("samples", "samples:measure"),
    ("reconstruction", "samples:measure_reconstruction"),
    ("texts", "texts:measure"),
):
    parts.add("measurement", _name, f"lzn_jax.evaluation.{_function}")  # imported by evaluations
parts.add("figure", "tasks", "lzn_jax.evaluation.tasks:draw")


BASELINES: dict[str, Callable[..., Any]] = {
    "simclr": contrastive.nt_xent,
    "dcl": functools.partial(contrastive.nt_xent, decoupled=True),
    "infonce": contrastive.info_nce,
    "siglip": contrastive.siglip,
}


class Model(NamedTuple):
    """Variables of the networks and context anchors: all that inference needs."""

    variables: Variables
    context: Mapping[str, jax.Array]


class Alignment(NamedTuple):
    """A pair of types: latents of the source are moved into the zones of the target."""

    source: str
    target: str

    def __str__(self) -> str:
        return f"{self.source}_to_{self.target}"


class LatentSpace:
    """The latent space of a config; batches of inference are divided over the mesh.

    Attributes:
      types: data types by name.
      modules: networks by name.
      encoders, decoders: by name of their type; decoders without a weight in the loss are left out.
      own_encoders: encoders that have a network.
      alignments: config group `alignment` by pair of types, with the values of the pair.
      losses: functions by name, beside those of decoders and alignments.
      baseline: contrastive loss that replaces zones, or None.
      solver: solver of the encoders' flow.
      alignment_solver: solver of the alignment's flow, or None without alignments.
      in_batches: calls a function on any number of examples, with the batch size of training.
    """

    def __init__(self, config: ConfigDict, mesh: Mesh) -> None:
        self.config = config
        self.types: dict[str, DataType] = {}
        for name in config.types:
            with parts.mistakes(f"type {name!r}"):
                self.types[name] = _checked_type(name, parts.get("type", name)(config), config)
        types = self.types.values()
        names = ["labels", "errors", "weights"]  # of arrays in results
        names += [n for t in types if t.name != "label" for n in {t.output, t.plural}]
        line = f"plurals and outputs of types must differ from others: {', '.join(sorted(names))}"
        parts.require(len({*names}) == len(names), line)
        self.modules: dict[str, Any] = {n: m for t in types for n, m in t.modules.items()}
        self.in_batches = functools.partial(
            in_batches, mesh=mesh, batch_size=examples_at_a_time(config.training)
        )
        self.alignments = {
            Alignment(*pair.split(":")): _alignment_setting(config, pair)
            for pair in config.alignments
        }
        names = [n for n in config.training.losses if config.training[f"{n}_weight"] > 0]
        self.losses = {name: parts.get("loss", name) for name in names}
        self.solver = solver(config.latent)
        self.alignment_solver: Any = solver(config.alignment) if "alignment" in config else None
        self.baseline: str | None = None if config.objective == "lzn" else config.objective
        self.encoders: dict[str, Any] = {each.name: each.encoder for each in types if each.encoder}
        self.decoders: dict[str, Any] = {
            each.name: each.decoder
            for each in types
            if each.decoder and each.weight > 0 and not self.baseline
        }
        self.own_encoders = {n: e for n, e in self.encoders.items() if isinstance(e, Encoder)}
        used = {*itertools.chain(*self.alignments, *(d.sources for d in self.decoders.values()))}
        without = ", ".join(sorted(used - self.own_encoders.keys())) if self.encoders else ""
        parts.require(not without, f"decoders and alignments need an encoder network of {without}")
        self._jitted: dict[Any, Any] = {}

    @property
    def transform(self) -> data.Transform | None:
        """Transform of training images on the host, or None in a space without images."""
        for encoder in self.encoders.values():
            if (transform := getattr(encoder, "transform", None)) is not None:
                return transform
        return data.whole_image(self.config.data) if "image_size" in self.config.data else None

    @property
    def row_transforms(self) -> list[data.RowTransform]:
        """Transforms of training examples on the host, of data types and losses, in this order."""
        owners = (*self.types.values(), *self.losses.values())
        return [each.transform for each in owners if getattr(each, "transform", None)]

    @functools.cached_property
    def measurements(self) -> dict[str, Any]:
        """Measurement functions of the data types and of the config by name."""
        return self._of_evaluation("measurement")

    @functools.cached_property
    def figures(self) -> dict[str, Any]:
        """Functions that draw figures, of the data types and of the config by name."""
        return self._of_evaluation("figure")

    def _of_evaluation(self, kind: str) -> dict[str, Any]:
        evaluation, member = self.config.evaluation, f"{kind}s"
        types = self.types.values() if evaluation.measurements_of_types else ()
        names = [*(name for each in types for name in getattr(each, member)), *evaluation[member]]
        functions = {name: parts.get(kind, name) for name in names}
        for name, function in functions.items():
            parts.require(
                callable(function), f"{kind} {name!r} must be a function, got {function!r}"
            )
        return functions

    def prepare_evaluation(self, test: Examples) -> None:
        """Reads weights that measurements need, and logs which test samples are left out.

        Raises UserError for unreadable weights, and for a measurement or figure that is not a
        function.
        """
        for function in (*self.measurements.values(), *self.figures.values()):
            if read := getattr(function, "prepare", None):
                read(self.config)
        for each in self.types.values():
            each.check(test, "test")

    def columns(self, examples: Examples) -> dict[str, Any]:
        """Columns of the data types for training batches."""
        return {k: v for each in self.types.values() for k, v in each.columns(examples).items()}

    def jitted(self, function: Callable[..., Any], static: tuple[str, ...] = ()) -> Any:
        """`function(space, ...)` bound to this space and jitted, cached by function."""
        if function not in self._jitted:
            bound = functools.partial(function, self)
            self._jitted[function] = jax.jit(bound, static_argnames=static)
        return self._jitted[function]

    def init(self, key: PRNGKeyArray) -> Variables:
        """Initial variables of all networks, each with a key derived from its name."""
        latents = jnp.zeros((1, self.config.latent.dim)) if self.encoders else None
        variables: Variables = {}
        for encoder in self.own_encoders.values():
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

    def context(self, variables: Variables, train: Examples) -> dict[str, jax.Array]:
        """Context anchors and training samples that inference needs."""
        arrays: dict[str, Any] = {}
        for name, encoder in self._with_context().items():
            anchors = functools.partial(self.anchors, variables, source=name)
            arrays |= encoder.context(anchors, train)
        return {name: jnp.asarray(values) for name, values in arrays.items()}

    def context_shapes(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes of the arrays that `context` returns."""
        shapes = [encoder.context_shapes() for encoder in self._with_context().values()]
        return {name: shape for each in shapes for name, shape in each.items()}

    def model_shapes(self) -> dict[str, Any]:
        """Shapes of the fields of `Model` by name."""
        variables = jax.eval_shape(self.init, jax.random.key(0))
        return {"variables": variables, "context": self.context_shapes()}

    def _with_context(self) -> dict[str, Any]:
        return {n: e for n, e in self.encoders.items() if hasattr(e, "context")}

    def anchors(
        self, variables: Variables, samples: Any, source: str, description: str = "encoding"
    ) -> Any:
        """Anchors (n, q) of any number of samples, given in the form that the encoder reads."""
        jitted = self.jitted(encoded_anchors, ("source",))
        encode = functools.partial(jitted, variables, source=source)
        return self.in_batches(encode, samples, description=description)

    def loss(self, variables: Variables, batch: Batch, key: jax.Array) -> LossAndMetrics:
        """Weighted sum of all losses, and metrics (paper §2.2).

        These are the losses of decoders and alignments, or that of the baseline in their place, and
        those that `training.losses` names. The batch is global, the key is consumed.

        A batch may hold columns that replace random draws: `TYPE_latent_noise` (b, q), not yet
        scaled by α, and `flow_noise` (b, h, w, c) and `flow_time` (b,) in [1e-3, 1] of the flow.
        Raises UserError for a column of another shape.
        """
        zones: dict[str, tuple[Zones, ...]] = {}
        for name, encoder in self.own_encoders.items():
            keys = _keys(key, use := f"{name}_encoder", encoder.num_draws)
            with jax.named_scope(use), parts.mistakes(f"type {name!r}"):
                zones[name] = encoder.zones(variables, batch, keys)
        if self.baseline:
            loss, metrics = self._baseline_loss(self.baseline, zones)
        else:
            loss, metrics = self._loss_by_zones(variables, batch, zones, key)
        for name, own_loss in self.losses.items():
            with jax.named_scope(use := f"{name}_loss"), parts.mistakes(f"loss {name!r}"):
                own, more = _scalars(own_loss(self, variables, batch, zones, named(key, use)))
            more = {use: own, **{f"{name}_{metric}": value for metric, value in more.items()}}
            if taken := metrics.keys() & more.keys():
                raise UserError(f"loss {name!r} must have another name: {min(taken)} is a metric")
            loss += self.config.training[f"{name}_weight"] * own
            metrics = {**metrics, **more}
        return loss, metrics

    def _loss_by_zones(
        self, variables: Variables, batch: Batch, zones: ZonesByType, key: PRNGKeyArray
    ) -> LossAndMetrics:
        """Weighted sum of the decoders' and alignments' losses, and metrics."""
        if queries := self.config.training.get("queries"):  # a field of image decoders
            # Latents are drawn for these rows only; the anchors stay those of the whole batch.
            batch = strided(batch, queries)
            zones = {name: tuple(z.of_rows(queries) for z in each) for name, each in zones.items()}

        @functools.cache
        def draw(source: str, use: str) -> Array:  # once, whatever the scales
            drawn = zones[source][0].noise(named(key, use))
            return given(batch, f"{source}_latent_noise", drawn)

        @functools.cache
        def latents(source: str, use: str, scale: float | None) -> Array:
            use = f"{source}_latents_{use}"
            noise = draw(source, use)
            if scale is None:  # a random α in [0, 1] for each sample
                noise *= jax.random.uniform(named(key, f"{use}_scale"), (len(noise), 1))
                scale = 1.0
            with parts.mistakes(f"solver {self.config.latent.solver!r}"):
                return zones[source][0].latents(scale * noise, self.solver)

        losses, metrics = [], {}
        for name, decoder in self.decoders.items():
            condition, has_latent = self._condition(decoder, batch, zones, latents)
            keys = _keys(key, use := f"{name}_decoder", decoder.num_draws)
            with jax.named_scope(use), parts.mistakes(f"type {name!r}"):
                loss = _decoder_loss(decoder, variables, batch, condition, has_latent, keys)
            metrics[self.types[name].loss_name] = loss
            losses.append(self.types[name].weight * loss)
        for pair, setting in self.alignments.items() if self.encoders else ():
            if setting.weight == 0:
                continue
            with jax.named_scope("alignment"):
                loss, more = self._alignment_loss(pair, setting, zones, latents)
            suffix = "" if len(self.alignments) == 1 else f"_{pair}"
            more = {"alignment_loss": loss, **more}
            metrics |= {f"{name}{suffix}": value for name, value in more.items()}
            losses.append(setting.weight * loss)
        return sum(losses, start=jnp.zeros(())), metrics

    def _baseline_loss(self, name: str, zones: ZonesByType) -> LossAndMetrics:
        """Contrastive loss of two views of an image, or of an image and its text, and metrics."""
        # A class is not a view of an example.
        views = [z for n, each in zones.items() if not self.types[n].has_classes for z in each]
        settings = dict(self.config[name])
        if (is_present := _all_present(*views)) is not None:
            settings["is_present"] = is_present
        first, second = (view.anchors for view in views[:2])
        return BASELINES[name](first, second, **settings)

    def _condition(
        self, decoder: Decoder, batch: Batch, zones: ZonesByType, latents: Draw
    ) -> tuple[Condition, Bool[Array, " b"] | None]:
        """Condition of a decoder in training, and a mask of examples with a latent (None: all).

        The rows take their latents from the sources in turn. If an example has no sample of its
        source, the next source is used.
        """
        latent, has_latent, further = None, None, None
        if self.encoders and decoder.sources:
            scale, use = decoder.noise_scale, decoder.network
            candidates = [latents(source, use, scale) for source in decoder.sources]
            present = [zones[source][0].is_present for source in decoder.sources]
            row, count = jnp.arange(len(candidates[0])), len(candidates)
            distances = [
                (turn - row) % count + (0 if is_present is None else count * ~is_present)
                for turn, is_present in enumerate(present)
            ]
            chosen = jnp.argmin(jnp.stack(distances), axis=0)
            latent = jnp.select([(chosen == turn)[:, None] for turn in range(count)], candidates)
            masks = [is_present for is_present in present if is_present is not None]
            if len(masks) == count:  # otherwise some source has a sample of every example
                has_latent = functools.reduce(jnp.logical_or, masks)
        if decoder.condition is not None:
            (first, *_) = zones.get(decoder.condition, (None,))
            further = self.types[decoder.condition].condition(batch, first)
        return (latent, further), has_latent

    def _alignment_loss(
        self, pair: Alignment, setting: ConfigDict, zones: ZonesByType, latents: Draw
    ) -> LossAndMetrics:
        """Loss of the source's latents in the target's zones, and metrics.

        With two views of an image, the zones are those of the second view (paper §5.1).
        """
        scale, use = setting.noise_scale, "aligned"
        if scale is None:  # the latents of generation, which are then computed once
            scale, decoder = self.config.latent.noise_scale, self.types[pair.source].decoder
            use = decoder.network if decoder else use
        source, target = zones[pair.source][0], zones[pair.target][-1]
        partners = jnp.arange(len(target.anchors)) if target.own is None else target.own
        target = target._replace(is_present=_all_present(source, target))
        setting = ConfigDict({**setting, **pair._asdict(), "source_zones": source})
        align = parts.get("alignment", setting.form)
        with parts.mistakes(f"alignment {setting.form!r}"):
            return _scalars(align(latents(pair.source, use, scale), target, partners, setting))


def _alignment_setting(config: ConfigDict, pair: str) -> ConfigDict:
    """Config group `alignment` of a pair, with its solver built.

    Raises UserError if the solver rejects the values.
    """
    values = configuration.of_pair(configuration.flatten(config.to_dict()), pair)
    setting = ConfigDict(configuration.nest(values)["alignment"])
    return ConfigDict({**setting, "solver": solver(setting)})


def encoded_anchors(
    space: LatentSpace, variables: Variables, samples: Any, source: str
) -> Float[Array, "b q"]:
    """Anchors of samples of a type, as a pure function."""
    return space.encoders[source].anchors(variables, samples)


def _decoder_loss(
    decoder: Decoder,
    variables: Variables,
    batch: Batch,
    condition: Condition,
    has_latent: Bool[Array, " b"] | None,
    keys: tuple[PRNGKeyArray, ...],
) -> Float[Array, ""]:
    """Loss of a decoder; examples without a latent are replaced by others, to keep shapes fixed."""
    if has_latent is not None:
        rows = _stand_ins(has_latent)
        batch, condition = jax.tree.map(lambda a: a[rows], (batch, condition))
    own_loss = decoder.loss(variables, batch, condition, keys)
    loss, _ = _scalars((own_loss, {}), "a scalar loss of its decoder")
    return loss if has_latent is None else loss * jnp.any(has_latent)


def _scalars(found: Any, needed: str = "(scalar, dict of scalars)") -> LossAndMetrics:
    """A loss and its metrics; raises TypeError for anything else."""
    shapes = jax.tree.map(jnp.shape, found)
    metrics = found[-1] if isinstance(found, tuple) and found else None
    if not isinstance(metrics, dict) or shapes != ((), dict.fromkeys(metrics, ())):
        raise TypeError(f"it must return {needed}, got the shapes {shapes}")
    return found


def _checked_type(name: str, made: Any, config: ConfigDict) -> DataType:
    """The data type with the config's weight; raises UserError if it lacks what protocols need."""
    require, dim = parts.require, config.latent.dim
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
            require(needed in (None, *config.types), f"{owner} needs {needed!r} among types")
    owner = f"the encoder of type {name!r}"
    if encoder is not None and not hasattr(encoder, "latents"):
        _check_members(owner, encoder, (*Encoder.__annotations__, "init", "zones", "anchors"))
    if isinstance(encoder, NetworkEncoder):
        got, needed = encoder.anchors_shape(), f"{owner} must give anchors (n, {dim})"
        require(got == (1, dim), f"{needed}, as latent.dim is {dim}; one sample gives {got}")
    if (weight := config.training.get(f"{name}_weight")) is not None:
        require(decoder is not None, f"training.{name}_weight needs a decoder of type {name!r}")
        made.weight = weight
    return made


def _check_members(owner: str, made: Any, members: tuple[str, ...]) -> None:
    missing = [member for member in members if not hasattr(made, member)]
    parts.require(not missing, f"{owner} lacks {', '.join(missing)}")


def _keys(key: PRNGKeyArray, use: str, count: int) -> tuple[PRNGKeyArray, ...]:
    return tuple(jax.random.split(named(key, use), count)) if count else ()


def _all_present(*zones: Zones) -> Bool[Array, " b"] | None:
    """Rows that are present in all zones (None: all rows)."""
    present = [each.is_present for each in zones if each.is_present is not None]
    return functools.reduce(jnp.logical_and, present) if present else None


def _stand_ins(is_present: Bool[Array, " b"]) -> Int[Array, " b"]:
    """Index of each row if it is present, or of the last present row before it, cyclically."""
    last = jax.lax.cummax(jnp.where(is_present, jnp.arange(len(is_present)), -1))
    return jnp.where(last < 0, jnp.max(last), last)


def _study(
    name: str, types: tuple[str, ...], *alignments: str, **decoder: str | tuple[str, ...]
) -> None:
    conditions = {f"decoder.{field}": value for field, value in decoder.items()}
    parts.add("study", name, {"types": types, "alignments": alignments, **conditions})


_study("generation", ("image",))
_study("alone", ("image", "label"))  # without alignment, a label is a set of zones of images
_study("representation", ("image",), "image:image")
_study("joint", ("image", "label"), "image:label", condition="label")
_study(
    "pairs", ("image", "text"), "image:text", "text:image",
    condition="text", latents=("text", "image"),
)  # fmt: skip
_study(
    "text", ("image", "label", "text"), "image:text", "image:label", "text:label",
    condition="text", latents=("text", "image"),
)  # fmt: skip
