"""Two views of images in one space: its loss from parts, and what it must not depend on."""

import collections
import contextlib
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import small
from ml_collections import FrozenConfigDict
from zoning import oracle

from lzn_jax import data
from lzn_jax.data.augment import augment
from lzn_jax.evaluation import measurements, probes, representation
from lzn_jax.evaluation.representation import augmented_features
from lzn_jax.latent_space import LatentSpace, Model
from lzn_jax.losses.contrastive import nt_xent
from lzn_jax.models import named, normal_by_index
from lzn_jax.run import devices
from lzn_jax.trained_model import TrainedModel
from lzn_jax.zoning import Euler
from lzn_jax.zoning import plain as plain_module


def _config(**changes):
    sizes = {
        "latent__dim": 8,
        "encoder__head_dim": 8,
        "latent__context_size": 32,
        "alignment__num_steps": 5,
        "training__batch_size": 16,
    }
    return small.config("configs/digits_repr.py", **(sizes | changes))


def _mesh(num_devices):
    return devices.make_mesh(8, jax.devices()[:num_devices])


def _space(num_devices=1, **changes):
    return LatentSpace(_config(**changes), _mesh(num_devices))


@functools.cache
def _variables():
    return small.shaken(jax.jit(_space().init)(jax.random.key(0)), 0.1)


@functools.cache
def _digits():
    return data.load_data(_config())


@pytest.fixture(scope="module")
def model():
    """Its programs are compiled once."""
    space = _space()
    return TrainedModel(space, Model(_variables(), space.context(_variables(), _digits()[0])), 0)


@functools.cache
def _batch():
    batches = data.TrainingBatches(_digits()[0], 16, 0, _space().transform)
    with batches:
        return {"views": next(batches)["views"]}  # labels are never read


KEY = jax.random.key(3)


def _augment_key():
    return jax.random.split(named(KEY, "image_encoder"), 1)[0]


@functools.cache
def _anchors_by_hand():
    """Image by image, view by view."""
    space, variables = _space(), _variables()
    encode = jax.jit(functools.partial(space.modules["encoder"].apply, train=True))
    change = jax.jit(functools.partial(augment, settings=space.encoders["image"].augmentation))
    anchors = np.empty((16, 2, 8))
    for i, views in enumerate(_batch()["views"]):
        keys = jax.random.split(jax.random.fold_in(_augment_key(), i), 2)
        for v in range(2):
            image = change(jnp.asarray(views[v]), keys[v])
            anchors[i, v] = encode(variables["encoder"], image[None])[0]
    return anchors


@functools.cache
def _losses(num_devices=1, size=None):
    """Anchors, each objective's (loss, metrics) on them, and the gradient of the losses' sum."""
    changes = {f"{name}__temperature": 0.3 for name in ("simclr", "dcl")}
    changes["training__microbatch_size"] = size
    spaces = {
        name: _space(num_devices, objective=name, **changes) for name in ("lzn", "simclr", "dcl")
    }
    batch = jax.device_put(_batch(), devices.split(_mesh(num_devices)))

    @jax.jit
    @functools.partial(jax.grad, has_aux=True)
    def gradient(variables, batch):
        encode = spaces["lzn"].encoders["image"].view_anchors
        anchors = encode(variables, batch["views"], _augment_key())
        for space in spaces.values():
            space.encoders["image"].view_anchors = lambda *_: anchors
        found = {name: space.loss(variables, batch, KEY) for name, space in spaces.items()}
        return sum(loss for loss, _ in found.values()), (anchors, found)

    with jax.set_mesh(_mesh(num_devices)):
        variables = jax.device_put(_variables(), devices.replicated(_mesh(num_devices)))
        gradients, (anchors, found) = gradient(variables, batch)
    return anchors, found, gradients


def test_views_are_encoded_one_by_one():
    anchors, _, _ = _losses()
    np.testing.assert_allclose(anchors, _anchors_by_hand(), rtol=1e-4, atol=1e-4)


