"""Which samples are measured and by which network, the judge, and nearest training images."""

import gc
import logging
import types
import weakref
from pathlib import Path

import clip_oracle
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors_writer
import small
from ml_collections import ConfigDict, FrozenConfigDict
from PIL import Image

from lzn_jax import data
from lzn_jax import main as command_line
from lzn_jax.data import Examples
from lzn_jax.data_types import DataType
from lzn_jax.errors import UserError
from lzn_jax.evaluation import features
from lzn_jax.evaluation import samples as samples_module
from lzn_jax.evaluation.features import Extractor, Outputs
from lzn_jax.evaluation.metrics import cmmd
from lzn_jax.evaluation.samples import SampleQuality, fit_judge, nearest_training_images
from lzn_jax.latent_space import LatentSpace

ROOT = Path(__file__).parents[2]


def test_of_reconstructions_only_those_of_the_picture_are_drawn(monkeypatch):
    images, found = np.zeros((40, 1, 1, 1), np.uint8), []
    kind = DataType("dot")
    kind.shown = lambda dots: dots + 1
    monkeypatch.setattr(samples_module.plots, "reconstructions", lambda _, *a: found.extend(a))
    samples_module.draw(Path(), kind, images, {"dots": images + 1, "errors": np.zeros(40)})
    np.testing.assert_array_equal(found[0], np.full((30, 1, 1, 1), 1))
    np.testing.assert_array_equal(found[1], np.full((30, 1, 1, 1), 2))
    assert found[2].shape == (30,)


def config(size=8, channels=3, num_classes=10, path=None, clip=None):
    values = {"image_size": size, "channels": channels, "num_classes": num_classes}
    evaluation = {"inception_path": path, "clip_path": None if clip is None else str(clip)}
    return ConfigDict({"data": values, "evaluation": evaluation})


def images_of(count, seed=0, size=8, channels=3):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, size, size, channels), dtype=np.uint8)


def train_of(count, **shape):
    return Examples(images_of(count, **shape), np.arange(count, dtype=np.int32) % 10)


def looks(images):
    """Features that are six pixels, other outputs of Inception's names."""
    pixels = images.reshape(len(images), -1).astype(jnp.float32) / 255
    return Outputs(pixels[:, :6], pixels[:, 6:10], pixels[:, 10:15])


@pytest.fixture
def inception(monkeypatch):
    """Weights at any path, of a network that `looks`."""
    extractor = Extractor("inception", {}, lambda variables, images: looks(images))
    monkeypatch.setattr(samples_module, "inception_extractor", lambda path: extractor)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """The path of a tiny CLIP's weights."""
    path = tmp_path_factory.mktemp("clip") / "model.safetensors"
    return safetensors_writer.write(path, clip_oracle.random_state())


FEATURES = ["fd_features", "recognised", "precision", "recall"]
INCEPTION = ["fid", "sfid", "inception_score", "kid", "precision", "recall"]


@pytest.mark.usefixtures("inception")
@pytest.mark.parametrize(
    ("settings", "has_clip", "expected"),
    [
        ({"path": "weights.pth", "num_classes": 1}, False, INCEPTION),
        ({"path": "weights.pth", "size": 40}, False, INCEPTION),
        ({"path": "weights.pth"}, True, [*INCEPTION, "cmmd"]),
        ({"size": 32, "channels": 1}, False, FEATURES),
        ({"size": 32}, True, [*FEATURES, "cmmd"]),
    ],
)
def test_networks_look_by_the_config(settings, has_clip, expected, clip, monkeypatch):
    classifier = Extractor("features", {}, lambda variables, images: looks(images))
    monkeypatch.setattr(samples_module, "feature_extractor", lambda train, name, seed: classifier)
    measure = SampleQuality(config(**settings, clip=clip if has_clip else None))
    shape = {name: settings[name] for name in ("size", "channels") if name in settings}
    train, samples = train_of(60, **shape), images_of(50, 1, **shape)
    metrics = measure(train, samples)
    assert list(metrics) == expected
    assert np.isfinite(list(metrics.values())).all()
    looked = []  # features of the training images stay in memory
    extract = features.extract
    monkeypatch.setattr(samples_module, "feature_extractor", None)

    def look(extractors, images):
        looked.append(len(images))
        return extract(extractors, images)

    monkeypatch.setattr(samples_module, "extract", look)
    assert measure(train, samples) == metrics
    assert looked == [50]


