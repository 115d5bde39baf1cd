"""Settings of one alignment: `alignment.SOURCE_to_TARGET.FIELD` replaces `alignment.FIELD`."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small
from test_draws import UNKNOWN, Draws

from lzn_jax import configuration, parts, plan, schema, zoning
from lzn_jax.data_types import Zones
from lzn_jax.errors import UserError
from lzn_jax.latent_space import LatentSpace
from lzn_jax.modes.compile import batch_shapes
from lzn_jax.run import devices

TEXT, OTHER = "alignment_loss_image_to_text", "alignment_loss_image_to_label"


@pytest.fixture(autouse=True)
def registry(monkeypatch):
    parts.names("solver")  # loads what ships
    monkeypatch.setattr(parts, "PARTS", dict(parts.PARTS))


def space_of(**changes):
    config = small.config("configs/digits_text.py", **changes)
    return LatentSpace(config, devices.make_mesh(1))


def loss_of(**changes):
    """Loss and metrics of the alignments alone, among given anchors."""
    space = space_of(training__generation_weight=0, training__text_weight=0, **changes)
    rng = np.random.default_rng(0)
    anchors = {name: rng.normal(size=(16, 4)) for name in space.plan.encoders}

    @jax.jit
    def loss(anchors):
        for name, encoder in space.plan.encoders.items():
            encoder.zones = lambda *_, name=name: (Zones(anchors[name]),)
        return plan.loss(space.plan, {}, {}, jax.random.key(1))

    loss, metrics = loss({name: np.float32(rows) for name, rows in anchors.items()})
    return float(loss), {name: float(value) for name, value in metrics.items()}


def of_text(**fields):
    return {f"alignment__image_to_text__{name}": value for name, value in fields.items()}


def test_a_pair_has_its_own_weight_and_the_others_that_of_the_group():
    def align(latents, zones, targets, setting):
        return jnp.float32(5 if setting.target == "text" else 3), {}

    parts.add("alignment", "known", align)
    of_group = {"alignment__form": "known", "alignment__weight": 0.5}
    loss, metrics = loss_of(**of_group, **of_text(weight=2.0))
    assert sorted(metrics.values()) == [3, 3, 5]
    assert loss == 2 * metrics[TEXT] + 0.5 * (3 + 3)
    loss, metrics = loss_of(**of_group, **of_text(weight=0.0))
    assert TEXT not in metrics
    assert loss == 0.5 * (3 + 3)


@pytest.mark.parametrize(
    "fields",
    [
        {"noise_scale": 0.1, "solver": "adams", "form": "prob", "num_steps": 9, "cutoff": 0.9},
        *small.slow({"sharpness": "2.0"}),
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_fields_of_a_pair_change_its_loss_as_those_of_the_group_do(fields):
    of_group = {f"alignment__{name}": value for name, value in fields.items()}
    (_, before), (_, group), (_, pair) = (
        loss_of(),
        loss_of(**of_group),
        loss_of(**of_text(**fields)),
    )
    changed = {name for name in before if pair[name] != before[name]}
    assert TEXT in changed
    assert all(name.endswith("image_to_text") for name in changed)
    assert pair == {name: (group if name in changed else before)[name] for name in before}


def test_fields_of_a_pair_are_there_only_if_they_are_set():
    config = configuration.load("digits_text", ["alignment.image_to_text.weight=2"])
    assert config.alignment.image_to_text.to_dict() == {"weight": 2.0}
    assert "image_to_label" not in config.alignment
    lines = configuration.explain(config).splitlines()
    (line,) = (line for line in lines if "alignment.image_to" in line)
    expected = "* alignment.image_to_text.weight = 2.0 # weight of the alignment loss"
    assert " ".join(line.split()) == expected
    plain = configuration.load("digits_text")
    assert "alignment.image_to" not in configuration.explain(plain)
    unset = configuration.load("digits_text", ["alignment.image_to_text.weight=None"])
    values = configuration.flatten(unset.to_dict())
    assert schema.of_pair(values, "image:text")["alignment.weight"] == plain.alignment.weight


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("image_to_text.weight=-1", "image_to_text.weight must be a finite number >= 0 or None"),
        ("image_to_text.solver=dmp", "image_to_text.solver must be one of 'adams', 'dpm', 'euler'"),
        ("label_to_text.weight=1", "the config has no field alignment.label_to_text.weight"),
        ("image_to_text.wieght=1", "the nearest is alignment.image_to_text.weight"),
        ("image_to_text.sharpness=0", "image_to_text.sharpness must be a finite number > 0"),
        ("image_to_text.solver=dpm image_to_text.num_steps=2", "num_steps must be .* >= 3 with"),
    ],
)
def test_fields_of_a_pair_are_checked(override, expected):
    with pytest.raises(UserError, match=expected.replace("(", r"\(")):
        configuration.load("digits_text", [f"alignment.{each}" for each in override.split()])


def test_what_trains_is_a_pair_with_a_weight():
    nothing = ["training.generation_weight=0", "alignment.weight=0"]
    with pytest.raises(UserError, match="nothing would train"):
        configuration.load("digits_joint", nothing)
    configuration.load("digits_joint", [*nothing, "alignment.image_to_label.weight=1"])
    no_pair = [nothing[0], "alignment.image_to_label.weight=0"]
    with pytest.raises(UserError, match="nothing would train"):
        configuration.load("digits_joint", no_pair)


def test_an_alignment_gets_names_and_zones_of_both_types():
    seen = {}

    def align(latents, zones, targets, setting):
        seen[setting.source, setting.target] = zones, setting
        return latents.sum(), {}

    parts.add("alignment", "own", align, {"alignment.rank": parts.count("its rank", 3)})
    space, world = space_of(**of_text(form="own", rank=7)), small.world("digits_text")

    @jax.jit
    def anchors(variables, batch):
        _, metrics = plan.loss(space.plan, variables, batch, jax.random.key(1))
        assert OTHER in metrics
        ((zones, setting),) = seen.values()
        found = setting.source_zones.anchors, zones.anchors
        columns = {"image": "images", "text": "tokens"}
        return found, [space.encoders[n].anchors(variables, batch[c]) for n, c in columns.items()]

    found, expected = anchors(world.variables, world.batch)
    _, setting = seen["image", "text"]
    assert (setting.rank, setting.form, setting.weight) == (7, "own", 1.0)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@dataclasses.dataclass(frozen=True)
class Late(zoning.Euler):
    """Euler's method."""