def test_loss_aligns_latents_of_first_views_with_zones_of_second_views():
    anchors = _anchors_by_hand()
    noise = jax.random.normal(named(KEY, "image_latents_aligned"), (16, 8))
    noise *= _config().latent.noise_scale

    def exact(first, second, noise):
        latents = plain_module.compute_latents(first, noise, solver=Euler(4))
        # A fifth of five steps is left out.
        return plain_module.alignment_loss(
            latents, second, np.arange(16), solver=Euler(5), cutoff=0.2
        )

    expected, exact_metrics = oracle.in_float64(exact, anchors[:, 0], anchors[:, 1], noise)
    loss, metrics = _losses()[1]["lzn"]
    assert float(loss) == pytest.approx(expected, rel=1e-4)
    for name, value in exact_metrics.items():
        assert float(metrics[name]) == pytest.approx(value, rel=1e-3)


@pytest.mark.parametrize(("name", "decoupled"), [("simclr", False), ("dcl", True)])
def test_baselines_have_their_losses_on_the_same_views(name, decoupled):
    anchors = jnp.asarray(_anchors_by_hand(), jnp.float32)
    exact = jax.jit(functools.partial(nt_xent, temperature=0.3, decoupled=decoupled))
    expected, _ = exact(anchors[:, 0], anchors[:, 1])
    loss, metrics = _losses()[1][name]
    assert float(loss) == pytest.approx(float(expected), rel=1e-4)
    assert set(metrics) == {"assignment_accuracy"}


@pytest.mark.parametrize(("num_devices", "size"), [(1, 8), (8, None), (8, 8)])
def test_losses_and_gradient_do_not_depend_on_devices_or_micro_batches(num_devices, size):
    _, losses, gradient = _losses()
    _, other_losses, other_gradient = _losses(num_devices, size)
    for objective, (loss, _) in losses.items():
        assert float(other_losses[objective][0]) == pytest.approx(float(loss), rel=1e-5)
    scale = max(float(np.abs(a).max()) for a in jax.tree.leaves(gradient))
    for a, b in zip(jax.tree.leaves(gradient), jax.tree.leaves(other_gradient), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-4, atol=1e-5 * scale)


def test_embedding_has_the_papers_four_features(model):
    images = _digits()[1].images[:10]
    found = model.embed(images)
    x = data.normalise(jnp.asarray(images))
    encoder = model.space.modules["encoder"]
    encode = jax.jit(functools.partial(encoder.apply, train=False), static_argnames="features")
    for name in ("head", "backbone"):
        expected = encode(_variables()["encoder"], x, features=name)
        np.testing.assert_allclose(found[name], expected, rtol=1e-4, atol=1e-5)
    assert found["backbone"].shape == (10, 16)
    noise = normal_by_index(jax.random.key(0), "image_latents", jnp.arange(10), (8,))

    def exact(anchors, noise):
        return plain_module.compute_latents(anchors, noise, np.zeros(1, int), solver=Euler(4))

    scales = {"latent": _config().latent.noise_scale, "latent_centre": 0.0}
    for name, scale in scales.items():
        for i in range(10):
            anchors = np.concatenate([found["head"][i : i + 1], model.model.context["anchors"]])
            expected = oracle.in_float64(exact, anchors, scale * noise[i : i + 1])
            np.testing.assert_allclose(found[name][i], expected[0], rtol=1e-4, atol=1e-4)


def test_sets_that_are_compared_do_not_share_noise(model):
    """Noise goes by place, so it would pair a training image with a test image."""
    images = _digits()[1].images[:5]
    as_test = model.embed(images)
    as_train = model.embed(images, noise="train")
    np.testing.assert_allclose(as_test["latent_centre"], as_train["latent_centre"], atol=1e-6)
    similarity = np.sum(as_test["latent"] * as_train["latent"], axis=1)
    assert np.all(similarity < 0.9 * np.sum(as_test["latent"] ** 2, axis=1))


def test_an_images_features_do_not_depend_on_the_others(model):
    test = _digits()[1]
    many, few = (model.embed(test.images[:count]) for count in (20, 3))
    for name, values in few.items():
        np.testing.assert_allclose(many[name][:3], values, rtol=1e-4, atol=1e-4, err_msg=name)


