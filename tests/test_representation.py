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

from lzn_jax import data, plan
from lzn_jax.data.augment import augment
from lzn_jax.data.batches import TrainingBatches
from lzn_jax.data_types import Zones
from lzn_jax.evaluation import measurements, probes, representation
from lzn_jax.evaluation.representation import augmented_features
from lzn_jax.losses.contrastive import nt_xent
from lzn_jax.models import named, normal_by_index
from lzn_jax.trained_model import TrainedModel
from lzn_jax.zoning import Euler

KEY = jax.random.key(3)
SIZES = {
    "latent__dim": 8,
    "encoder__head_dim": 8,
    "latent__context_size": 32,
    "alignment__num_steps": 5,
    "evaluation__probe_protocol": "paper",
}


def views(**changes):
    return small.world("digits_repr", **SIZES | changes)


def digits():
    return views().digits


@pytest.fixture
def model():
    return views().model


@functools.cache
def _batch():
    with TrainingBatches(digits()[0], 16, 0, views().space.transform) as batches:
        return {"views": next(batches)["views"]}  # labels are never read


@functools.cache
def _anchors_by_hand():
    """Image by image, view by view."""
    space, variables = views().space, views().variables
    encode = jax.jit(functools.partial(space.modules["encoder"].apply, train=True))
    change = jax.jit(functools.partial(augment, settings=space.encoders["image"].augmentation))
    (key,) = jax.random.split(named(KEY, "image_encoder"), 1)
    anchors = np.empty((16, 2, 8))
    for i, pair in enumerate(_batch()["views"]):
        keys = jax.random.split(jax.random.fold_in(key, i), 2)
        for v in range(2):
            image = change(jnp.asarray(pair[v]), keys[v])
            anchors[i, v] = encode(variables["encoder"], image[None])[0]
    return anchors


def test_loss_aligns_latents_of_first_views_with_zones_of_second_views():
    anchors, config = _anchors_by_hand(), views().config
    noise = jax.random.normal(named(KEY, "image_latents_aligned"), (16, 8))
    noise *= config.latent.noise_scale
    latents = oracle.compute_latents(anchors[:, 0], np.float64(noise), solver=Euler(4))
    # A fifth of five steps is left out.
    expected, exact_metrics = oracle.alignment_loss(
        latents, anchors[:, 1], np.arange(16), solver=Euler(5), cutoff=0.2
    )
    loss, metrics = views().loss(views().variables, _batch(), KEY)
    assert float(loss) == pytest.approx(expected, rel=1e-4)
    for name, value in exact_metrics.items():
        assert float(metrics[name]) == pytest.approx(value, rel=1e-3)


@pytest.mark.parametrize(("name", "decoupled"), [("simclr", False), *small.slow(("dcl", True))])
def test_baselines_have_their_losses_on_the_same_views(name, decoupled):
    changes = {"objective": name, f"{name}__temperature": 0.3}
    space = small.World("digits_repr", **SIZES, **changes).space
    encoder = space.plan.encoders["image"]
    assert encoder.augmentation == views().space.encoders["image"].augmentation

    @jax.jit
    def losses(first, second):
        encoder.zones = lambda *_: (Zones(first), Zones(second))
        expected, _ = nt_xent(first, second, temperature=0.3, decoupled=decoupled)
        return plan.loss(space.plan, {}, {}, KEY), expected

    anchors = np.random.default_rng(0).normal(size=(2, 16, 8)).astype(np.float32)
    (loss, metrics), expected = losses(*anchors)
    assert float(loss) == pytest.approx(float(expected), rel=1e-4)
    assert set(metrics) == {"assignment_accuracy"}


def test_embedding_has_the_papers_four_features(model):
    images = digits()[1].images[:10]
    found = model.embed(images)
    x = data.normalise(jnp.asarray(images))
    encoder = model.space.modules["encoder"]
    encode = jax.jit(functools.partial(encoder.apply, train=False), static_argnames="features")
    for name in ("head", "backbone"):
        expected = encode(views().variables["encoder"], x, features=name)
        np.testing.assert_allclose(found[name], expected, rtol=1e-4, atol=1e-5)
    assert found["backbone"].shape == (10, 16)
    noise = normal_by_index(jax.random.key(0), "image_latents", jnp.arange(10), (8,))
    noise, own = np.float64(noise), np.zeros(1, int)
    context = np.asarray(model.model.context["image"].anchors)
    scales = {"latent": views().config.latent.noise_scale, "latent_centre": 0.0}
    for name, scale in scales.items():
        for i in range(10):
            anchors = np.float64(np.concatenate([found["head"][i : i + 1], context]))
            scaled = scale * noise[i : i + 1]
            expected = oracle.compute_latents(anchors, scaled, own, solver=Euler(4))
            np.testing.assert_allclose(found[name][i], expected[0], rtol=1e-4, atol=1e-4)


