"""Images and labels in one space: the loss from parts, conditions of decoders, classes."""

import contextlib
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small
from zoning import oracle

from lzn_jax import inference, plan, zoning
from lzn_jax.data import Examples
from lzn_jax.data_types import Model
from lzn_jax.decoders import flow
from lzn_jax.errors import UserError
from lzn_jax.evaluation import measurements
from lzn_jax.models import named, normal_by_index

KEY = jax.random.key(5)
LABELS = np.int32([3, 3, 3, 3, 3, 3, 1, 1, 1, 1, 7, 7, 7, 0, 0])  # six classes are absent
STEPS, CUTOFF = 5, 0.4  # of the flow to the labels; two steps are left out
FLOW = zoning.Euler(STEPS)


def joint(**changes):
    sizes = {"training__batch_size": 15, "alignment__num_steps": STEPS, "alignment__cutoff": CUTOFF}
    return small.world("digits_joint", **sizes | changes)


def batch():
    return joint().batch | {"labels": jnp.asarray(LABELS)}


def images():
    return np.asarray(joint().batch["images"]) / np.float32(127.5) - 1


def weighted(**changes):
    """The study whose losses have weights of their own."""
    weights = {"training__generation_weight": 0.5, "alignment__weight": 3}
    settings = {"alignment__sharpness": None, "alignment__form": "log"}
    return joint(**weights | settings | changes)


def label_anchors():
    return np.asarray(joint().variables["label_anchors"]["params"]["anchors"])


def one_hot(labels):
    return jnp.eye(10)[jnp.asarray(labels)]


def flow_key():
    """Of the flow's draws; the second key is dropout's."""
    return jax.random.split(named(KEY, "image_decoder"), 2)[0]


@functools.partial(jax.jit, static_argnums=0)
def flow_loss(decoder, variables, images, latents):
    """The rectified flow's, written out: images, classes and given latents."""
    noise_key, time_key = jax.random.split(flow_key())
    noise = jax.random.normal(noise_key, images.shape)
    t = jax.random.uniform(time_key, (15,), minval=1e-3, maxval=1.0)
    s = t[:, None, None, None]
    x_t = s * images + (1 - s) * noise
    velocity = decoder.apply(variables, x_t, t, latents, one_hot(LABELS), train=True)
    return jnp.mean((velocity - (images - noise)) ** 2)


@functools.partial(jax.jit, static_argnums=0)
def anchors_noise_and_latents(encoder, variables, images):
    """Of the images in training, with the noise of their decoder and of their alignment."""
    anchors = encoder.apply(variables, images, train=True)
    noise, own = (
        jax.random.normal(named(KEY, f"image_latents_{use}"), anchors.shape)
        for use in ("decoder", "aligned")
    )
    return anchors, noise, own, zoning.compute_latents(anchors, noise, solver=zoning.Euler(4))


@pytest.mark.parametrize(
    ("noise_scale", "form", "sharpness"),
    [
        (None, "log", None),
        (0.45, "prob", 0.7),
        *small.slow((0.45, "prob", None)),
    ],
)
def test_the_loss_is_that_of_the_flow_and_of_latents_outside_the_zone_of_their_class(
    noise_scale, form, sharpness
):
    aligned = {"sharpness": sharpness, "noise_scale": noise_scale, "form": form}
    world = weighted(**{f"alignment__{name}": value for name, value in aligned.items()})
    modules, variables = world.space.modules, world.variables
    anchors, noise, own, latents = anchors_noise_and_latents(
        modules["encoder"], variables["encoder"], images()
    )
    aligned_noise = noise if noise_scale is None else noise_scale * np.asarray(own)
    with np.errstate(divide="ignore"):
        log_counts = np.log(np.bincount(LABELS, minlength=10))  # -inf where a class is absent

    anchors, targets = np.float64(anchors), np.float64(label_anchors())
    aligned = oracle.compute_latents(anchors, np.float64(aligned_noise), solver=zoning.Euler(4))
    kwargs = {"form": form, "log_weights": log_counts}
    if sharpness is None:
        kwargs |= {"solver": FLOW, "cutoff": CUTOFF}
        alignment, _ = oracle.alignment_loss(aligned, targets, LABELS, **kwargs)
    else:
        with jax.enable_x64(True):
            kwargs |= {"sharpness": sharpness}
            alignment, _ = zoning.alignment_loss_at(aligned, targets, LABELS, **kwargs)

    expected = {
        "generation_loss": float(
            flow_loss(modules["decoder"], variables["decoder"], images(), latents)
        ),
        "alignment_loss": float(alignment),
    }
    loss, metrics = world.loss(world.variables, batch(), KEY)
    assert {name: float(metrics[name]) for name in expected} == pytest.approx(expected, rel=1e-4)
    total = 0.5 * expected["generation_loss"] + 3 * expected["alignment_loss"]
    assert float(loss) == pytest.approx(total, rel=1e-4)


