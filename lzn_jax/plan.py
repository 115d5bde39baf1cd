"""The plan of a latent space: which latents an update draws, decodes and aligns (paper §2.2).

`plan_of` resolves once what a config leaves open, and `loss` evaluates the plan. A plan prints a
line for each loss:

    zones of image, label; latents by 10 steps of adams
    image decoder <- latent of image (α 1), condition label                  weight 1
    image -> zone of label, α 0.2, form log, 10 steps of adams, cut-off 0.6  weight 1
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray
from ml_collections import ConfigDict

from lzn_jax import alignments, parts, zoning
from lzn_jax.alignments import LossAndMetrics
from lzn_jax.data_types import Batch, Condition, DataType, Decoder, Encoder, Zones, given, strided
from lzn_jax.errors import UserError
from lzn_jax.losses import contrastive
from lzn_jax.models import Variables, named

ZonesByType = Mapping[str, tuple[Zones, ...]]  # two `Zones` of a type for two views of a sample


class Draw(NamedTuple):
    """Random points in the zones of a type, one for each example of a batch (paper §2.2.1)."""

    source: str
    use: str  # draws of one source and use share their noise
    scale: float | None  # α; None: uniform in [0, 1] for each example

    def __str__(self) -> str:
        return f"{self.source} (α {'in [0, 1]' if self.scale is None else f'{self.scale:g}'})"


class Decoding(NamedTuple):
    """Latents of a batch, and the loss of the decoder that they are passed to."""

    target: str
    decoder: Decoder
    draws: tuple[Draw, ...]  # the rows of a batch use them in turn; (): no latents
    condition: DataType | None
    weight: float
    metric: str

    def __str__(self) -> str:
        turn = ", in turn" * (len(self.draws) > 1)
        latent = [f"latent of {' or '.join(map(str, self.draws))}{turn}"] if self.draws else []
        condition = [f"condition {self.condition.name}"] if self.condition else []
        return f"{self.target} decoder <- {', '.join(latent + condition) or 'noise alone'}"


class Aligning(NamedTuple):
    """Latents of one type, and the loss that moves them into the zones of another (§2.2.2)."""

    draw: Draw
    target: str
    align: alignments.Bound
    weight: float
    suffix: str  # of its metrics

    def __str__(self) -> str:
        scale = str(self.draw).partition("(")[2].rstrip(")")
        return f"{self.draw.source} -> zone of {self.target}, {scale}, {self.align}"


class Loss(NamedTuple):
    """A loss that the config registers, or the baseline that replaces zones."""

    name: str
    function: Callable[[Variables, Batch, ZonesByType, PRNGKeyArray], LossAndMetrics]
    weight: float

    def __str__(self) -> str:
        return f"loss {self.name!r}"


class Plan(NamedTuple):
    """What an update computes: zones of the encoders, latents in the zones, and losses."""

    encoders: Mapping[str, Encoder]  # encoders that are networks
    decodings: tuple[Decoding, ...]
    alignings: tuple[Aligning, ...]
    losses: tuple[Loss, ...]
    flow: tuple[str, zoning.Solver]  # name and solver of the flow that latents follow
    num_latents: int | None  # number of rows with latents; None: all

    @property
    def draws(self) -> tuple[Draw, ...]:
        """All draws of an update. Equal draws are made once."""
        decoded = [draw for each in self.decodings for draw in each.draws]
        return tuple(dict.fromkeys([*decoded, *(each.draw for each in self.alignings)]))

    def __str__(self) -> str:
        """A line for each loss, with its weight."""
        rows = "" if self.num_latents is None else f" for {self.num_latents} examples of a batch"
        flow = f"; latents by {alignments.in_words(*self.flow)}{rows}" if self.draws else ""
        lines = [f"zones of {', '.join(self.encoders)}{flow}"] if self.encoders else []
        every: tuple[Any, ...] = (*self.decodings, *self.alignings, *self.losses)
        losses = [(str(each), each.weight) for each in every]
        width = max((len(text) for text, _ in losses), default=0)
        return "\n".join(lines + [f"{text:{width}}  weight {weight:g}" for text, weight in losses])


def plan_of(
    config: ConfigDict, types: Mapping[str, DataType], losses: Mapping[str, Callable[..., Any]]
) -> Plan:
    """Plan of a config, from its built types and the functions of its own losses.

    A decoder or an alignment with weight 0 is left out. Raises UserError if a solver or an
    alignment rejects its values, or if a type without a network must provide latents.
    """
    encoders = {n: each.encoder for n, each in types.items() if isinstance(each.encoder, Encoder)}
    decodings, alignings = list[Decoding](), list[Aligning]()
    terms = [
        Loss(n, functools.partial(_own_loss, n, f), config.training[f"{n}_weight"])
        for n, f in losses.items()
    ]
    if config.objective != "lzn":
        terms.insert(0, _baseline(config, types))
    else:
        has_zones = any(each.encoder for each in types.values())
        trained = (each for each in types.values() if each.decoder and each.weight > 0)
        decodings = [_decoding(each, types, has_zones) for each in trained]
        alignings = [_aligning(config, pair, types) for pair in config.alignments if has_zones]
    flow = config.latent.solver, alignments.solver(config.latent)
    plan = Plan(
        encoders,
        tuple(decodings),
        tuple(each for each in alignings if each.weight > 0),
        tuple(terms),
        flow,
        config.training.get("queries"),  # a field of image decoders
    )
    used = {each for align in alignings for each in (align.draw.source, align.target)}
    used |= {draw.source for decoding in decodings for draw in decoding.draws}
    without = ", ".join(sorted(used - encoders.keys()))
    parts.require(not without, f"decoders and alignments need an encoder network of {without}")
    return plan


def _decoding(each: DataType, types: Mapping[str, DataType], has_zones: bool) -> Decoding:
    decoder: Any = each.decoder
    sources = decoder.sources if has_zones else ()
    draws = tuple(Draw(source, decoder.network, decoder.noise_scale) for source in sources)
    condition = None if decoder.condition is None else types[decoder.condition]
    return Decoding(each.name, decoder, draws, condition, each.weight, each.loss_name)


def _aligning(config: ConfigDict, pair: str, types: Mapping[str, DataType]) -> Aligning:
    source, target = pair.split(":")
    align = alignments.Bound.from_config(config, source, target)
    scale, use = align.setting.noise_scale, "aligned"
    if scale is None:  # equal to the latents of generation, which are then computed once
        scale, decoder = config.latent.noise_scale, types[source].decoder
        use = decoder.network if decoder else use
    suffix = "" if len(config.alignments) == 1 else f"_{source}_to_{target}"
    return Aligning(Draw(source, use, scale), target, align, align.setting.weight, suffix)


def _baseline(config: ConfigDict, types: Mapping[str, DataType]) -> Loss:
    """Contrastive loss of two views of an image, or of an image and its text."""
    contrast = functools.partial(
        contrastive.BASELINES[config.objective], **config[config.objective]
    )

    def loss(variables: Variables, batch: Batch, zones: ZonesByType, key: Array) -> LossAndMetrics:
        # A class is not a view of an example.
        views = [z for n, each in zones.items() if not types[n].has_classes for z in each]
        is_present = _all_present(*views)
        masked = {} if is_present is None else {"is_present": is_present}
        first, second = (view.anchors for view in views[:2])
        return contrast(first, second, **masked)

    return Loss(config.objective, loss, 1.0)


def _own_loss(
    name: str,
    function: Callable[..., Any],
    variables: Variables,
    batch: Batch,
    zones: ZonesByType,
    key: PRNGKeyArray,
) -> LossAndMetrics:
    """A loss that the config registers, and metrics that begin with its name."""
    with jax.named_scope(use := f"{name}_loss"), parts.mistakes(f"loss {name!r}"):
        loss, metrics = alignments.scalars(function(variables, batch, zones, named(key, use)))
    return loss, {use: loss, **{f"{name}_{metric}": value for metric, value in metrics.items()}}


def loss(plan: Plan, variables: Variables, batch: Batch, key: PRNGKeyArray) -> LossAndMetrics:
    """Weighted sum of the losses of a plan, and metrics (paper §2.2).

    The batch is global, and the key is consumed. A batch may contain columns that replace random
    draws: `TYPE_latent_noise` (b, q), not yet scaled by α, and `flow_noise` (b, h, w, c) and
    `flow_time` (b,) in [1e-3, 1] of the flow. Raises UserError for a column of another shape.
    """
    zones = {
        name: _zones(name, encoder, variables, batch, key)
        for name, encoder in plan.encoders.items()
    }
    rows, zones_of_rows = batch, zones
    if count := plan.num_latents:  # the anchors still cover the whole batch
        rows = strided(batch, count)
        zones_of_rows = {n: tuple(z.of_rows(count) for z in each) for n, each in zones.items()}
    uses = dict.fromkeys((draw.source, draw.use) for draw in plan.draws)
    noise = {(source, use): _noise(source, use, rows, zones_of_rows, key) for source, use in uses}
    latents: dict[Draw, Array] = {}

    def draw_new(*draws: Draw) -> None:  # before their first use: gradients add up in this order
        for each in draws:
            if each not in latents:
                latents[each] = _points(plan, each, noise[each[:2]], zones_of_rows, key)

    terms = list[tuple[Any, LossAndMetrics]]()
    for decoding in plan.decodings:
        draw_new(*decoding.draws)
        found = _decoded(decoding, variables, rows, zones_of_rows, latents, key)
        terms.append((decoding, found))
    for aligning in plan.alignings:
        draw_new(aligning.draw)
        terms.append((aligning, _aligned(aligning, zones_of_rows, latents[aligning.draw])))
    terms += [(own, own.function(variables, batch, zones, key)) for own in plan.losses]
    total, metrics = jnp.zeros(()), dict[str, Array]()
    for term, (value, more) in terms:
        if taken := metrics.keys() & more.keys():
            raise UserError(f"{term} must have another name: {min(taken)} is a metric")
        total += term.weight * value
        metrics |= more
    return total, metrics


def _zones(
    name: str, encoder: Encoder, variables: Variables, batch: Batch, key: PRNGKeyArray
) -> tuple[Zones, ...]:
    keys = _keys(key, use := f"{name}_encoder", encoder.num_draws)
    with jax.named_scope(use), parts.mistakes(f"type {name!r}"):
        return encoder.zones(variables, batch, keys)


def _noise(
    source: str, use: str, batch: Batch, zones: ZonesByType, key: PRNGKeyArray
) -> Float[Array, "b q"]:
    """The noise of all draws of a source and a use."""
    drawn = zones[source][0].noise(named(key, f"{source}_latents_{use}"))
    return given(batch, f"{source}_latent_noise", drawn)


def _points(
    plan: Plan, draw: Draw, noise: Float[Array, "b q"], zones: ZonesByType, key: PRNGKeyArray
) -> Float[Array, "b q"]:
    """The random points of a draw, which the flow moves from its noise into the zones."""
    scale: Any = draw.scale
    if scale is None:
        use_key = named(key, f"{draw.source}_latents_{draw.use}_scale")
        scale = jax.random.uniform(use_key, (len(noise), 1))
    name, solver = plan.flow
    with parts.mistakes(f"solver {name!r}"):
        return zones[draw.source][0].draw(scale * noise, solver)


def _decoded(
    decoding: Decoding,
    variables: Variables,
    batch: Batch,
    zones: ZonesByType,
    latents: Mapping[Draw, Array],
    key: PRNGKeyArray,
) -> LossAndMetrics:
    """Loss of a decoder. Other examples replace examples without a latent, so shapes stay fixed."""
    latent, has_latent = _in_turn(decoding.draws, zones, latents)
    further = None
    if (kind := decoding.condition) is not None:
        further = kind.condition(batch, zones[kind.name][0] if kind.name in zones else None)
    condition: Condition = latent, further
    decoder, name = decoding.decoder, decoding.target
    keys = _keys(key, use := f"{name}_decoder", decoder.num_draws)
    with jax.named_scope(use), parts.mistakes(f"type {name!r}"):
        if has_latent is not None:
            others = _stand_ins(has_latent)
            batch, condition = jax.tree.map(lambda a: a[others], (batch, condition))
        found = decoder.loss(variables, batch, condition, keys)
        value, _ = alignments.scalars((found, {}), "a scalar loss of its decoder")
        value = value if has_latent is None else value * jnp.any(has_latent)
    return value, {decoding.metric: value}


def _in_turn(
    draws: tuple[Draw, ...], zones: ZonesByType, latents: Mapping[Draw, Array]
) -> tuple[Float[Array, "b q"] | None, Bool[Array, " b"] | None]:
    """Latent of each example, and a mask of the examples with a latent (None: all).

    The rows use the draws in turn. If a row lacks a sample of the draw's source, the next draw is
    used.
    """
    if not draws:
        return None, None
    candidates, count = [latents[draw] for draw in draws], len(draws)
    present = [zones[draw.source][0].is_present for draw in draws]
    row = jnp.arange(len(candidates[0]))
    distances = [
        (turn - row) % count + (0 if is_present is None else count * ~is_present)
        for turn, is_present in enumerate(present)
    ]
    chosen = jnp.argmin(jnp.stack(distances), axis=0)
    latent = jnp.select([(chosen == turn)[:, None] for turn in range(count)], candidates)
    masks = [is_present for is_present in present if is_present is not None]
    # Otherwise some source contains a sample of every example.
    is_partial = len(masks) == count
    return latent, functools.reduce(jnp.logical_or, masks) if is_partial else None


def _aligned(aligning: Aligning, zones: ZonesByType, latents: Array) -> LossAndMetrics:
    """Loss of the source's latents in the target's zones, and metrics.

    With two views of an image, the second view cuts the zones (paper §5.1).
    """
    source, target = zones[aligning.draw.source][0], zones[aligning.target][-1]
    partners = jnp.arange(len(target.anchors)) if target.own is None else target.own
    target = target._replace(is_present=_all_present(source, target))
    with jax.named_scope("alignment"):
        value, metrics = aligning.align(latents, target, partners, source)
    metrics = {"alignment_loss": value, **metrics}
    return value, {f"{name}{aligning.suffix}": number for name, number in metrics.items()}


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
