"""A trained run from Python: what is loaded, what its methods give, what they refuse."""

import dataclasses
import functools
import json
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small

import lzn_jax
from lzn_jax import data, inference, trained_model, zoning
from lzn_jax.data_types import Model, context_rows
from lzn_jax.errors import UserError
from lzn_jax.models import normal_by_index
from lzn_jax.run import batching, devices
from lzn_jax.trained_model import TrainedModel, paths

CONFIG = Path(__file__).parent.parent / "configs" / "digits_joint.py"
KEY = jax.random.key(7)
circle = jax.jit(trained_model.great_circle)


@pytest.fixture(scope="module")
def config():
    return small.config(CONFIG, training__batch_size=16)


@pytest.fixture(scope="module")
def workdir(config, tmp_path_factory):
    return small.untrained_run(tmp_path_factory.mktemp("joint"), config, steps=(2, 4))


@pytest.fixture(scope="module")
def model(workdir):
    with jax.set_mesh(devices.make_mesh(1)):
        return lzn_jax.load(workdir)


@pytest.fixture(scope="module")
def images(config):
    return data.load(config.data, "test").images[:20]


def test_the_package_is_imported_without_jax():
    code = "import sys, lzn_jax; assert 'jax' not in sys.modules; lzn_jax.nothing"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "AttributeError: module 'lzn_jax' has no attribute 'nothing'" in result.stderr


def test_the_newest_checkpoint_or_the_one_that_is_named(workdir, model, config):
    assert model.step == 4
    older = lzn_jax.load(str(workdir / "checkpoints" / "2"))
    assert older.step == 2
    pairs = zip(*(jax.tree.leaves(m.model.variables) for m in (model, older)), strict=True)
    assert any(np.any(np.asarray(a) != np.asarray(b)) for a, b in pairs)
    assert model.config == config
    assert model.config.evaluation.noise_scales == ()  # a tuple again


def test_a_notebook_shows_one_line_of_a_model(model):
    assert repr(model) == "TrainedModel(joint on digits, step 4)"


def test_samples_that_the_decoder_explains_badly_are_far(model, images):
    rows = {"samples": images, "index": np.arange(20)}
    misfits = model._run(inference.misfits, rows, "", model.model, source="image")
    context = model.model.context["image"]

    def far(limit):
        limited = model.model._replace(context={"image": context._replace(limit=limit)})
        return dataclasses.replace(model, model=limited).are_far(images)

    order = np.sort(misfits)
    np.testing.assert_array_equal(far((order[11] + order[12]) / 2), misfits > order[11])
    assert np.all(far(np.nan))  # of networks that have diverged
    np.testing.assert_array_equal(model.classify(images).far, far(context.limit))


def test_the_limit_is_that_of_the_context(model):
    train, encoder = data.load(model.config.data, "train"), model.space.encoders["image"]
    rows = context_rows(encoder.seed, len(train.labels), encoder.context_size)
    request = {"samples": train.images[rows], "index": rows}
    misfits = model._run(inference.misfits, request, "", model.model, source="image")
    limit = inference.MARGIN * np.quantile(misfits, inference.NEAR_SHARE)
    assert model.model.context["image"].limit == pytest.approx(limit, rel=1e-5)


def test_nothing_is_far_without_context_anchors(images):
    world = small.world("digits_joint", latent__context_size=0)
    assert world.space.measured == []
    assert world.model.are_far(images) is world.model.classify(images).far is None


