"""Losses beside decoders and alignments, and transforms of examples on the host."""

import functools
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small
from test_draws import UNKNOWN, Draws

from lzn_jax import configuration, data, parts, plan, train, zoning
from lzn_jax.data.batches import TrainingBatches
from lzn_jax.data_types import Zones
from lzn_jax.errors import UserError
from lzn_jax.latent_space import LatentSpace
from lzn_jax.modes.compile import batch_shapes
from lzn_jax.run import devices

NAMED = {"training__losses": "('spread',)", "training__spread_weight": 0.5}
ALONE = {"training__generation_weight": 0, "alignment__weight": 0}


def spread(space, variables, batch, zones, key):
    """Squared anchors of the last view, plus noise."""
    (*_, view), noise = zones["image"], jax.random.normal(key, (2,))
    loss = jnp.mean(view.anchors**2) + jnp.sum(noise)
    return loss, {"noise": jnp.sum(noise), "power": space.config.training.spread_power}


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    parts.names("loss")  # loads what ships
    monkeypatch.setattr(parts, "PARTS", dict(parts.PARTS))
    parts.add("loss", "spread", spread, {".spread_power": parts.positive("its power", 2.0)})


def space_of(name="digits_joint", **changes):
    config = small.config(f"configs/{name}.py", **changes)
    return LatentSpace(config, devices.make_mesh(1))


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("digits_joint", {}),
        *small.slow(("digits_joint", ALONE), ("digits_repr", {"objective": "simclr"})),
    ],
)
def test_a_loss_is_added_with_its_weight_whatever_the_others_are(name, changes):
    world, key = small.world(name), jax.random.key(1)
    batch = {**world.batch, "views": np.stack([world.batch["images"]] * 2, axis=1)}
    space = space_of(name, **changes, **NAMED, training__spread_power=3)
    others = None if changes is ALONE else space_of(name, **changes)

    @jax.jit
    def losses(variables, batch):
        encoder = space.encoders["image"]
        keys = jax.random.split(train.named(key, "image_encoder"), encoder.num_draws)
        (*_, view) = encoder.zones(variables, batch, tuple(keys))
        without = plan.loss(others.plan, variables, batch, key) if others else (0.0, {})
        return plan.loss(space.plan, variables, batch, key), without, jnp.mean(view.anchors**2)

    found, without, square = jax.device_get(losses(world.variables, batch))
    loss, metrics = found
    own = metrics.pop("spread_loss")
    assert loss == pytest.approx(without[0] + 0.5 * own, rel=1e-6)
    assert metrics.pop("spread_power") == 3
    assert own == pytest.approx(square + metrics.pop("spread_noise"), rel=1e-5)
    assert metrics == without[1]


def test_no_draw_of_an_update_shares_bits_with_that_of_a_loss():
    space = space_of(**NAMED)
    arguments = jax.eval_shape(space.init, jax.random.key(0)), batch_shapes(space)
    traced = jax.make_jaxpr(functools.partial(plan.loss, space.plan))(*arguments, jax.random.key(1))
    draws, count = Draws(), len(jax.tree.leaves(arguments))
    draws.run(traced.jaxpr, traced.consts, [*[UNKNOWN] * count, jax.random.key(1)])
    own = tuple(jax.random.key_data(train.named(jax.random.key(1), "spread_loss")).tolist())
    assert draws.drawn.count(own) == 1
    assert len(set(draws.drawn)) == len(draws.drawn)


def test_a_loss_alone_is_something_that_trains_and_without_weight_it_is_not_there():
    with pytest.raises(UserError, match=r"training.spread_weight must be > 0 unless"):
        small.config(**ALONE, training__losses="('spread',)", training__spread_weight=0)
    assert space_of(training__losses="('spread',)", training__spread_weight=0).losses == {}
    with pytest.raises(UserError, match=r"training.losses must be a tuple of .*'spread'"):
        small.config(training__losses="('spraed',)")
    assert small.config(training__losses="('spread',)").training.spread_weight == 1.0


def test_a_loss_whose_metrics_have_names_of_others_must_have_another_name():
    parts.add("loss", "alignment", lambda *_: (jnp.zeros(()), {}))
    space, world = space_of(training__losses="('alignment',)"), small.world("digits_joint")
    with pytest.raises(UserError, match="loss 'alignment' must have another name: alignment_loss"):
        jax.eval_shape(
            functools.partial(plan.loss, space.plan),
            world.variables,
            world.batch,
            jax.random.key(1),
        )