def test_draws_of_a_batch_take_the_place_of_the_keys():
    world, other_key = weighted(alignment__noise_scale=None), jax.random.key(6)
    noise, t = jax.jit(flow.draw)(flow_key(), images())
    own = jax.random.normal(named(KEY, "image_latents_decoder"), (15, 4))
    given = {"image_latent_noise": own, "flow_noise": noise, "flow_time": t}
    loss_of = functools.partial(world.loss, world.variables)
    drawn, metrics = loss_of(batch(), KEY)
    loss, found = loss_of(batch() | given, other_key)
    assert float(loss) == pytest.approx(float(drawn), rel=1e-6)
    assert found["alignment_loss"] == pytest.approx(float(metrics["alignment_loss"]), rel=1e-6)
    for name, column in given.items():
        changed = given | {name: np.asarray(column)[::-1]}
        assert float(loss_of(batch() | changed, other_key)[0]) != float(loss)
        with pytest.raises(UserError, match=rf"{name} of a batch must have the shape \(15"):
            loss_of(batch() | given | {name: np.asarray(column)[:1]}, KEY)


def test_the_baseline_is_a_decoder_on_the_class_alone():
    world = joint(latent__enabled=False)
    assert set(world.space.modules) == set(world.variables) == {"decoder"}
    loss, metrics = world.loss(world.variables, batch(), KEY)
    assert set(metrics) == {"generation_loss"}
    decoder, variables = world.space.modules["decoder"], world.variables["decoder"]
    expected = flow_loss(decoder, variables, images(), None)
    assert float(loss) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("weight", ["training__generation_weight", "alignment__weight"])
def test_a_loss_without_weight_is_not_computed(weight):
    world = joint(**{weight: 0})
    _, metrics = jax.eval_shape(
        functools.partial(plan.loss, world.space.plan), world.variables, batch(), KEY
    )
    name = "generation_loss" if "generation" in weight else "alignment_loss"
    assert name not in metrics
    assert ("assignment_accuracy" in metrics) == (name == "generation_loss")


@pytest.mark.parametrize("weight", [1, 0])
def test_weights_of_networks_that_look_at_samples_are_read_where_there_will_be_samples(weight):
    changes = {"evaluation__inception_path": "missing.npz", "training__generation_weight": weight}
    space = small.world("cifar10_joint", **changes).space
    test = Examples(np.zeros((1, 32, 32, 3), np.uint8), np.zeros(1, np.int32))
    with pytest.raises(UserError, match=r"missing\.npz") if weight else contextlib.nullcontext():
        measurements.prepare(space, test)


@functools.cache
def shown():
    """A model whose decoder returns its condition in place of images."""
    changes = {"alignment__num_steps": STEPS, "training__batch_size": 15}
    model = small.World("digits_joint", **changes).model
    decoder = model.space.decoders["image"]

    def shown(condition):
        return dict(zip(("images", "condition"), condition, strict=True))

    decoder.generate = lambda variables, key, condition, index: shown(condition)
    decoder.reconstruct = lambda variables, images, condition: shown(condition)
    return model


def ends_of_flow(latents):
    """Label whose anchor the exact flow ends at, all classes alike."""
    return oracle.classify(np.float64(latents), np.float64(label_anchors()), solver=FLOW)


def test_samples_have_their_class_and_a_latent_of_its_zone_as_condition():
    index, labels = jnp.arange(40), jnp.arange(40) % 10
    drawn = shown().draw(40, np.asarray(labels), KEY)
    np.testing.assert_array_equal(drawn["condition"], one_hot(labels))
    noise = normal_by_index(KEY, "label_latents", index, (4,))
    arrays = np.float64(label_anchors()), np.float64(noise), np.asarray(labels)
    expected = oracle.compute_latents(*arrays, solver=FLOW)
    np.testing.assert_allclose(drawn["images"], expected, atol=1e-4)


def test_samples_of_any_class_have_the_class_of_the_zone_that_the_prior_puts_them_in():
    drawn = shown().draw(40, None, KEY)
    latents = normal_by_index(KEY, "prior_latents", jnp.arange(40), (4,))
    np.testing.assert_array_equal(drawn["images"], latents)
    classes = ends_of_flow(latents)
    assert len(set(classes)) > 5
    np.testing.assert_array_equal(drawn["labels"], classes)
    np.testing.assert_array_equal(drawn["condition"], one_hot(classes))


def test_a_prediction_is_the_end_of_the_flow_and_an_assignment_on_its_way():
    """The config reads probabilities at 0.6 of the steps."""
    latents = jax.random.normal(KEY, (40, 4))
    predict = functools.partial(inference.predict, joint().space, target="label")
    found = jax.jit(predict)(Model(joint().variables, {}), latents)
    classes = ends_of_flow(latents)
    np.testing.assert_array_equal(found["classes"], classes)
    arrays = np.float64(latents), np.float64(label_anchors()), classes
    log_probs = oracle.assignment_log_probs(*arrays, solver=FLOW)
    expected = np.exp(log_probs[int(0.6 * len(log_probs))])
    np.testing.assert_allclose(found["probabilities"], expected, atol=1e-4)


@pytest.mark.parametrize("is_given", [True, False])
def test_images_are_reconstructed_given_a_random_latent_of_their_zone_and_their_class(is_given):
    model, images = shown(), joint().digits[1].images[:20]
    labels = np.arange(20) % 10
    if not is_given:
        labels = model.classes(model.encode(images, noise_scale=0.0)).classes
    found = model.reconstruct(images, labels if is_given else None)
    np.testing.assert_array_equal(found["condition"], one_hot(labels))
    noise = normal_by_index(jax.random.key(0), "image_latents", jnp.arange(20), (4,))
    latents = jax.jit(functools.partial(zoning.latents_in_context, solver=zoning.Euler(4)))
    expected = latents(model.anchors(images), model.model.context["image"].anchors, noise)
    np.testing.assert_allclose(found["images"], expected, atol=1e-5)