def test_other_training_images_are_looked_at_anew(inception):
    measure, fresh = (SampleQuality(config(path="weights.pth")) for _ in range(2))
    train, other, samples = train_of(60), train_of(70, seed=3), images_of(50, 1)
    first, second = measure(train, samples), measure(other, samples)
    assert second == fresh(other, samples) != first
    swapped = other._replace(labels=other.labels[::-1])
    assert measure(swapped, samples) == second
    images = weakref.ref(other.images)
    del other, swapped
    gc.collect()
    assert images() is None


def test_clip_looks_alone_if_its_weights_are_all_there_is(clip, caplog):
    caplog.set_level(logging.INFO, "lzn_jax")
    train, samples = train_of(60), images_of(70, 1) // 2
    metrics = SampleQuality(config(num_classes=1, clip=clip))(train, samples)
    sides = (clip_oracle.embeddings(clip_oracle.random_state(), x) for x in (train.images, samples))
    assert metrics == {"cmmd": pytest.approx(cmmd(*sides), rel=1e-4)}
    (line,) = (text for text in caplog.messages if "left out" in text)
    assert line.startswith("sample metrics other than CMMD are left out: images of one class need ")


@pytest.mark.parametrize(
    ("changes", "count", "reason"),
    [
        ({"size": 33}, 50, "images of more than 32 pixels need evaluation.inception_path"),
        ({"num_classes": 1}, 50, "images of one class need evaluation.inception_path"),
        ({}, 49, "49 images are fewer than 50"),
        ({"clip": True}, 49, "49 images are fewer than 50"),
    ],
)
def test_where_nothing_can_look_the_log_says_why(changes, count, reason, clip, caplog):
    caplog.set_level(logging.INFO, "lzn_jax")
    shape = {"size": changes.get("size", 8)}
    measure = SampleQuality(config(**changes | ({"clip": clip} if "clip" in changes else {})))
    assert measure(train_of(60, **shape), images_of(count, 1, **shape)) == {}
    assert caplog.messages[-1] == f"sample metrics are left out: {reason}"


def test_the_reference_is_a_fixed_part_of_a_large_training_set(monkeypatch):
    monkeypatch.setattr(samples_module, "MAX_REFERENCE", 60)
    images = images_of(100)
    seen, again = samples_module._reference(images), samples_module._reference(images)
    np.testing.assert_array_equal(seen, again)
    rows = {image.tobytes(): row for row, image in enumerate(images)}
    chosen = [rows[image.tobytes()] for image in seen]
    assert len(set(chosen)) == 60
    assert max(chosen) > 80  # random, not the first
    monkeypatch.setattr(samples_module, "MAX_BYTES_IN_MEMORY", 55 * 8 * 8 * 3)
    assert len(samples_module._reference(images)) == 55


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"channels": 1, "path": "w.pth"}, "inception_path must be None for grey images"),
        ({"channels": 1, "clip": "c.bin"}, "clip_path must be None for grey images"),
        ({"path": "/nowhere/w.pth"}, r"there is no file /nowhere/w\.pth"),
        ({"clip": "/nowhere/c.bin"}, r"there is no file /nowhere/c\.bin"),
        ({"clip": "bad"}, "cannot be read as a safetensors file"),
    ],
)
def test_bad_weights_are_found_before_any_image_is_seen(settings, message, tmp_path):
    if settings.get("clip") == "bad":
        settings = {"clip": tmp_path / "model.safetensors"}
        settings["clip"].write_bytes(b"other")
    space = object.__new__(LatentSpace)
    space.config = FrozenConfigDict(config(**settings))
    with pytest.raises(UserError, match=message):
        samples_module.measure.prepare(space)


