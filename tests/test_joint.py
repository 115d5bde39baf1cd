"""The joint study: its loss from parts, what samples and reconstructions are told, classes."""

import contextlib
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small
from zoning import oracle

from lzn_jax import studies, zoning
from lzn_jax.configuration import UserError
from lzn_jax.randomness import Stream, normal_by_index
from lzn_jax.run import sharding
from lzn_jax.studies import Model
from lzn_jax.studies.joint import Joint

KEY = jax.random.key(5)
LABELS = np.array([3, 3, 3, 3, 3, 3, 1, 1, 1, 1, 7, 7, 7, 0, 0])  # six classes are absent
STEPS, CUTOFF = 5, 0.4  # of the flow to the labels; two steps are left out


def build(**changes) -> Joint:
    changes = {"alignment__num_steps": STEPS, "alignment__cutoff": CUTOFF} | changes
    config = small.config("configs/digits_joint.py", **changes)
    return studies.build(config, sharding.make_mesh(config.training.batch_size))


@functools.cache
def variables(**changes):
    return small.shaken(jax.jit(build(**changes).init)(jax.random.key(0)))


@functools.cache
def digits():
    return studies.load_data(build().config)


def batch():
    return {"images": jnp.asarray(digits()[0].images[:15]), "labels": jnp.asarray(LABELS)}


def label_anchors():
    return np.asarray(variables()["label_anchors"]["params"]["anchors"])


def one_hot(labels):
    return np.eye(10, dtype=np.float32)[np.asarray(labels)]


def flow_loss(study, variables, latents):
    """The rectified flow's, written out: images, classes and given latents."""
    flow_key = jax.random.split(KEY, 5)[0]
    noise_key, time_key = jax.random.split(flow_key)
    images = batch()["images"] / 127.5 - 1
    noise = jax.random.normal(noise_key, images.shape)
    t = jax.random.uniform(time_key, (15,), minval=1e-3, maxval=1.0)
    s = t[:, None, None, None]
    decode = jax.jit(functools.partial(study.modules["decoder"].apply, train=True))
    x_t = s * images + (1 - s) * noise
    velocity = decode(variables["decoder"], x_t, t, latents, one_hot(LABELS))
    return np.mean(np.asarray(velocity - (images - noise), np.float64) ** 2)


@pytest.mark.parametrize(("noise_scale", "form"), [(0.45, "log"), (None, "prob")])
def test_the_loss_is_that_of_the_flow_and_of_latents_outside_the_zone_of_their_class(
    noise_scale, form
):
    study = build(
        alignment__noise_scale=noise_scale,
        alignment__form=form,
        alignment__weight=3,
        training__generation_weight=0.5,
    )
    _, _, _, latent_key, align_key = jax.random.split(KEY, 5)
    encode = jax.jit(functools.partial(study.modules["encoder"].apply, train=True))
    anchors = encode(variables()["encoder"], batch()["images"] / 127.5 - 1)
    noise = jax.random.normal(latent_key, anchors.shape)
    latents = zoning.compute_latents(anchors, noise, solver=zoning.Euler(4))
    aligned_noise = noise
    if noise_scale is not None:
        aligned_noise = noise_scale * jax.random.normal(align_key, anchors.shape)
    with np.errstate(divide="ignore"):
        log_counts = np.log(np.bincount(LABELS, minlength=10))  # -inf where a class is absent

    def alignment(anchors, noise, targets, log_counts):
        aligned = oracle.euler_latents(anchors, noise, np.arange(15), 4)
        return oracle.euler_alignment_loss(
            aligned, targets, LABELS, STEPS, CUTOFF, form, log_weights=log_counts
        )

    expected = {
        "generation_loss": flow_loss(study, variables(), latents),
        "alignment_loss": float(
            oracle.in_float64(alignment, anchors, aligned_noise, label_anchors(), log_counts)
        ),
    }
    loss, metrics = jax.jit(study.loss)(variables(), batch(), KEY)
    assert {name: float(metrics[name]) for name in expected} == pytest.approx(expected, rel=1e-4)
    total = 0.5 * expected["generation_loss"] + 3 * expected["alignment_loss"]
    assert float(loss) == pytest.approx(total, rel=1e-4)


def test_the_baseline_is_a_decoder_told_the_class_alone():
    study = build(latent__enabled=False)
    decoder = variables(latent__enabled=False)
    assert set(study.modules) == set(decoder) == {"decoder"}
    loss, metrics = jax.jit(study.loss)(decoder, batch(), KEY)
    assert set(metrics) == {"generation_loss"}
    assert float(loss) == pytest.approx(flow_loss(study, decoder, None), rel=1e-5)


