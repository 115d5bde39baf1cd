"""Generation by latents alone: loss from parts, many zones, classes without alignment."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small

from lzn_jax import data, zoning
from lzn_jax.data_types import strided
from lzn_jax.errors import UserError
from lzn_jax.latent_space import LatentSpace, Model
from lzn_jax.losses.sets import SET_LOSSES, image_set_loss
from lzn_jax.models import named, normal_by_index
from lzn_jax.run import devices
from lzn_jax.trained_model import TrainedModel

CONFIG = "configs/digits_alone.py"
KEY = jax.random.key(5)


BESIDE = {"alignments": "('image:label',)", "decoder__condition": "label"}


def build(num_devices=1, **changes):
    changes = {"training__batch_size": 16, "training__queries": 8} | changes
    config = small.config(CONFIG, **changes)
    return LatentSpace(config, devices.make_mesh(8, jax.devices()[:num_devices]))


@functools.cache
def variables(**changes):
    return small.random_variables(build(**changes))


@functools.cache
def digits():
    return data.load_data(build().config)


def batch(start=0):
    rows = slice(start, start + 16)
    return {
        "images": jnp.asarray(digits()[0].images[rows]),
        "labels": jnp.asarray(digits()[0].labels[rows]),
    }


@pytest.fixture(scope="module")
def model():
    space = build()
    return TrainedModel(space, Model(variables(), space.context(variables(), digits()[0])), 0)


@pytest.mark.parametrize("queries", [None, 8])
@pytest.mark.parametrize(
    ("is_plain", "set_loss"), [(True, "drift"), (False, "energy"), (False, "drift")]
)
def test_the_loss_is_error_and_set_loss_of_decoded_latents(queries, is_plain, set_loss):
    others = {"error": "l1", "set_anchors": 0.3, "set_loss": set_loss}
    changes = {} if is_plain else {f"decoder__{name}": value for name, value in others.items()}
    space = build(training__queries=queries, decoder__set_weight=3.0, **changes)
    rows = np.arange(16) if queries is None else np.arange(0, 16, 2)
    images = data.normalise(batch()["images"])
    anchors = space.modules["encoder"].apply(variables()["encoder"], images, train=True)
    noise = jax.random.normal(named(KEY, "image_latents_decoder"), (len(rows), 4))
    latents = zoning.compute_latents(anchors, noise, jnp.asarray(rows), solver=zoning.Euler(4))
    made = space.modules["decoder"].apply(variables()["decoder"], latents, None, train=True)
    images = images[rows]
    key, _ = jax.random.split(named(KEY, "image_decoder"))
    set_loss = SET_LOSSES[set_loss]
    distance = image_set_loss(set_loss, made, images, key, patch_size=4, num_patches=25)
    error = jnp.mean((made - images) ** 2)
    if not is_plain:
        error = jnp.mean(jnp.abs(made - images))
        encode = functools.partial(space.modules["encoder"].apply, variables()["encoder"])
        found = (encode(each, train=False) for each in (made, images))
        distance += 0.3 * set_loss(*found)
    expected = float(error + 3 * distance)
    loss, metrics = jax.jit(space.loss)(variables(), batch(), KEY)
    assert float(loss) == pytest.approx(expected, rel=1e-5)
    assert metrics.keys() == {"generation_loss"}


def test_some_of_a_batch_are_at_even_steps():
    np.testing.assert_array_equal(strided(jnp.arange(12), 4), [0, 3, 6, 9])
    assert strided((jnp.arange(4), None), 4)[1] is None


@pytest.mark.parametrize(
    ("num_devices", "size", "more"), [(1, 4, {}), (8, None, {}), (8, 4, BESIDE)]
)
def test_micro_batches_and_devices_change_neither_loss_nor_gradient(num_devices, size, more):
    def loss_and_gradient(num_devices, size):
        changes = {"training__microbatch_size": size, **more}
        space, mesh = (
            build(num_devices, **changes),
            devices.make_mesh(8, jax.devices()[:num_devices]),
        )
        call = jax.jit(jax.value_and_grad(space.loss, has_aux=True))
        start = variables(**more)
        arrays = jax.device_put(start, devices.replicated(mesh))
        with jax.set_mesh(mesh):
            return call(arrays, jax.device_put(batch(), devices.split(mesh)), KEY)

    (loss, aux), gradient = loss_and_gradient(1, None)
    (other_loss, other_aux), other = loss_and_gradient(num_devices, size)
    assert float(other_loss) == pytest.approx(float(loss), rel=1e-5)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), aux, other_aux
    )
    gradient, other = ({n: t["params"] for n, t in g.items()} for g in (gradient, other))
    scale = max(float(np.abs(a).max()) for a in jax.tree.leaves(gradient))
    for a, b in zip(jax.tree.leaves(gradient), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-4, atol=1e-5 * scale)


def decoded(model, latents):
    decode = model.space.modules["decoder"].apply
    return decode(model.model.variables["decoder"], latents, None, train=False)


def test_samples_are_what_the_decoder_makes_of_the_prior_in_one_pass(model):
    drawn = model.draw(20)
    latents = normal_by_index(jax.random.key(0), "prior_latents", jnp.arange(20), (4,))
    np.testing.assert_array_equal(drawn["images"], data.to_uint8(decoded(model, latents)))
    np.testing.assert_array_equal(drawn["num_evaluations"], 1)


def test_samples_of_a_class_are_of_zones_of_its_training_images(model):
    labels = np.arange(200) % 10
    centres = model.encode(labels, KEY, 0.0, source="label")
    context, own = model.model.context, []
    exact = zoning.compute_latents(
        context["anchors"], jnp.zeros_like(context["anchors"]), solver=model.space.solver
    )
    for centre, label in zip(centres, labels, strict=True):
        distances = jnp.sum((exact - centre) ** 2, axis=1)
        members = context["labels"] == label
        if members.any():  # the shrunk context has 16 images
            own.append(int(jnp.argmin(distances)))
            assert context["labels"][own[-1]] == label
            assert float(jnp.min(distances)) < 1e-6
    assert len(set(own)) > 10  # of all images of a class, not of one


def test_a_latent_is_of_the_class_of_the_image_in_whose_zone_it_lies():
    space = build(latent__num_steps=20, alignment__num_steps=20)
    anchors = 3 * jax.random.normal(KEY, (16, 4))
    context = {"anchors": anchors, "labels": jnp.arange(16) // 2}
    latents = zoning.compute_latents(anchors, jnp.zeros((16, 4)), solver=space.solver)
    found = TrainedModel(space, Model(variables(), context), 0).classes(np.asarray(latents))
    np.testing.assert_array_equal(found.classes, np.arange(16) // 2)
    assert found.probabilities.min() > 0.9


def test_images_are_reconstructed_and_lie_between_others_through_latents_alone(model):
    images = digits()[1].images[:5]
    made = decoded(model, jnp.asarray(model.encode(images, noise_scale=1.0)))
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
    examples = digits()[0]
    small_set = examples._replace(labels=np.where(examples.labels == 3, 4, examples.labels))
    space = build(latent__context_size=1437)
    for _ in range(2):  # a checkpoint and its evaluation
        space.context(variables(), small_set)
    assert caplog.messages == ["classes without a zone among latent.context_size 1437: 3"]


def test_an_alignment_by_a_flag_gives_labels_anchors():
    space = build(alignments="('image:label',)")
    assert set(space.modules) == {"encoder", "decoder", "label_anchors"}
    made = small.random_variables(space)
    _, metrics = jax.jit(space.loss)(made, batch(), KEY)
    assert {"generation_loss", "alignment_loss"} <= metrics.keys()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"queries": 7}, "training.queries must divide training.batch_size 16, got 7"),
        (
            {"queries": 24, "microbatch_size": 16, "batch_size": 48},
            "training.microbatch_size must divide training.queries 24, got 16",
        ),
    ],
)
def test_sizes_that_do_not_fit_end_in_one_line(changes, message):
    with pytest.raises(UserError, match=message):
        build(**{f"training__{name}": value for name, value in changes.items()})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"latent__enabled": False}, "a one-pass decoder requires latent.enabled, got False"),
        ({"decoder__latents": "()"}, "a one-pass decoder requires decoder.latents"),
        ({"training__queries": 1}, "training.queries must be >= 2 for a loss between sets, got 1"),
        ({"decoder__set_patch_size": 9}, "must be <= data.image_size 8, got 9"),
    ],
)
def test_what_one_pass_cannot_learn_from_ends_in_one_line(changes, message):
    with pytest.raises(UserError, match=message):
        build(**changes)


def test_the_distance_of_anchors_does_not_train_the_encoder_that_measures():
    """What it would learn is to tell no image from another."""
    decoder = build(decoder__set_anchors=1.0).decoders["image"]
    latents, keys = jax.random.normal(KEY, (16, 4)), tuple(jax.random.split(KEY, 2))
    gradient = jax.grad(lambda v: decoder.loss(v, batch(), (latents, None), keys))(variables())
    assert any(np.any(a) for a in jax.tree.leaves(gradient["decoder"]))
    assert not any(np.any(a) for a in jax.tree.leaves(gradient["encoder"]))


def test_classes_without_alignment_need_images_to_have_zones():
    with pytest.raises(UserError, match=r"latent.context_size must be > 0"):
        build(latent__context_size=0)