def test_bad_weights_end_a_run_before_its_first_step(tmp_path, capsys):
    path = tmp_path / "pt_inception-2015-12-05-6726825d.pth"
    path.write_bytes(b"other")
    folder = tmp_path / "run"
    for index in range(16):
        image = tmp_path / "images" / ("train" if index else "test") / f"{index}.png"
        image.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(images_of(1, index)[0]).save(image)
    changes = {"data__name": "image_folder", "data__path": tmp_path / "images"}
    changes |= {"evaluation__inception_path": path, "latent__context_size": 12}
    assert command_line.main(small.flags(ROOT / "configs/digits_gen.py", folder, **changes)) == 2
    error = capsys.readouterr().err
    assert "its SHA-256 starts with " in error
    assert "Traceback" not in error
    assert not (folder / "metrics.jsonl").exists()
    assert not (folder / "checkpoints").exists()


@pytest.mark.parametrize(("condition", "level"), [("label", 1), (None, 2)])
def test_samples_of_classes_count_if_the_decoder_has_a_condition(
    condition, level, tmp_path, monkeypatch
):
    def draw(count, labels=None):
        images = np.full((4, 1, 1, 1), 2 if labels is None else 1, np.uint8)
        return {"images": images, "labels": np.ones(4, int), "num_evaluations": images[:, 0, 0, 0]}

    small.without_pictures(monkeypatch)
    for name, stub in {
        "fit_judge": lambda examples: lambda images: sum(examples.labels) * images[:, 0, 0, 0],
        "nearest_training_images": lambda train, test, images: {"near": images.mean()},
        "sample_quality": lambda config: lambda train, images: {"quality": images.mean()},
    }.items():
        monkeypatch.setattr(samples_module, name, stub)
    decoder = types.SimpleNamespace(condition=condition)
    model = small.stand_in(
        config=small.config(evaluation__num_samples=4),
        space=types.SimpleNamespace(decoders={"image": decoder}),
        main_type="image",
        class_type="label",
        has_latents=True,
        draw=draw,
    )
    train = Examples(np.zeros((2, 1, 1, 1), np.uint8), np.arange(2, dtype=np.int32))
    nothing = train.at(np.zeros(0, int))
    found = samples_module.measure(model, train, nothing, tmp_path)
    accuracies = [found[f"{name}sample_accuracy"] for name in ("", "unconditional_")]
    assert accuracies == [1, 0]  # by a judge of the training images
    counted = [found[name] for name in ("quality", "near", "sampling_evaluations")]
    assert counted == [level] * 3
    of_one_class = train._replace(labels=np.zeros(2, np.int32))
    found = samples_module.measure(model, of_one_class, nothing, tmp_path)
    assert "quality" in found
    assert not any("accuracy" in name for name in found)


def test_the_judge_knows_real_digits_that_it_never_saw(monkeypatch):
    train, test = data.load_data(small.config())
    found = fit_judge(train)
    assert np.mean(found(test.images) == test.labels) >= 0.99
    assert np.mean(found(255 - test.images) == test.labels) < 0.5
    monkeypatch.setattr(samples_module, "MAX_JUDGED", 300)  # some of all classes, sorted or not
    found = fit_judge(train.at(np.argsort(train.labels, kind="stable")))(test.images)
    assert np.mean(found == test.labels) > 0.9


def test_nearest_images_are_those_of_a_loop():
    train, test, samples = (images_of(count, seed, 4) for seed, count in enumerate((9, 5, 7)))

    def mean(images):
        a, b = (x.reshape(len(x), -1) / 127.5 for x in (images, train))
        return np.mean([min(np.linalg.norm(row - other) for other in b) for row in a])

    found = nearest_training_images(Examples(train, None), Examples(test, None), samples)
    expected = {"nearest": mean(samples), "nearest_of_tests": mean(test)}
    expected["nearest_ratio"] = expected["nearest"] / expected["nearest_of_tests"]
    assert found == pytest.approx(expected, rel=1e-4)
    large = images_of(3, 0, size=33)
    assert nearest_training_images(Examples(large, None), Examples(large, None), large) == {}


def test_of_many_images_some_at_even_steps_are_compared(monkeypatch):
    monkeypatch.setattr(samples_module, "MAX_COMPARED", 2)
    monkeypatch.setattr(samples_module, "MAX_TRAINING", 3)
    train, test, samples = (train_of(count, seed=seed) for seed, count in enumerate((9, 6, 8)))
    found = nearest_training_images(train, test, samples.images)
    chosen = train.at(np.array([0, 3, 6])), test.at(np.array([0, 3])), samples.images[[0, 4]]
    assert found == nearest_training_images(*chosen)
