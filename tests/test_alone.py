"""Generation by latents alone: loss from parts, many zones, classes without alignment."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small

from lzn_jax import data, plan, zoning
from lzn_jax.data_types import Context, Model, strided
from lzn_jax.errors import UserError
from lzn_jax.losses.sets import SET_LOSSES, image_set_loss
from lzn_jax.models import named, normal_by_index
from lzn_jax.trained_model import TrainedModel

KEY = jax.random.key(5)


def alone(**changes):
    return small.world("digits_alone", **{"training__queries": 8} | changes)


@pytest.fixture
def model():
    return alone().model


@pytest.mark.parametrize("queries", [8, *small.slow(None)])
@pytest.mark.parametrize(
    ("is_plain", "set_loss"), [(False, "drift"), *small.slow((True, "drift"), (False, "energy"))]
)
def test_the_loss_is_error_and_set_loss_of_decoded_latents(queries, is_plain, set_loss):
    others = {"error": "l1", "set_anchors": 0.3, "set_loss": set_loss}
    changes = {} if is_plain else {f"decoder__{name}": value for name, value in others.items()}
    world = alone(training__queries=queries, decoder__set_weight=3.0, **changes)
    modules = world.space.modules
    rows = np.arange(16) if queries is None else np.arange(0, 16, 2)
    set_loss = SET_LOSSES[set_loss]

    @jax.jit
    def expected(variables, images):
        encode = functools.partial(modules["encoder"].apply, variables["encoder"])
        noise = jax.random.normal(named(KEY, "image_latents_decoder"), (len(rows), 4))
        anchors = encode(images, train=True)
        latents = zoning.compute_latents(anchors, noise, jnp.asarray(rows), solver=zoning.Euler(4))
        made = modules["decoder"].apply(variables["decoder"], latents, None, train=True)
        images = images[rows]
        key, _ = jax.random.split(named(KEY, "image_decoder"))
        distance = image_set_loss(set_loss, made, images, key, patch_size=4, num_patches=25)
        if is_plain:
            return jnp.mean((made - images) ** 2) + 3 * distance
        distance += 0.3 * set_loss(encode(made, train=False), encode(images, train=False))
        return jnp.mean(jnp.abs(made - images)) + 3 * distance

    loss, metrics = world.loss(world.variables, world.batch, KEY)
    of_parts = float(expected(world.variables, data.normalise(world.batch["images"])))
    assert float(loss) == pytest.approx(of_parts, rel=1e-5)
    assert metrics.keys() == {"generation_loss"}


def test_some_of_a_batch_are_at_even_steps():
    np.testing.assert_array_equal(strided(jnp.arange(12), 4), [0, 3, 6, 9])
    assert strided((jnp.arange(4), None), 4)[1] is None


def decoded(model, latents):
    decode = functools.partial(model.space.modules["decoder"].apply, train=False)
    return jax.jit(decode)(model.model.variables["decoder"], latents, None)


def test_samples_are_what_the_decoder_makes_of_the_prior_in_one_pass(model):
    drawn = model.draw(20)
    latents = normal_by_index(jax.random.key(0), "prior_latents", jnp.arange(20), (4,))
    made = jax.jit(data.to_uint8)(decoded(model, latents))
    np.testing.assert_array_equal(drawn["images"], made)
    np.testing.assert_array_equal(drawn["num_evaluations"], 1)


def test_samples_of_a_class_are_of_zones_of_its_training_images(model):
    labels = np.arange(200) % 10
    centres = model.encode(labels, KEY, 0.0, source="label")
    context, own = model.model.context["label"], []
    np.testing.assert_array_equal(context.anchors, model.model.context["image"].anchors)
    anchors, classes = map(np.asarray, (context.anchors, context.samples))
    latents_of = jax.jit(functools.partial(zoning.compute_latents, solver=model.space.solver))
    exact = np.asarray(latents_of(anchors, np.zeros_like(anchors)))
    for centre, label in zip(centres, labels, strict=True):
        distances = np.sum((exact - centre) ** 2, axis=1)
        if label in classes:  # the shrunk context has 16 images
            own.append(int(np.argmin(distances)))
            assert classes[own[-1]] == label
            assert np.min(distances) < 1e-6
    assert len(set(own)) > 10  # of all images of a class, not of one


def test_a_latent_is_of_the_class_of_the_image_in_whose_zone_it_lies():
    world = alone(latent__num_steps=20, alignment__num_steps=20)
    space = world.space
    anchors = 3 * np.random.default_rng(0).normal(size=(16, 4)).astype(np.float32)
    context = {"label": Context(anchors, samples=np.arange(16) // 2)}
    latents_of = jax.jit(functools.partial(zoning.compute_latents, solver=space.solver))
    latents = np.asarray(latents_of(anchors, np.zeros_like(anchors)))
    found = TrainedModel(space, Model(world.variables, context), 0).classes(latents)
    np.testing.assert_array_equal(found.classes, np.arange(16) // 2)
    assert found.probabilities.min() > 0.9


def test_images_are_reconstructed_and_lie_between_others_through_latents_alone(model):
    images = alone().digits[1].images[:5]
    made = np.asarray(decoded(model, model.encode(images, noise_scale=1.0)))
    found = model.reconstruct(images)
    errors = np.linalg.norm((made - data.normalise(jnp.asarray(images))).reshape(5, -1), axis=1)
    np.testing.assert_allclose(found["errors"], errors, rtol=1e-5)
    between = model.interpolate(images[:2])
    ends = model.reconstruct(images[:2])["images"]
    np.testing.assert_array_equal(between["images"][[0, -1]], ends)


def test_labels_without_alignment_have_no_anchors_but_zones(model):
    assert set(model.space.modules) == {"encoder", "decoder"}
    assert model.translations == (("image", "label"), ("label", "image"))
    with pytest.raises(UserError, match="nothing is aligned with labels"):
        model.anchors(np.arange(3), source="label")


def test_the_log_names_classes_that_have_no_zone_once(caplog):
    world = alone(latent__context_size=1437)
    examples = world.digits[0]
    small_set = examples._replace(labels=np.where(examples.labels == 3, 4, examples.labels))
    for _ in range(2):  # a checkpoint and its evaluation
        world.space.context(world.variables, small_set)
    assert caplog.messages == ["classes without a zone among latent.context_size 1437: 3"]


def test_the_context_of_sorted_examples_is_of_many_classes_each_with_its_image(model):
    examples = alone().digits[0]
    order = examples.at(np.argsort(examples.labels, kind="stable"))
    context = alone().space.context(model.model.variables, order)["label"]
    assert len(set(context.samples.tolist())) > 4
    anchors = model.anchors(order.images)
    found = [np.abs(anchors - own).max(axis=1).argmin() for own in np.asarray(context.anchors)]
    assert order.labels[found].tolist() == context.samples.tolist()


def test_an_alignment_by_a_flag_gives_labels_anchors():
    world = alone(alignments="('image:label',)")
    assert set(world.space.modules) == {"encoder", "decoder", "label_anchors"}
    _, metrics = jax.eval_shape(
        functools.partial(plan.loss, world.space.plan), world.variables, world.batch, KEY
    )
    assert {"generation_loss", "alignment_loss"} <= metrics.keys()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"training__queries": 7}, "queries must divide training.batch_size 16, got 7"),
        (
            {"training__queries": 24, "training__microbatch_size": 16, "training__batch_size": 48},
            "training.microbatch_size must divide training.queries 24, got 16",
        ),
        (
            {"training__queries": 2, "training__microbatch_size": 4, "training__flow_draws": 3},
            r"must divide training.queries \* training.flow_draws 6, got 4",
        ),
        ({"latent__enabled": False}, "a one-pass decoder requires latent.enabled, got False"),
        (
            {"decoder__sources": "()", "decoder__condition": "label"},
            "a one-pass decoder requires decoder.sources",
        ),
        ({"training__queries": 1}, "training.queries must be >= 2 for a loss between sets, got 1"),
        ({"decoder__set_patch_size": 9}, "must be <= data.image_size 8, got 9"),
        ({"latent__context_size": 0}, r"latent.context_size must be > 0"),  # zones of classes
    ],
)
def test_what_one_pass_cannot_learn_from_ends_in_one_line(changes, message):
    with pytest.raises(UserError, match=message):
        alone(**changes)


def test_the_distance_of_anchors_does_not_train_the_encoder_that_measures():
    """What it would learn is to tell no image from another."""
    world = alone(decoder__set_anchors=1.0)
    decoder, batch = world.space.decoders["image"], world.batch

    def loss_of(variables, latents):
        return decoder.loss(variables, batch, (latents, None), tuple(jax.random.split(KEY, 2)))

    latents = small.drawn(jax.ShapeDtypeStruct((16, 4), np.float32))
    gradient = jax.device_get(jax.jit(jax.grad(loss_of))(world.variables, latents))
    assert any(np.any(a) for a in jax.tree.leaves(gradient["decoder"]))
    assert not any(np.any(a) for a in jax.tree.leaves(gradient["encoder"]))