@pytest.mark.parametrize("weight", ["training__generation_weight", "alignment__weight"])
def test_a_loss_without_weight_is_not_computed(weight):
    _, metrics = jax.eval_shape(build(**{weight: 0}).loss, variables(), batch(), KEY)
    name = "generation_loss" if "generation" in weight else "alignment_loss"
    assert name not in metrics
    assert ("assignment_accuracy" in metrics) == (name == "generation_loss")


@pytest.mark.parametrize("weight", [1, 0])
def test_weights_of_networks_that_look_at_samples_are_read_where_there_will_be_samples(weight):
    config = small.config(
        "configs/cifar10_joint.py",
        evaluation__inception_path="missing.npz",
        training__generation_weight=weight,
    )
    study = studies.build(config, sharding.make_mesh(config.training.batch_size))
    with pytest.raises(UserError, match=r"missing\.npz") if weight else contextlib.nullcontext():
        study.prepare_evaluation()


def told(study):
    """Has the decoder return what it is told instead of images."""
    study.decoder.generate = lambda variables, key, condition, index: {
        "images": condition[0],
        "classes": condition[1],
    }
    study._reconstruction = lambda variables, images, condition: {
        "latents": np.asarray(condition[0]),
        "classes": np.asarray(condition[1]),
    }
    return study


def ends_of_flow(latents):
    """Label whose anchor the exact flow ends at, all classes alike."""
    ends, _ = oracle.in_float64(
        lambda z, anchors: oracle.euler_decode(z, anchors, STEPS), latents, label_anchors()
    )
    return np.argmin(np.linalg.norm(ends[:, None] - label_anchors(), axis=-1), axis=1)


def test_samples_are_told_their_class_and_a_latent_of_its_zone():
    study = told(build())
    index, labels = jnp.arange(40), jnp.arange(40) % 10
    drawn = study.generate(variables(), KEY, {"labels": labels, "index": index})
    np.testing.assert_array_equal(drawn["classes"], one_hot(labels))
    noise = normal_by_index(KEY, Stream.SAMPLE_LATENTS, index, (4,))

    def exact(anchors, noise):
        return oracle.euler_latents(anchors, noise, labels, STEPS)

    expected = oracle.in_float64(exact, label_anchors(), noise)
    np.testing.assert_allclose(drawn["images"], expected, atol=1e-4)


def test_samples_of_any_class_are_told_the_class_in_whose_zone_the_prior_puts_them():
    study = told(build())
    drawn = study.generate_any(variables(), KEY, {"index": jnp.arange(40)})
    latents = normal_by_index(KEY, Stream.PRIOR_LATENTS, jnp.arange(40), (4,))
    np.testing.assert_array_equal(drawn["images"], latents)
    classes = ends_of_flow(latents)
    assert len(set(classes)) > 5
    np.testing.assert_array_equal(drawn["labels"], classes)
    np.testing.assert_array_equal(drawn["classes"], one_hot(classes))


def test_a_prediction_is_the_end_of_the_flow_and_its_last_assignment():
    latents = jax.random.normal(KEY, (40, 4))
    found = build().predict(variables(), latents)
    classes = ends_of_flow(latents)
    np.testing.assert_array_equal(found["classes"], classes)
    _, log_p = oracle.in_float64(
        lambda z, anchors: oracle.euler_decode(z, anchors, STEPS), latents, label_anchors()
    )
    np.testing.assert_allclose(
        found["probabilities"], np.exp(log_p[-1, np.arange(40), classes]), atol=1e-4
    )


@pytest.mark.parametrize("is_given", [True, False])
def test_images_are_reconstructed_given_a_random_latent_of_their_zone_and_their_class(is_given):
    study = told(build())
    model = Model(variables(), study.context(variables(), digits()[0]))
    images = digits()[1].images[:20]
    labels = np.arange(20) % 10 if is_given else study.classify(model, images).classes
    found = study.reconstruct(model, images, labels if is_given else None)
    np.testing.assert_array_equal(found["classes"], one_hot(labels))
    anchors = study.latents.all_anchors(variables(), images)
    noise = normal_by_index(jax.random.key(0), Stream.IMAGE_LATENTS, jnp.arange(20), (4,))
    expected = zoning.latents_in_context(
        anchors, model.context["anchors"], noise, solver=zoning.Euler(4)
    )
    np.testing.assert_allclose(found["latents"], expected, atol=1e-5)
