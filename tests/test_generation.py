"""Generation, images alone: its loss from parts, samples, reconstruction, evaluation."""

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small

from lzn_jax import data, zoning
from lzn_jax.evaluation import features, measurements
from lzn_jax.evaluation.samples import reconstructed_rows
from lzn_jax.inference import NO_CLASS
from lzn_jax.latent_space import LatentSpace, Model
from lzn_jax.models import named, normal_by_index
from lzn_jax.run import devices
from lzn_jax.trained_model import TrainedModel

KEY = jax.random.key(5)


def config(**changes):
    changes = {
        "latent__solver": "dpm",
        "latent__noise_scale": 0.5,
        "training__batch_size": 16,
        "evaluation__num_samples": 60,
    } | changes
    return small.config("configs/digits_gen.py", **changes)


def mesh_of(num_devices):
    return devices.make_mesh(8, jax.devices()[:num_devices])


def build(num_devices=1, **changes):
    return LatentSpace(config(**changes), mesh_of(num_devices))


@functools.cache
def variables(**changes):
    return small.random_variables(build(**changes))


@functools.cache
def digits():
    return data.load_data(config())


def batch():
    return {"images": jnp.asarray(digits()[0].images[:16])}  # no labels, which it never reads


def model_of(space):
    return TrainedModel(space, Model(variables(), space.context(variables(), digits()[0])), 0)


@pytest.fixture(scope="module")
def model():
    """Its programs are compiled once."""
    return model_of(build())


@functools.cache
def loss_and_gradient(num_devices=1, size=None):
    """A compiled function of variables: ((loss, metrics), gradient)."""
    space, mesh = build(num_devices, training__microbatch_size=size), mesh_of(num_devices)
    call = jax.jit(jax.value_and_grad(lambda v, batch: space.loss(v, batch, KEY), has_aux=True))

    def on_devices(variables):
        arrays = jax.device_put(variables, devices.replicated(mesh))
        with jax.set_mesh(mesh):
            return call(arrays, jax.device_put(batch(), devices.split(mesh)))

    return on_devices


def by_hand(space, variables):
    """The loss of the flow given each image's own latent."""
    noise_key, time_key = jax.random.split(jax.random.split(named(KEY, "image_decoder"))[0])
    images = batch()["images"] / 127.5 - 1
    latents = None
    if space.encoders:
        anchors = space.modules["encoder"].apply(variables["encoder"], images, train=True)
        noise = jax.random.normal(named(KEY, "image_latents_decoder"), anchors.shape)
        noise *= space.config.latent.noise_scale
        latents = zoning.compute_latents(anchors, noise, solver=zoning.DPMSolver(4))
    noise = jax.random.normal(noise_key, images.shape)
    t = jax.random.uniform(time_key, (16,), minval=1e-3, maxval=1.0)
    s = t[:, None, None, None]
    x_t = s * images + (1 - s) * noise
    decode = space.modules["decoder"].apply
    velocity = decode(variables["decoder"], x_t, t, latents, None, train=True)
    return jnp.mean((velocity - (images - noise)) ** 2)


def test_the_loss_is_that_of_the_flow_given_each_images_own_latent(model):
    (loss, metrics), _ = loss_and_gradient()(variables())
    expected = jax.jit(functools.partial(by_hand, model.space))(variables())
    assert float(loss) == pytest.approx(float(expected), rel=1e-5)
    assert metrics == {"generation_loss": loss}


@pytest.mark.parametrize(("num_devices", "size"), [(1, 8), (8, 8)])
def test_micro_batches_and_devices_change_neither_loss_nor_gradient(num_devices, size):
    (loss, _), gradient = loss_and_gradient()(variables())
    (other_loss, _), other_gradient = loss_and_gradient(num_devices, size)(variables())
    assert float(other_loss) == pytest.approx(float(loss), rel=1e-5)
    scale = max(float(np.abs(a).max()) for a in jax.tree.leaves(gradient))
    for a, b in zip(jax.tree.leaves(gradient), jax.tree.leaves(other_gradient), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-4, atol=1e-5 * scale)


def test_the_gradient_reaches_the_encoder_through_the_latents():
    gradient = loss_and_gradient()(variables())[1]["encoder"]
    norm = np.sqrt(sum(np.sum(np.square(leaf)) for leaf in jax.tree.leaves(gradient)))
    assert norm > 1e-3

    def loss(step):
        moved = jax.tree.map(lambda x, g: x + step * g / norm, variables()["encoder"], gradient)
        return float(loss_and_gradient()({**variables(), "encoder": moved})[0][0])

    # Along the gradient the loss rises as fast as the gradient is long.
    assert (loss(1e-2) - loss(-1e-2)) / 2e-2 == pytest.approx(norm, rel=0.05)