def test_latents_are_those_of_the_zoning_functions(model, images):

    @jax.jit
    def computed(variables, context, images):
        anchors = model.space.modules["encoder"].apply(
            variables, data.normalise(images), train=False
        )
        noise = normal_by_index(KEY, "image_latents", jnp.arange(20), (4,))
        return anchors, zoning.latents_in_context(anchors, context, noise, solver=zoning.Euler(4))

    found = model.encode(jnp.asarray(images), KEY)
    context = model.model.context["image"].anchors
    anchors, expected = computed(model.model.variables["encoder"], context, images)
    np.testing.assert_allclose(model.anchors(images), anchors, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert type(found) is np.ndarray
    # An image's latent is its own, at α = 0 whatever the key.
    np.testing.assert_allclose(model.encode(images[:1], KEY), found[:1], atol=1e-4)
    assert np.all(np.any(model.encode(images, jax.random.key(8)) != found, axis=1))
    np.testing.assert_array_equal(model.encode(images), model.encode(images, None))
    centres = [model.encode(images, key, noise_scale=0.0) for key in (KEY, None)]
    np.testing.assert_array_equal(*centres)
    np.testing.assert_allclose(model.embed(images)["latent_centre"], centres[0], atol=1e-5)


def test_samples_of_a_key_a_number_and_a_class(model):
    first = model.sample(20, KEY)
    assert first.labels.tolist() == list(range(10)) * 2
    np.testing.assert_array_equal(model.sample(20, None).images[:5], model.sample(5, None).images)
    np.testing.assert_array_equal(model.sample(2).images, model.sample(2, None).images)
    seeded = model.sample(5, jax.random.key(model.config.seed))
    np.testing.assert_array_equal(seeded.images, model.sample(5, None).images)
    assert np.mean(model.sample(20, jax.random.key(8)).images != first.images) > 0.5
    asked = model.sample(3, KEY, labels=jnp.array([0, 5, 2]))
    assert asked.labels.tolist() == [0, 5, 2]
    np.testing.assert_array_equal(asked.images[[0, 2]], first.images[[0, 2]])
    assert np.any(asked.images[1] != first.images[1])


def test_interpolation_goes_from_reconstruction_to_reconstruction(model, images, monkeypatch):
    monkeypatch.setattr(trained_model, "great_circle", circle)
    found = model.interpolate(images[:2], [3, 4], KEY)
    ends = model.reconstruct(images[:2], [3, 4], KEY)
    np.testing.assert_allclose(found["images"][[0, -1]].astype(int), ends["images"], atol=1)
    np.testing.assert_allclose(
        found["latents"][[0, -1]], model.encode(images[:2], KEY, noise_scale=1.0), atol=1e-4
    )
    assert ends["errors"].shape == (2,)
    assert found["images"].shape == (11, 8, 8, 1)


def test_all_devices_find_what_one_finds_which_a_users_mesh_names(workdir, model, images):
    every = lzn_jax.load(workdir)
    with jax.set_mesh(devices.make_mesh(1, jax.devices()[3:4])):
        one = lzn_jax.load(workdir)
    places = [jax.tree.leaves(each.model.variables)[0].sharding for each in (every, one)]
    assert [place.device_set for place in places] == [set(jax.devices()), {jax.devices()[3]}]
    np.testing.assert_allclose(every.encode(images, KEY), model.encode(images, KEY), atol=1e-4)


def test_every_method_shows_its_progress(model, images, monkeypatch):
    shown, show = [], batching.progress

    def progress(count, description, **settings):
        shown.append((description, count))
        return show(count, description, **settings)

    monkeypatch.setattr(batching, "progress", progress)
    for call, expected in (
        (lambda: model.anchors(images), ["encoding"]),
        (lambda: model.encode(images, KEY), ["encoding"]),
        (lambda: model.embed(images), ["encoding", "zoning", "zoning"]),
        (lambda: model.classify(images), ["image to label", "measuring"]),
        (lambda: model.sample(20, KEY), ["label to image"]),
    ):
        shown.clear()
        call()
        assert shown == [(name, 20) for name in expected]


def test_a_great_circle_has_equal_angles_and_keeps_the_norm():
    ends = np.random.default_rng(7).standard_normal((2, 3, 50), np.float32)
    ends /= np.linalg.norm(ends.reshape(2, -1), axis=1)[:, None, None]
    weights = np.linspace(0, 1, 5, dtype=np.float32)
    points = np.asarray(circle(ends, weights)).reshape(5, -1)
    np.testing.assert_allclose(np.linalg.norm(points, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(points[[0, 4]], ends.reshape(2, -1), atol=1e-6)
    cosines = np.sum(points[1:] * points[:-1], axis=1)
    np.testing.assert_allclose(cosines, cosines[0], atol=1e-5)
    # Ends without a great circle of their own.
    for factor in (3.0, -1.0):
        points = circle(np.stack([ends[0], factor * ends[0]]), weights)
        np.testing.assert_allclose(points[2], (1 + factor) / 2 * ends[0], atol=1e-5)


def test_between_two_images_latents_and_noise_follow_great_circles_and_classes_a_line(monkeypatch):
    monkeypatch.setattr(trained_model, "great_circle", circle)
    ends, half = np.array([[3.0, 0, 0], [0, 3, 0]], np.float32), 3 / np.sqrt(2)
    weights, (noise, (latents, classes)) = paths(ends, (ends, np.eye(2, dtype=np.float32)))
    assert weights[5] == 0.5
    np.testing.assert_allclose(noise[5], [half, half, 0], atol=1e-5)
    np.testing.assert_allclose(latents[5], [half, half, 0], atol=1e-5)
    np.testing.assert_allclose(classes[5], [0.5, 0.5], atol=1e-5)


def test_images_and_labels_that_do_not_fit_are_one_line(model, images):
    for bad, message in (
        (images.astype(np.float32), r"got float32 \(20, 8, 8, 1\); lzn_jax.data.to_uint8"),
        (images[0], r"\(n, 8, 8, 1\) of uint8, 0 ... 255, got uint8 \(8, 8, 1\)$"),
        (images.astype(int), "got int64"),
        (images[:, :4], r"got uint8 \(20, 4, 8, 1\)"),
        (images[:0], r"got uint8 \(0, 8, 8, 1\)"),
    ):
        for method in (model.anchors, model.classify, model.reconstruct, model.embed):
            with pytest.raises(UserError, match=message) as refusal:
                method(bad)
            assert "\n" not in str(refusal.value)
    for labels, message in (
        ([0, 10], r"there is no class 10, the run has classes 0 to 9$"),
        ([0, -1], r"there is no class -1, the run has classes 0 to 9$"),
        ([0.0, 1.0], r"labels must be integers \(n,\), got float64 \(2,\)"),
        ([1], "labels must be 2 integers, one per image"),
    ):
        with pytest.raises(UserError, match=message):
            model.sample(2, KEY, labels=np.array(labels))
    with pytest.raises(UserError, match="number of samples must be at least 1, got 0"):
        model.sample(0, KEY)
    with pytest.raises(UserError, match="between two images, got 3"):
        model.interpolate(images[:3])


@pytest.mark.parametrize(
    ("name", "changes", "methods", "message"),
    [
        (
            "digits_repr",
            {},
            "reconstruct interpolate classify class_probabilities siblings sample",
            "the run does not .*; it translates nothing",
        ),
        ("digits_gen", {"latent__enabled": False}, "encode embed", r"latent\.enabled=False"),
        (
            "digits_text",
            {"objective": "infonce"},
            "classify class_probabilities",
            "does not translate image to label; it translates nothing",
        ),
        (
            "digits_joint",
            {"training__generation_weight": 0},
            "reconstruct interpolate siblings sample",
            "does not generate image; it translates image to label",
        ),
    ],
)
def test_what_a_study_cannot_do_is_one_line(name, changes, methods, message, images):
    model = TrainedModel(small.world(name, **changes).space, Model({}, {}), 0)
    for method in methods.split():
        with pytest.raises(UserError, match=message):
            getattr(model, method)(2 if method == "sample" else images[:2])


def drawn(name, **changes):
    """A model of random weights and context anchors."""
    space = small.world(name, **changes).space
    return TrainedModel(space, Model(**jax.device_put(small.drawn(space.model_shapes()))), 0)


def test_baselines_do_the_rest(images):
    assert drawn("digits_repr").embed(images)["backbone"].shape == (20, 16)
    flow = drawn("digits_gen", latent__enabled=False)
    assert flow.sample(2, KEY).labels.tolist() == [-1, -1]
    assert set(flow.interpolate(images[:2])) == {"images", "weights"}  # through noise alone
    with pytest.raises(UserError, match="has no classes"):
        flow.sample(2, KEY, labels=[0, 0])
    classifier = drawn("digits_joint", training__generation_weight=0)
    assert classifier.classify(images).classes.shape == (20,)


def test_what_is_no_run_is_one_line(workdir, tmp_path):
    with pytest.raises(UserError, match=f"{tmp_path} is no run: name the folder that holds config"):
        lzn_jax.load(tmp_path)
    with pytest.raises(UserError, match=r"no checkpoint .*checkpoints/3"):
        lzn_jax.load(workdir / "checkpoints" / "3")
    shutil.copy(workdir / "config.json", tmp_path)
    with pytest.raises(UserError, match=r"no checkpoint .*checkpoints"):
        lzn_jax.load(tmp_path)
    values = json.loads((workdir / "config.json").read_text())
    for text, message in (
        ("{", "is not the config of a run"),
        ("[]", "is not the config of a run"),
        ("[" * 100_000, "is not the config of a run: too deeply nested"),
        # Which of the two depends on the frames of a call, more where types are checked.
        ('{"data": ' * 800 + "1" + "}" * 800, "maximum recursion|lacks the field types"),
        (json.dumps(values | {"seed": "one"}), "config.json: seed must be an integer"),
        (json.dumps(values | {"extensions": ["a"]}), "config.json must have a checksum for each"),
        (json.dumps(values | {"extension_checksums": ["a"]}), "must have a checksum for each"),
        (json.dumps(values | {"extensions": 5}), "extensions must be a tuple of strings"),
    ):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(UserError, match=message) as refusal:
            lzn_jax.load(tmp_path)
        assert "\n" not in str(refusal.value)


def test_siblings_are_random_latents_of_zones_decoded(model, images):
    six = images[:3].repeat(2, axis=0)
    found, latents = model.siblings(six, KEY), model.encode(six, KEY, 1.0)
    request = {"latents": latents, "index": np.arange(6)}
    decode = functools.partial(inference.decode, model.space, source=None, target="image")
    decoded = jax.jit(decode)(model.model, KEY, request)
    expected = np.asarray(decoded["images"]).astype(int)
    np.testing.assert_allclose(found.astype(int), expected, atol=1)
    assert np.any(found[0] != found[1])
