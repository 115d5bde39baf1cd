"""Which network looks at samples, by the config, and what is said where none can."""

import functools
import logging
from pathlib import Path

import clip_oracle
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors_writer
import small
from ml_collections import ConfigDict
from PIL import Image

from lzn_jax import main as command_line
from lzn_jax.data import Examples
from lzn_jax.errors import UserError
from lzn_jax.evaluation import features
from lzn_jax.evaluation import samples as samples_module
from lzn_jax.evaluation.features import Extractor, Outputs
from lzn_jax.evaluation.metrics import cmmd
from lzn_jax.evaluation.samples import SampleQuality

ROOT = Path(__file__).parents[1]


def config(size=8, channels=3, num_classes=10, path=None, clip=None):
    data = {"image_size": size, "channels": channels, "num_classes": num_classes}
    evaluation = {"inception_path": path, "clip_path": None if clip is None else str(clip)}
    return ConfigDict({"data": data, "evaluation": evaluation})


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
    extractor = Extractor("inception", "key", {}, lambda variables, images: looks(images))
    monkeypatch.setattr(samples_module, "inception_extractor", lambda path: extractor)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """The path of a tiny CLIP's weights."""
    path = tmp_path_factory.mktemp("clip") / "model.safetensors"
    return safetensors_writer.write(path, clip_oracle.random_state())


@pytest.fixture
def few_steps(monkeypatch):
    monkeypatch.setattr(features, "NUM_STEPS", 3)


@pytest.mark.usefixtures("inception")
@pytest.mark.parametrize("size", [8, 40])
def test_inception_looks_at_rgb_images_where_its_weights_are_given(size, tmp_path):
    measure = SampleQuality(config(size=size, num_classes=1, path="weights.pth"))
    metrics = measure(train_of(60, size=size), images_of(50, 1, size), tmp_path)
    assert set(metrics) == {"fid", "sfid", "inception_score", "kid", "precision", "recall"}
    assert np.isfinite(list(metrics.values())).all()


@pytest.mark.usefixtures("few_steps")
@pytest.mark.parametrize("channels", [1, 3])
def test_without_weights_a_classifier_of_small_images_looks(channels, tmp_path):
    measure = SampleQuality(config(size=32, channels=channels))
    shape = {"size": 32, "channels": channels}
    metrics = measure(train_of(60, **shape), images_of(50, 1, **shape), tmp_path)
    assert set(metrics) == {"fd_features", "precision", "recall", "recognised"}


def test_clip_looks_alone_where_its_weights_are_all_there_is(clip, tmp_path, caplog):
    caplog.set_level(logging.INFO, "lzn_jax")
    train, samples = train_of(60), images_of(70, 1) // 2
    measure = SampleQuality(config(num_classes=1, clip=clip))
    metrics = measure(train, samples, tmp_path)
    embed = functools.partial(clip_oracle.embeddings, clip_oracle.random_state())
    assert metrics == {"cmmd": pytest.approx(cmmd(embed(train.images), embed(samples)), rel=1e-4)}
    (line,) = (text for text in caplog.messages if "left out" in text)
    assert line == (
        "sample metrics other than CMMD are left out: "
        "images of one class need evaluation.inception_path"
    )
    (kept,) = tmp_path.iterdir()
    assert kept.name.startswith("reference_clip_")


@pytest.mark.usefixtures("inception")
@pytest.mark.parametrize("path", [None, "weights.pth"])
def test_clip_looks_beside_others(path, clip, tmp_path, monkeypatch):
    looking = []
    monkeypatch.setattr(
        samples_module, "feature_extractor", lambda *_, name, **__: Extractor(name, "", {}, None)
    )
    monkeypatch.setattr(
        samples_module,
        "generation_metrics",
        lambda extractors, *_, **__: looking.extend(e.name for e in extractors) or {},
    )
    measure = SampleQuality(config(path=path, clip=clip))
    measure(train_of(60), images_of(50, 1), tmp_path)
    assert looking == ["features" if path is None else "inception", "clip"]