def test_the_baseline_is_a_decoder_alone():
    space, decoder = build(latent__enabled=False), variables(latent__enabled=False)
    assert set(space.modules) == set(decoder) == {"decoder"}
    loss, metrics = jax.jit(space.loss)(decoder, batch(), KEY)
    expected = jax.jit(functools.partial(by_hand, space))(decoder)
    assert float(loss) == pytest.approx(float(expected), rel=1e-5)
    assert metrics == {"generation_loss": loss}
    assert space.context(decoder, digits()[0]) == space.context_shapes() == {}
    assert TrainedModel(space, Model(decoder, {}), 0).sample(3).images.shape == (3, 8, 8, 1)


def test_a_sample_depends_on_the_key_and_its_number_alone(model):
    many = model.sample(32)
    assert many.images.dtype == np.uint8
    assert many.labels.tolist() == [NO_CLASS] * 32
    assert len(np.unique(many.images.reshape(32, -1), axis=0)) == 32
    np.testing.assert_array_equal(model.sample(7).images, many.images[:7])
    # Another batch size may round another way: by one grey level.
    other = model_of(build(training__batch_size=8)).sample(32).images
    assert np.max(np.abs(other.astype(int) - many.images)) <= 1


def straight(variables, x, t, latents, beside, *, train):
    """Straight paths, which Euler undoes exactly, in a direction that the latent gives."""
    assert beside is None
    return jnp.zeros_like(x) + latents[:, :1, None, None]


@pytest.fixture
def straight_paths():
    """A model of its own, as the shared one's programs may be compiled."""
    space = build()
    space.decoders["image"].module = types.SimpleNamespace(apply=straight)
    return model_of(space)


def test_samples_come_from_noise_and_from_latents(straight_paths):
    found = straight_paths.draw(16, None, KEY)["images"]
    noise = normal_by_index(KEY, "image_noise", jnp.arange(16), (8, 8, 1))
    latents = normal_by_index(KEY, "prior_latents", jnp.arange(16), (4,))
    expected = noise + (1 - 1e-3) * latents[:, :1, None, None]
    # Grey levels; outside of [-1, 1] there are none.
    expected = np.clip(127.5 * (np.asarray(expected) + 1), 0, 255)
    np.testing.assert_allclose(found, expected, atol=0.51)


@pytest.mark.parametrize("count", [1, 1999, 2000, 2001, 10_000])
def test_images_of_all_classes_are_reconstructed_where_files_go_by_class(count):
    rows = reconstructed_rows(count)
    assert len(rows) == min(count, 2000)
    assert rows[0] == 0
    assert rows[-1] >= count - np.ceil(count / 2000)
    steps = np.diff(rows)
    assert np.all((steps >= count // 2000) & (steps >= 1) & (steps <= np.ceil(count / 2000)))


def test_reconstruction_is_exact_for_straight_paths(straight_paths):
    images = digits()[1].images[:16]
    result = straight_paths.reconstruct(images)
    assert np.max(result["errors"]) < 1e-4
    np.testing.assert_array_equal(result["images"], images)


def test_evaluation_gives_finite_metrics_and_pictures(model, tmp_path, monkeypatch):
    monkeypatch.setattr(features, "NUM_STEPS", 3)
    train, test = digits()[0], digits()[1].at(np.arange(20))
    metrics = measurements.evaluate(model, train, test, tmp_path)
    assert set(metrics) == {
        "fd_features", "precision", "recall", "recognised", "sampling_evaluations",
        "reconstruction_l2", "nearest", "nearest_of_tests", "nearest_ratio", "test_examples",
    }  # fmt: skip
    assert metrics["test_examples"] == 20
    assert all(type(value) is float for value in metrics.values())
    assert np.isfinite(list(metrics.values())).all()
    assert metrics["sampling_evaluations"] == 3
    expected = np.mean(model.reconstruct(test.images)["errors"])
    assert metrics["reconstruction_l2"] == pytest.approx(expected)
    names = {path.name for path in (tmp_path / "figures").iterdir()}
    assert names == {"samples.png", "reconstructions.png"}
    # The network is trained once a run.
    monkeypatch.setattr(features, "_train", None)
    assert measurements.evaluate(model, train, test, tmp_path) == metrics