def test_a_solver_is_built_from_the_group_that_names_it():
    t_min = parts.Field(float, "where it starts", 0.25, above=0, below=0.9)
    parts.add("solver", "late", Late, {".t_min": t_min})
    plain = small.config("configs/digits_text.py", latent__solver="late")
    assert ("t_min" in plain.latent, "t_min" in plain.alignment) == (True, False)
    pair = "alignment__image_to_text__"
    changes = {f"{pair}solver": "late", f"{pair}num_steps": 5, f"{pair}t_min": 0.5}
    config = small.config("configs/digits_text.py", **changes)
    space = LatentSpace(config, devices.make_mesh(1))
    of_pair = {(a.draw.source, a.target): a.align.setting for a in space.plan.alignings}
    setting = of_pair["image", "text"]
    assert (setting.solver, setting.num_steps, setting.t_min) == (Late(5, 0.5), 5, 0.5)
    assert of_pair["image", "label"].solver == space.alignment_solver
    changes = {"latent__solver": "late", "latent__t_min": 0.75, "alignment__solver": "late"}
    space = space_of(**changes)
    assert space.solver == Late(space.config.latent.num_steps, 0.75)
    assert space.alignment_solver == Late(space.config.alignment.num_steps, 0.25)
    parts.add("solver", "strict", zoning.DPMSolver)
    with pytest.raises(UserError, match="solver 'strict': DPMSolver of order 3 needs"):
        space_of(**{f"{pair}solver": "strict", f"{pair}num_steps": 2})


def test_no_two_draws_share_bits_if_pairs_have_noise_scales_of_their_own():
    space = space_of(**of_text(noise_scale=0.1))
    arguments = jax.eval_shape(space.init, jax.random.key(0)), batch_shapes(space)
    traced = jax.make_jaxpr(functools.partial(plan.loss, space.plan))(*arguments, jax.random.key(1))
    draws, count = Draws(), len(jax.tree.leaves(arguments))
    draws.run(traced.jaxpr, traced.consts, [*[UNKNOWN] * count, jax.random.key(1)])
    assert len(set(draws.drawn)) == len(draws.drawn)


def test_translations_are_at_most_at_the_noise_scale_of_their_pair():
    def scales(**changes):
        space = space_of(alignment__noise_scale=0.5, **changes)
        model = small.stand_in(space=space, config=space.config)
        return [model.default_scale("label", target) for target in ("image", "text")]

    assert scales() == [0.5, 0.5]
    assert scales(alignment__text_to_label__noise_scale=0.25) == [0.5, 0.25]
    assert scales(alignment__image_to_text__noise_scale=0.25) == [0.5, 0.5]
