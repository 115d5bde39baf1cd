"""The generation study: its loss from parts, samples, reconstruction, evaluation."""

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small

from lzn_jax import studies, zoning
from lzn_jax.evaluation import feature_network
from lzn_jax.randomness import Stream, normal_by_index
from lzn_jax.run import sharding
from lzn_jax.studies import Model, generation, image_decoder
from lzn_jax.studies.generation import NO_CLASS
from lzn_jax.studies.reconstruction import evaluated_rows


def config(**changes):
    return small.config("configs/digits_gen.py", **{"latent__solver": "dpm"} | changes)


def build(**changes):
    settings = config(**changes)
    return studies.build(settings, sharding.make_mesh(settings.training.batch_size))


def variables_of(study):
    return small.shaken(jax.jit(study.init)(jax.random.key(0)))


@pytest.fixture(scope="module")
def digits():
    return studies.load_data(config())


def batch_of(digits, count=15):
    return {"images": jnp.asarray(digits[0].images[:count])}  # no labels, which it never reads


@pytest.mark.parametrize(
    "changes", [{"latent__noise_scale": 0.5}, {"latent__enabled": False}], ids=str
)
def test_the_loss_is_that_of_the_flow_given_each_images_own_latent(changes, digits):
    study, key = build(**changes), jax.random.key(5)
    variables, batch = variables_of(study), batch_of(digits)
    loss, metrics = jax.jit(study.loss)(variables, batch, key)

    flow_key, _, _, latent_key = jax.random.split(key, 4)
    noise_key, time_key = jax.random.split(flow_key)
    images = batch["images"] / 127.5 - 1
    latents = None
    if study.config.latent.enabled:
        encode = jax.jit(functools.partial(study.modules["encoder"].apply, train=True))
        anchors = encode(variables["encoder"], images)
        noise = study.config.latent.noise_scale * jax.random.normal(latent_key, anchors.shape)
        latents = zoning.compute_latents(anchors, noise, solver=zoning.DPMSolver(4))
    noise = jax.random.normal(noise_key, images.shape)
    t = jax.random.uniform(time_key, (15,), minval=1e-3, maxval=1.0)
    x_t = jnp.stack([s * image + (1 - s) * x for s, image, x in zip(t, images, noise, strict=True)])
    decode = jax.jit(functools.partial(study.modules["decoder"].apply, train=True))
    velocity = decode(variables["decoder"], x_t, t, latents, None)
    expected = np.mean(np.asarray(velocity - (images - noise), np.float64) ** 2)
    assert float(loss) == pytest.approx(expected, rel=1e-5)
    assert metrics == {}


@pytest.mark.parametrize(("num_devices", "size"), [(1, 8), (8, 8)])
def test_micro_batches_and_devices_change_neither_loss_nor_gradient(num_devices, size, digits):
    def value_and_gradient(num_devices, size):
        settings = config(training__batch_size=16, training__microbatch_size=size)
        mesh = sharding.make_mesh(8, jax.devices()[:num_devices])
        study = studies.build(settings, mesh)
        batch = jax.device_put(batch_of(digits, 16), sharding.split(mesh))
        loss = jax.jit(jax.value_and_grad(lambda v: study.loss(v, batch, jax.random.key(5))[0]))
        with jax.set_mesh(mesh):
            return loss(jax.device_put(variables_of(study), sharding.replicated(mesh)))

    loss, gradient = value_and_gradient(1, None)
    other_loss, other_gradient = value_and_gradient(num_devices, size)
    assert float(other_loss) == pytest.approx(float(loss), rel=1e-5)
    scale = max(float(jnp.abs(a).max()) for a in jax.tree.leaves(gradient))
    for a, b in zip(jax.tree.leaves(gradient), jax.tree.leaves(other_gradient), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-4, atol=1e-5 * scale)


def test_the_gradient_reaches_the_encoder_through_the_latents(digits):
    study = build()
    variables, batch, key = variables_of(study), batch_of(digits), jax.random.key(5)

    @jax.jit
    def loss(encoder):
        return study.loss({**variables, "encoder": encoder}, batch, key)[0]

    gradient = jax.grad(loss)(variables["encoder"])
    norm = float(jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(gradient))))
    assert norm > 1e-3
    # Along the gradient the loss rises as fast as the gradient is long.
    moved = [
        loss(jax.tree.map(lambda x, g, s=step: x + s * g / norm, variables["encoder"], gradient))
        for step in (1e-2, -1e-2)
    ]
    assert float(moved[0] - moved[1]) / 2e-2 == pytest.approx(norm, rel=0.05)


def test_the_baseline_is_a_decoder_alone(digits):
    study = build(latent__enabled=False)
    variables = variables_of(study)
    assert set(study.modules) == set(variables) == {"decoder"}
    assert study.context(variables, digits[0]) == study.context_shapes() == {}
    assert study.sample(Model(variables, {}), 3).images.shape == (3, 8, 8, 1)


