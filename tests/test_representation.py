"""The representation study: its loss from parts, and what it must not depend on."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import small
from ml_collections import FrozenConfigDict
from zoning import oracle

from lzn_jax import data, studies
from lzn_jax.data.augment import augment
from lzn_jax.evaluation import probes
from lzn_jax.losses.contrastive import nt_xent
from lzn_jax.randomness import Stream, normal_by_index
from lzn_jax.run import sharding


def _config(**changes):
    sizes = {
        "latent__dim": 8,
        "encoder__head_dim": 8,
        "latent__context_size": 32,
        "alignment__num_steps": 5,
        "training__batch_size": 16,
    }
    return small.config("configs/digits_repr.py", **(sizes | changes))


def _study(num_devices=1, **changes):
    config = _config(**changes)
    return studies.build(config, sharding.make_mesh(8, jax.devices()[:num_devices]))


@functools.cache
def _variables():
    return small.shaken(_study().init(jax.random.key(0)), 0.1)


@functools.cache
def _batch():
    train, _ = studies.load_data(_config())
    batches = data.TrainingBatches(train, 16, 0, _study().transform)
    with batches:
        return {"views": next(batches)["views"]}  # labels are never read


KEY = jax.random.key(3)


@functools.cache
def _anchors_by_hand():
    """Image by image, view by view."""
    study, variables = _study(), _variables()
    augment_key, _ = jax.random.split(KEY)
    encode = jax.jit(functools.partial(study.modules["encoder"].apply, train=True))
    change = jax.jit(functools.partial(augment, settings=study.augmentation))
    anchors = np.empty((16, 2, 8))
    for i, views in enumerate(_batch()["views"]):
        keys = jax.random.split(jax.random.fold_in(augment_key, i), 2)
        for v in range(2):
            image = change(jnp.asarray(views[v]), keys[v])
            anchors[i, v] = encode(variables["encoder"], image[None])[0]
    return anchors


def test_views_are_encoded_one_by_one():
    augment_key, _ = jax.random.split(KEY)
    anchors = jax.jit(_study().view_anchors)(_variables(), _batch()["views"], augment_key)
    np.testing.assert_allclose(anchors, _anchors_by_hand(), rtol=1e-4, atol=1e-4)


def test_loss_aligns_latents_of_first_views_with_zones_of_second_views():
    anchors = _anchors_by_hand()
    _, latent_key = jax.random.split(KEY)
    noise = _config().latent.noise_scale * jax.random.normal(latent_key, (16, 8))
    targets = np.arange(16)

    def exact(first, second, noise):
        return oracle.euler_decode(oracle.euler_latents(first, noise, targets, 4), second, 5)

    ends, log_p = oracle.in_float64(exact, anchors[:, 0], anchors[:, 1], noise)
    own = log_p[:, targets, targets]
    # A fifth of five steps is left out.
    expected = -np.mean(np.max(own[1:], axis=0))
    loss, metrics = jax.jit(_study().loss)(_variables(), _batch(), KEY)
    assert float(loss) == pytest.approx(expected, rel=1e-4)
    found = np.argmax(log_p[-1], axis=1) == targets
    assert float(metrics["assignment_accuracy"]) == pytest.approx(found.mean())
    error = np.linalg.norm(ends - anchors[:, 1], axis=1) / np.linalg.norm(anchors[:, 1], axis=1)
    assert float(metrics["ode_error"]) == pytest.approx(error.mean(), rel=1e-3)


def test_baseline_has_simclrs_loss_on_the_same_views():
    anchors = jnp.asarray(_anchors_by_hand(), jnp.float32)
    expected, _ = nt_xent(anchors[:, 0], anchors[:, 1], temperature=0.3)
    study = _study(objective="simclr", simclr__temperature=0.3)
    loss, metrics = jax.jit(study.loss)(_variables(), _batch(), KEY)
    assert float(loss) == pytest.approx(float(expected), rel=1e-4)
    assert set(metrics) == {"assignment_accuracy"}


@pytest.mark.parametrize("objective", ["lzn", "simclr"])
@pytest.mark.parametrize(("num_devices", "size"), [(1, 8), (8, None), (8, 8)])
def test_loss_and_gradient_do_not_depend_on_devices_or_micro_batches(objective, num_devices, size):
    def value_and_gradient(num_devices, size):
        study = _study(num_devices, objective=objective, training__microbatch_size=size)
        mesh = sharding.make_mesh(8, jax.devices()[:num_devices])
        batch = jax.device_put(_batch(), sharding.split(mesh))
        variables = jax.device_put(_variables(), sharding.replicated(mesh))
        with jax.set_mesh(mesh):
            return jax.jit(jax.value_and_grad(lambda v: study.loss(v, batch, KEY)[0]))(variables)

    loss, gradient = value_and_gradient(1, None)
    other_loss, other_gradient = value_and_gradient(num_devices, size)
    assert float(other_loss) == pytest.approx(float(loss), rel=1e-5)
    scale = max(float(jnp.abs(a).max()) for a in jax.tree.leaves(gradient))
    for a, b in zip(jax.tree.leaves(gradient), jax.tree.leaves(other_gradient), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-4, atol=1e-5 * scale)


def _model(study, train):
    return studies.Model(_variables(), study.context(_variables(), train))


def test_embedding_has_the_papers_four_features():
    study = _study()
    train, test = studies.load_data(_config())
    model, images = _model(study, train), test.images[:10]
    found = study.embed(model, images)
    x = data.normalise(jnp.asarray(images))
    encoder = study.modules["encoder"]
    for name in ("head", "backbone"):
        expected = encoder.apply(_variables()["encoder"], x, train=False, features=name)
        np.testing.assert_allclose(found[name], expected, rtol=1e-4, atol=1e-5)
    assert found["backbone"].shape == (10, 16)
    noise = normal_by_index(jax.random.key(0), Stream.IMAGE_LATENTS, jnp.arange(10), (8,))

    def exact(anchors, noise):
        return oracle.euler_latents(anchors, noise, np.zeros(1, int), 4)

    scales = {"latent": _config().latent.noise_scale, "latent_centre": 0.0}
    for name, scale in scales.items():
        for i in range(10):
            anchors = np.concatenate([found["head"][i : i + 1], model.context["anchors"]])
            expected = oracle.in_float64(exact, anchors, scale * noise[i : i + 1])
            np.testing.assert_allclose(found[name][i], expected[0], rtol=1e-4, atol=1e-4)


def test_sets_that_are_compared_do_not_share_noise():
    """Noise goes by place, so it would pair a training image with a test image."""
    study = _study()
    train, test = studies.load_data(_config())
    model, images = _model(study, train), test.images[:5]
    as_test, as_train = study.embed(model, images), study.embed(model, images, Stream.TRAIN_LATENTS)
    np.testing.assert_allclose(as_test["latent_centre"], as_train["latent_centre"], atol=1e-6)
    similarity = np.sum(as_test["latent"] * as_train["latent"], axis=1)
    assert np.all(similarity < 0.9 * np.sum(as_test["latent"] ** 2, axis=1))


def test_an_images_features_do_not_depend_on_the_others():
    study = _study()
    train, test = studies.load_data(_config())
    model = _model(study, train)
    many, few = study.embed(model, test.images[:20]), study.embed(model, test.images[:3])
    for name, values in few.items():
        np.testing.assert_allclose(many[name][:3], values, rtol=1e-4, atol=1e-4, err_msg=name)


def test_noise_of_an_image_goes_by_its_index():
    study = _study()
    model = _model(study, studies.load_data(_config())[0])
    anchors = np.random.default_rng(0).normal(size=(9, 8)).astype(np.float32)
    index = np.array([7, 2, 40])
    found = study.latents.features(model.context, anchors[[7, 2, 5]], index=index)["latent"]
    every = study.latents.features(model.context, anchors)["latent"]
    np.testing.assert_allclose(found[:2], every[[7, 2]], rtol=1e-4, atol=1e-4)
    assert np.all(np.abs(found[2] - every[5]) > 1e-3)


def test_simclrs_probe_learns_from_crops_alone():
    crops = studies.load_data(_config())[1].images[:6]
    request = {"crops": jnp.asarray(crops), "index": jnp.arange(6)}
    plain = _study().features(_variables(), jnp.asarray(crops))["head"]
    for protocol, is_plain in (("simclr", True), ("paper", False)):
        study = _study(evaluation__probe_protocol=protocol)
        found = study.augmented_features(_variables(), request)["head"]
        assert np.allclose(found, plain, rtol=1e-4, atol=1e-4) == is_plain


def test_images_of_one_class_have_no_accuracy(tmp_path, caplog):
    caplog.set_level("INFO", "lzn_jax")
    values = _config().to_dict()
    values["data"]["num_classes"] = 1
    study = studies.build(FrozenConfigDict(values), sharding.make_mesh(8, jax.devices()[:1]))
    some = studies.load_data(_config())[1].images[:2]  # too few for a figure
    examples = data.Examples(some, np.zeros(2, np.int32))
    assert study.evaluate(studies.Model(_variables(), {}), examples, examples, tmp_path) == {}
    assert "they need labels of two classes" in caplog.text


@pytest.mark.parametrize("protocol", ["cached", "simclr"])
def test_evaluation_measures_four_features(protocol, tmp_path, monkeypatch):
    # Fast enough for features as weak as those of a tiny fresh network.
    short = probes.Protocol(
        epochs=40, batch_size=128, distorts=False, optimizer=lambda *_: optax.adam(0.3)
    )
    monkeypatch.setitem(probes.PROTOCOLS, "simclr", short)
    study = _study(evaluation__probe_protocol=protocol)
    train, test = (
        data.Examples(split.images[:300], split.labels[:300])
        for split in studies.load_data(_config())
    )
    metrics = study.evaluate(_model(study, train), train, test, tmp_path)
    suffixes = ("", "_head", "_latent", "_latent_centre")
    names = {f"{m}{s}" for m in ("linear_probe_top1", "linear_probe_top5") for s in suffixes}
    assert set(metrics) == names | {f"knn_top1{s}" for s in suffixes}
    assert (tmp_path / "figures" / "embedding.png").stat().st_size > 0
    # Untrained convolutions tell digits apart, crops of them less; chance is a tenth.
    assert metrics["linear_probe_top1"] > (0.4 if protocol == "cached" else 0.2)
    assert metrics["knn_top1"] > 0.4