def test_bad_weights_of_clip_are_found_before_any_image_is_seen(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"other")
    with pytest.raises(UserError, match="cannot be read as a safetensors file"):
        SampleQuality(config(clip=path)).read_weights()


def test_clip_leaves_few_images_alone(clip, tmp_path, caplog):
    caplog.set_level(logging.INFO, "lzn_jax")
    measure = SampleQuality(config(clip=clip))
    assert measure(train_of(60), images_of(49, 1), tmp_path) == {}
    assert "sample metrics are left out: 49 images are fewer than 50" in caplog.text


@pytest.mark.parametrize(
    ("changes", "count", "reason"),
    [
        ({"size": 33}, 50, "images of more than 32 pixels need evaluation.inception_path"),
        ({"num_classes": 1}, 50, "images of one class need evaluation.inception_path"),
        ({}, 49, "49 images are fewer than 50"),
    ],
)
def test_where_nothing_can_look_the_log_says_why(changes, count, reason, tmp_path, caplog):
    caplog.set_level(logging.INFO, "lzn_jax")
    shape = {"size": changes.get("size", 8)}
    measure = SampleQuality(config(**changes))
    assert measure(train_of(60, **shape), images_of(count, 1, **shape), tmp_path) == {}
    (line,) = caplog.messages
    assert line == f"sample metrics are left out: {reason}"
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("inception")
def test_the_reference_is_a_fixed_part_of_a_large_training_set(tmp_path, monkeypatch):
    monkeypatch.setattr(samples_module, "MAX_REFERENCE", 60)
    train, samples = train_of(100), images_of(50, 1)
    seen = []
    monkeypatch.setattr(
        samples_module,
        "generation_metrics",
        lambda extractors, reference, *_, **__: seen.append(reference) or {},
    )
    measure = SampleQuality(config(path="weights.pth"))
    for _ in range(2):
        measure(train, samples, tmp_path)
    np.testing.assert_array_equal(seen[0], seen[1])
    rows = {image.tobytes(): row for row, image in enumerate(train.images)}
    chosen = [rows[image.tobytes()] for image in seen[0]]
    assert len(set(chosen)) == 60
    assert max(chosen) > 80  # random, not the first
    monkeypatch.setattr(samples_module, "MAX_BYTES_IN_MEMORY", 55 * 8 * 8 * 3)
    measure(train, samples, tmp_path)
    assert len(seen[2]) == 55


def test_weights_go_with_rgb_images():
    with pytest.raises(UserError, match="inception_path must be None for grey images"):
        SampleQuality(config(channels=1, path="weights.pth"))
    with pytest.raises(UserError, match="clip_path must be None for grey images"):
        SampleQuality(config(channels=1, clip="model.safetensors"))


def test_weights_are_read_when_they_are_needed():
    """What only samples or classifies does without them."""
    quality = SampleQuality(config(path="/nowhere/weights.pth", clip="/nowhere"))
    with pytest.raises(UserError, match=r"there is no file /nowhere/weights\.pth"):
        quality.read_weights()
    with pytest.raises(UserError, match="/nowhere"):
        SampleQuality(config(clip="/nowhere")).read_weights()


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("none.pth", None, "there is no file "),
        ("pt_inception-2015-12-05-6726825d.pth", b"other", "its SHA-256 starts with "),
    ],
)
def test_bad_weights_end_a_run_before_its_first_step(name, content, expected, tmp_path, capsys):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    folder = tmp_path / "run"
    for index in range(16):
        image = tmp_path / "images" / ("train" if index else "test") / f"{index}.png"
        image.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(images_of(1, index)[0]).save(image)
    changes = {"data__name": "image_folder", "data__path": tmp_path / "images"}
    changes |= {"evaluation__inception_path": path, "latent__context_size": 12}
    assert command_line.main(small.flags(ROOT / "configs/digits_gen.py", folder, **changes)) == 2
    error = capsys.readouterr().err
    assert expected in error
    assert "Traceback" not in error
    assert not (folder / "metrics.jsonl").exists()
    assert not (folder / "checkpoints").exists()