def test_a_sample_depends_on_the_seed_and_its_number_alone():
    study = build()
    model = Model(variables_of(study), {})
    many = study.sample(model, 32)
    assert many.images.dtype == np.uint8
    assert many.labels.tolist() == [NO_CLASS] * 32
    assert len(np.unique(many.images.reshape(32, -1), axis=0)) == 32
    np.testing.assert_array_equal(study.sample(model, 7).images, many.images[:7])
    # Another batch size may round another way: by one grey level.
    other = build(training__batch_size=8).sample(model, 32).images
    assert np.max(np.abs(other.astype(int) - many.images)) <= 1
    other = build(seed=1).sample(model, 32).images
    assert np.mean(other != many.images) > 0.5


@pytest.mark.parametrize("part", ["noise", "latents"])
def test_samples_come_from_noise_and_from_latents(part, monkeypatch):
    study = build()
    variables = variables_of(study)
    key, index = jax.random.key(0), jnp.arange(4)
    before = jax.jit(study.generate)(variables, key, index)["images"]
    # Another key for one of the two.
    module = image_decoder if part == "noise" else generation
    other = functools.partial(normal_by_index, jax.random.key(1))
    monkeypatch.setattr(module, "normal_by_index", lambda key, *arguments: other(*arguments))
    # A new function: JAX would take the old one's program.
    generate = functools.partial(study.generate)
    assert np.any(jax.jit(generate)(variables, key, index)["images"] != before)


def straight(variables, x, t, latents, labels, *, train):
    """Straight paths, which Euler undoes exactly, in a direction that the latent gives."""
    assert labels is None
    return jnp.zeros_like(x) + latents[:, :1, None, None]


@pytest.mark.parametrize("count", [1, 1999, 2000, 2001, 10_000])
def test_images_of_all_classes_are_reconstructed_where_files_go_by_class(count):
    rows = evaluated_rows(count)
    assert len(rows) == min(count, 2000)
    assert rows[0] == 0
    assert rows[-1] >= count - np.ceil(count / 2000)
    steps = np.diff(rows)
    assert np.all((steps >= count // 2000) & (steps >= 1) & (steps <= np.ceil(count / 2000)))


def test_reconstruction_is_exact_for_straight_paths(digits):
    study = build()
    study.decoder.decoder = types.SimpleNamespace(apply=straight)
    variables = variables_of(study)
    model = Model(variables, study.context(variables, digits[0]))
    images = digits[1].images[:20]
    result = study.reconstruct(model, images)
    assert np.max(result["errors"]) < 1e-4
    np.testing.assert_array_equal(result["images"], images)


def test_images_are_reconstructed_given_random_latents_of_their_zones(digits):
    study = build()
    variables = variables_of(study)
    context = study.context(variables, digits[0])
    study._reconstruction = lambda variables, images, condition: {
        "latents": np.asarray(condition[0])
    }
    images = digits[1].images[:20]
    (latents,) = study.reconstruct(Model(variables, context), images).values()
    anchors = jnp.asarray(study.latents.all_anchors(variables, images))
    noise = normal_by_index(jax.random.key(0), Stream.IMAGE_LATENTS, jnp.arange(20), (4,))
    expected = zoning.latents_in_context(
        anchors, context["anchors"], noise, solver=zoning.DPMSolver(4)
    )
    np.testing.assert_allclose(latents, expected, atol=1e-5)


def test_evaluation_gives_finite_metrics_pictures_and_a_cache(digits, tmp_path, monkeypatch):
    monkeypatch.setattr(feature_network, "NUM_STEPS", 3)
    study = build(evaluation__num_samples=60)
    train, test = digits[0], jax.tree.map(lambda a: a[:20], digits[1])
    variables = variables_of(study)
    model = Model(variables, study.context(variables, train))
    metrics = study.evaluate(model, train, test, tmp_path)
    assert set(metrics) == {
        "fd_features", "precision", "recall", "sampling_evaluations", "reconstruction_l2"
    }  # fmt: skip
    assert all(type(value) is float for value in metrics.values())
    assert np.isfinite(list(metrics.values())).all()
    assert metrics["sampling_evaluations"] == 3
    expected = np.mean(study.reconstruct(model, test.images)["errors"])
    assert metrics["reconstruction_l2"] == pytest.approx(expected)
    names = {path.name for path in (tmp_path / "figures").iterdir()}
    assert names == {"samples.png", "reconstructions.png"}
    assert len(list((tmp_path / "cache").iterdir())) == 2
    # The network is trained once a run.
    monkeypatch.setattr(feature_network, "_train", None)
    assert study.evaluate(model, train, test, tmp_path) == metrics