def test_a_loss_gets_the_whole_batch_whatever_latents_are_drawn():
    seen = []

    def counts(space, variables, batch, zones, key):
        seen.extend((len(batch["labels"]), len(zones["image"][0].noise(key))))
        return jnp.zeros(()), {}

    parts.add("loss", "counts", counts)
    world = small.world("digits_joint", training__losses="('counts',)", training__queries=4)
    loss = functools.partial(plan.loss, world.space.plan)
    jax.eval_shape(loss, world.variables, world.batch, jax.random.key(1))
    assert seen == 2 * [len(world.batch["labels"])]


def crop(row, rng):
    start = rng.integers(8)
    return {"crops": row["images"][start : start + 1], "starts": np.int32(start)}


def test_a_transform_adds_columns_and_leaves_the_others_as_they_were():
    spread.transform = crop
    try:
        plain, space = space_of(), space_of(**NAMED)
        examples = data.load_data(space.config)[0]
        read = functools.partial(train.training_batches, space.config)
        with read(plain, examples) as before, read(space, examples) as after:
            assert batch_shapes(space) == after.shapes()
            rows = [(next(before), next(after)) for _ in range(3)]
            after.seek(2)
            again = next(after)
    finally:
        del spread.transform
    for one, other in rows:
        starts, crops = other.pop("starts"), other.pop("crops")
        expected = one["images"][np.arange(len(starts)), starts][:, None]
        np.testing.assert_array_equal(crops, expected)
        jax.tree.map(np.testing.assert_array_equal, other, one)
    assert len(set(starts.tolist())) > 1
    np.testing.assert_array_equal(again["starts"], starts)


def test_transforms_follow_each_other_after_that_of_the_image():
    examples = small.world("digits_joint").digits[0]

    def image(pixels, rng):
        return {"first": np.int64(rng.integers(1000))}

    def second(row, rng):
        return {"second": np.int64(rng.integers(1000)), "labels": row["labels"] + 100}

    def third(row, rng):
        return {"sum": row["first"] + row["second"]}

    with TrainingBatches(examples, 8, 0, image, row_transforms=[second, third]) as batches:
        batch = next(batches)
    with TrainingBatches(examples, 8, 0, image) as batches:
        before = next(batches)
    np.testing.assert_array_equal(batch["first"], before["first"])
    np.testing.assert_array_equal(batch["labels"], before["labels"] + 100)
    np.testing.assert_array_equal(batch["sum"], batch["first"] + batch["second"])
    assert (batch["first"] != batch["second"]).any()


def test_losses_and_optimizer_have_defaults():
    values = configuration.flatten(small.config().to_dict())
    assert (values["training.losses"], values["training.optimizer"]) == ((), "adam")


def test_the_losses_of_the_docs_smooth_and_distil():
    page = (Path(__file__).parents[1] / "docs/parts.md").read_text(encoding="utf-8")
    (code,) = (block for block in page.split("```\n") if block.startswith("def smoothed("))
    rng, targets = np.random.default_rng(0), np.array([0, 3, 2, 2, 1])
    latents, anchors, teacher = (rng.normal(size=shape) for shape in ((5, 3), (4, 3), (4, 3)))
    names = {"jax": jax, "jnp": jnp, "zoning": zoning, "TEACHER": teacher}
    exec(code, names)

    def log_p(latents, anchors):  # after Euler's step from the prior to t = 1/2
        b = anchors - np.mean(anchors, axis=0)
        logits = latents @ b.T - np.sum(b**2, axis=1) / 2
        return logits - np.log(np.sum(np.exp(logits), axis=1, keepdims=True))

    weights = np.array([0.0] * 4 + [-np.inf])
    zones = Zones(jnp.asarray(np.append(anchors, [3 * [np.nan]], 0)), None, jnp.asarray(weights))
    setting = types.SimpleNamespace(solver=zoning.Euler(2))
    smoothed = functools.partial(names["smoothed"], zones=zones, targets=targets, setting=setting)
    (found, _), gradient = jax.jit(jax.value_and_grad(smoothed, has_aux=True))(latents)
    expected = log_p(latents, anchors)
    own = np.mean(expected[np.arange(5), targets])
    assert found == pytest.approx(-0.9 * own - 0.1 * np.mean(expected), rel=1e-5)
    assert np.all(np.isfinite(gradient))

    solver, key = zoning.Euler(2), jax.random.key(1)
    space = types.SimpleNamespace(solver=solver, alignment_solver=solver)

    @jax.jit
    def distilled(images, labels):
        zones = {"image": (images,), "label": (labels,)}
        drawn = images.draw(0.45 * images.noise(key), solver)
        return names["distilled"](space, {}, {}, zones, key)[0], drawn

    found, drawn = jax.device_get(distilled(Zones(latents), Zones(anchors, targets)))
    expected = np.sum(np.exp(log_p(drawn, teacher)) * log_p(drawn, anchors), axis=1)
    assert found == pytest.approx(-np.mean(expected), rel=1e-5)