def test_sets_that_are_compared_do_not_share_noise(model):
    """Noise goes by place, so it would pair a training image with a test image."""
    images = digits()[1].images[:5]
    as_test = model.embed(images)
    as_train = model.embed(images, noise="train")
    np.testing.assert_allclose(as_test["latent_centre"], as_train["latent_centre"], atol=1e-6)
    similarity = np.sum(as_test["latent"] * as_train["latent"], axis=1)
    assert np.all(similarity < 0.9 * np.sum(as_test["latent"] ** 2, axis=1))


def test_an_images_features_do_not_depend_on_the_others(model):
    test = digits()[1]
    many, few = (model.embed(test.images[:count]) for count in (20, 3))
    for name, values in few.items():
        np.testing.assert_allclose(many[name][:3], values, rtol=1e-4, atol=1e-4, err_msg=name)


def test_noise_of_an_image_goes_by_its_index(model):
    anchors = np.random.default_rng(0).normal(size=(9, 8)).astype(np.float32)
    index = np.array([7, 2, 40])
    found = model.draw_latents(anchors[[7, 2, 5]], 1.0, index=index)
    every = model.draw_latents(anchors, 1.0)
    np.testing.assert_allclose(found[:2], every[[7, 2]], rtol=1e-4, atol=1e-4)
    assert np.all(np.abs(found[2] - every[5]) > 1e-3)


def test_simclrs_probe_learns_from_crops_alone(model):
    crops = digits()[1].images[:6]
    request = {"crops": crops, "index": np.arange(6)}
    plain = model.embed(crops)["head"]
    for protocol, is_plain in (("simclr", True), ("paper", False)):
        space = views(evaluation__probe_protocol=protocol).space
        encode = functools.partial(space.jitted(augmented_features), views().variables)
        found = space.in_batches(encode, request, description="")["head"]
        assert np.allclose(found, plain, rtol=1e-4, atol=1e-4) == is_plain


def test_images_of_one_class_have_no_accuracy(model, tmp_path, caplog, monkeypatch):
    caplog.set_level("INFO", "lzn_jax")
    values = views().config.to_dict()
    values["data"]["num_classes"] = 1
    monkeypatch.setattr(model.space, "config", FrozenConfigDict(values))
    some = digits()[1].images[:2]  # too few for a figure
    examples = data.Examples(some, np.zeros(2, np.int32))
    found = measurements.evaluate(model, examples, examples, tmp_path)
    assert found == {"test_examples": 2}
    assert "they need labels of two classes" in caplog.text


def test_latents_of_training_and_test_images_have_noise_of_their_own(model, tmp_path, monkeypatch):
    names, by_name = [], TrainedModel.latent_features

    def spy(self, *arguments, noise=None, **options):
        names.append(noise)
        return by_name(self, *arguments, noise=noise, **options)

    def probe(model, train, references):
        with contextlib.closing(representation._augmented_batches(model, train, 4)) as batches:
            next(batches)
        return collections.defaultdict(lambda: lambda features: np.eye(10)[[0, 0]])

    small.without_pictures(monkeypatch)
    monkeypatch.setattr(TrainedModel, "latent_features", spy)
    monkeypatch.setattr(representation, "_fit_probes", probe)
    train, test = (
        data.Examples(x.images[:n], x.labels[:n]) for x, n in zip(digits(), (8, 2), strict=True)
    )
    representation.measure(model, train, test, tmp_path)
    tested, *trained = names
    assert len(trained) == 2
    assert tested not in trained


@pytest.mark.parametrize("protocol", ["cached", *small.slow("simclr")])
def test_evaluation_measures_four_features(protocol, model, tmp_path, monkeypatch):
    # Fast enough for features as weak as those of a tiny fresh network.
    short = probes.Protocol(
        epochs=20, batch_size=64, distorts=False, optimizer=lambda *_: optax.adam(0.3)
    )
    monkeypatch.setitem(probes.PROTOCOLS, "simclr", short)
    values = views().config.to_dict()
    values["evaluation"]["probe_protocol"] = protocol
    values["training"]["batch_size"] = 64
    monkeypatch.setattr(model.space, "config", FrozenConfigDict(values))
    train, test = (data.Examples(split.images[:300], split.labels[:300]) for split in digits())
    metrics = measurements.evaluate(model, train, test, tmp_path)
    suffixes = ("", "_head", "_latent", "_latent_centre")
    names = {f"{m}{s}" for m in ("linear_probe_top1", "linear_probe_top5") for s in suffixes}
    assert set(metrics) == names | {f"knn_top1{s}" for s in suffixes} | {"test_examples"}
    assert (tmp_path / "figures" / "embedding.png").stat().st_size > 0
    # Untrained convolutions tell digits apart, crops of them less; chance is a tenth.
    assert metrics["linear_probe_top1"] > (0.4 if protocol == "cached" else 0.2)
    assert metrics["knn_top1"] > 0.4