def test_noise_of_an_image_goes_by_its_index(model):
    anchors = np.random.default_rng(0).normal(size=(9, 8)).astype(np.float32)
    index = np.array([7, 2, 40])
    found = model.latents(anchors[[7, 2, 5]], 1.0, index=index)
    every = model.latents(anchors, 1.0)
    np.testing.assert_allclose(found[:2], every[[7, 2]], rtol=1e-4, atol=1e-4)
    assert np.all(np.abs(found[2] - every[5]) > 1e-3)


def test_simclrs_probe_learns_from_crops_alone(model):
    crops = _digits()[1].images[:6]
    request = {"crops": jnp.asarray(crops), "index": jnp.arange(6)}
    features = jax.jit(model.space.encoders["image"].features)
    plain = features(_variables(), jnp.asarray(crops))["head"]
    for protocol, is_plain in (("simclr", True), ("paper", False)):
        space = _space(evaluation__probe_protocol=protocol)
        found = space.jitted(augmented_features)(_variables(), request)["head"]
        assert np.allclose(found, plain, rtol=1e-4, atol=1e-4) == is_plain


def test_images_of_one_class_have_no_accuracy(model, tmp_path, caplog, monkeypatch):
    caplog.set_level("INFO", "lzn_jax")
    values = _config().to_dict()
    values["data"]["num_classes"] = 1
    monkeypatch.setattr(model.space, "config", FrozenConfigDict(values))
    some = _digits()[1].images[:2]  # too few for a figure
    examples = data.Examples(some, np.zeros(2, np.int32))
    found = measurements.evaluate(model, examples, examples, tmp_path)
    assert found == {"test_examples": 2}
    assert "they need labels of two classes" in caplog.text


def test_latents_of_training_and_test_images_have_noise_of_their_own(model, tmp_path, monkeypatch):
    names, by_name = [], TrainedModel.latents_by_name

    def spy(self, *arguments, noise=None, **options):
        names.append(noise)
        return by_name(self, *arguments, noise=noise, **options)

    def probe(model, train, references):
        with contextlib.closing(representation._augmented_batches(model, train, 4)) as batches:
            next(batches)
        return collections.defaultdict(lambda: lambda features: np.eye(10)[[0, 0]])

    small.without_pictures(monkeypatch)
    monkeypatch.setattr(TrainedModel, "latents_by_name", spy)
    monkeypatch.setattr(representation, "_fit_probes", probe)
    train, test = (
        data.Examples(x.images[:n], x.labels[:n]) for x, n in zip(_digits(), (8, 2), strict=True)
    )
    representation.measure(model, train, test, tmp_path)
    tested, *trained = names
    assert len(trained) == 2
    assert tested not in trained


@pytest.mark.parametrize("protocol", ["cached", "simclr"])
def test_evaluation_measures_four_features(protocol, model, tmp_path, monkeypatch):
    # Fast enough for features as weak as those of a tiny fresh network.
    short = probes.Protocol(
        epochs=20, batch_size=64, distorts=False, optimizer=lambda *_: optax.adam(0.3)
    )
    monkeypatch.setitem(probes.PROTOCOLS, "simclr", short)
    if protocol == "simclr":
        space = _space(evaluation__probe_protocol=protocol, training__batch_size=64)
        model = TrainedModel(space, model.model, 0)
    train, test = (data.Examples(split.images[:300], split.labels[:300]) for split in _digits())
    metrics = measurements.evaluate(model, train, test, tmp_path)
    suffixes = ("", "_head", "_latent", "_latent_centre")
    names = {f"{m}{s}" for m in ("linear_probe_top1", "linear_probe_top5") for s in suffixes}
    assert set(metrics) == names | {f"knn_top1{s}" for s in suffixes} | {"test_examples"}
    assert (tmp_path / "figures" / "embedding.png").stat().st_size > 0
    # Untrained convolutions tell digits apart, crops of them less; chance is a tenth.
    assert metrics["linear_probe_top1"] > (0.4 if protocol == "cached" else 0.2)
    assert metrics["knn_top1"] > 0.4
