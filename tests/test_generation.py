"""Generation, images alone: its loss from parts, samples, reconstruction, evaluation."""

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small

from lzn_jax import plan, zoning
from lzn_jax.evaluation import features, measurements
from lzn_jax.evaluation.samples import reconstructed_rows
from lzn_jax.inference import NO_CLASS
from lzn_jax.models import named, normal_by_index

KEY = jax.random.key(5)
CHANGES = {"latent__solver": "dpm", "latent__noise_scale": 0.5, "evaluation__num_samples": 60}


def generation(**changes):
    return small.world("digits_gen", **CHANGES, **changes)


def images_alone(world):
    return {"images": world.batch["images"]}  # no labels, which the loss never reads


def by_hand(world, variables):
    """The loss of the flow given each image's own latent."""
    noise_key, time_key = jax.random.split(jax.random.split(named(KEY, "image_decoder"))[0])
    images, modules, latents = world.batch["images"] / 127.5 - 1, world.space.modules, None
    if "encoder" in modules:
        anchors = modules["encoder"].apply(variables["encoder"], images, train=True)
        noise = jax.random.normal(named(KEY, "image_latents_decoder"), anchors.shape)
        noise *= world.config.latent.noise_scale
        latents = zoning.compute_latents(anchors, noise, solver=zoning.DPMSolver(4))
    noise = jax.random.normal(noise_key, images.shape)
    t = jax.random.uniform(time_key, (16,), minval=1e-3, maxval=1.0)
    s = t[:, None, None, None]
    x_t = s * images + (1 - s) * noise
    decode = modules["decoder"].apply
    velocity = decode(variables["decoder"], x_t, t, latents, None, train=True)
    return jnp.mean((velocity - (images - noise)) ** 2)


@pytest.mark.parametrize("changes", [{}, {"latent__enabled": False}], ids=["lzn", "baseline"])
def test_the_loss_is_that_of_the_flow_given_each_images_own_latent(changes):
    world = generation(**changes)
    loss, metrics = world.loss(world.variables, images_alone(world), KEY)
    expected = jax.jit(functools.partial(by_hand, world))(world.variables)
    assert float(loss) == pytest.approx(float(expected), rel=1e-5)
    assert metrics == {"generation_loss": loss}


def test_the_baseline_is_a_decoder_alone():
    world = generation(latent__enabled=False)
    assert set(world.space.modules) == set(world.variables) == {"decoder"}
    assert world.model.model.context == world.space.context_shapes() == {}
    assert world.model.sample(3).images.shape == (3, 8, 8, 1)


def test_a_sample_depends_on_the_key_and_its_number_alone():
    model = generation().model
    many = model.sample(32)
    assert many.images.dtype == np.uint8
    assert many.labels.tolist() == [NO_CLASS] * 32
    assert len(np.unique(many.images.reshape(32, -1), axis=0)) == 32
    np.testing.assert_array_equal(model.sample(7).images, many.images[:7])
    # Another batch size may round another way: by one grey level.
    other = generation(training__batch_size=8).model.sample(32).images
    assert np.max(np.abs(other.astype(int) - many.images)) <= 1


def straight(variables, x, t, latents, beside, *, train):
    """Straight paths, which Euler undoes exactly, in a direction that the latent gives."""
    assert beside is None
    return jnp.zeros_like(x) + latents[:, :1, None, None]


@pytest.fixture(scope="module")
def straight_paths():
    """A model of its own, as the shared one's programs may be compiled."""
    model = small.World("digits_gen", **CHANGES).model
    model.space.decoders["image"].module = types.SimpleNamespace(apply=straight)
    return model


def test_the_gradient_reaches_the_encoder_through_the_latents(straight_paths):
    space, world = straight_paths.space, generation()

    @jax.jit
    @jax.value_and_grad
    def loss(encoder, batch):
        return plan.loss(space.plan, {"encoder": encoder, "decoder": {}}, batch, KEY)[0]

    encoder = jax.device_get(world.variables["encoder"])
    gradient = jax.device_get(loss(encoder, images_alone(world))[1])
    norm = np.sqrt(sum(np.sum(np.square(leaf)) for leaf in jax.tree.leaves(gradient)))
    assert norm > 1e-3

    def loss_at(step):
        moved = jax.tree.map(lambda x, g: x + np.float32(step / norm) * g, encoder, gradient)
        return float(loss(moved, images_alone(world))[0])

    # Along the gradient the loss rises as fast as the gradient is long.
    assert (loss_at(1e-2) - loss_at(-1e-2)) / 2e-2 == pytest.approx(norm, rel=0.05)


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
    images = generation().digits[1].images[:16]
    result = straight_paths.reconstruct(images)
    assert np.max(result["errors"]) < 1e-4
    np.testing.assert_array_equal(result["images"], images)


@pytest.mark.slow
def test_evaluation_gives_finite_metrics_and_pictures(tmp_path, monkeypatch):
    monkeypatch.setattr(features, "NUM_STEPS", 3)
    model, (train, test) = generation().model, generation().digits
    test = test.at(np.arange(20))
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
