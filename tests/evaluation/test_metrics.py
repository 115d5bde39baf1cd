"""The metrics by their names, from fake extractors whose features are known, and the self-check."""

import tracemalloc

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lzn_jax.errors import UserError
from lzn_jax.evaluation import features
from lzn_jax.evaluation import metrics as metrics_module
from lzn_jax.evaluation.features import Extractor, Outputs, generation_metrics, measure
from lzn_jax.evaluation.metrics import inception_score, kernel_inception_distance, precision_recall


def _images(seed, count=90, high=256):
    return np.random.default_rng(seed).integers(0, high, (count, 4, 4, 3), dtype=np.uint8)


REAL, FAKE = _images(0), _images(1, 61, 200)


def _projection(dim):
    return np.random.default_rng(dim).normal(size=(48, dim)).astype(np.float32) / 100


def _project(variables, images):
    flat = images.reshape(len(images), -1).astype(jnp.float32)
    return {name: flat @ weights for name, weights in variables.items()}


def _linear(name, *, dim=5, inception=False):
    """An extractor of linear features; with `inception` all that Inception gives."""
    sizes = {"features": dim} | ({"spatial": 6, "logits": 7} if inception else {})
    variables = {part: _projection(size) for part, size in sizes.items()}
    return Extractor(name, f"key of {name}", variables, lambda v, x: Outputs(**_project(v, x)))


def _features(images, dim):
    return images.reshape(len(images), -1).astype(np.float32) @ _projection(dim)


def _distance(dim):
    one, other = (metrics_module.statistics_of(_features(images, dim)) for images in (REAL, FAKE))
    return metrics_module.frechet_distance(one, other)


def test_inception_gives_the_names_of_the_contract():
    metrics = generation_metrics([_linear("inception", inception=True)], REAL, FAKE, seed=3)
    shares = precision_recall(_features(REAL, 5), _features(FAKE, 5))
    expected = {
        "fid": _distance(5),
        "sfid": _distance(6),
        "inception_score": inception_score(_features(FAKE, 7)),
        "kid": kernel_inception_distance(_features(REAL, 5), _features(FAKE, 5), seed=3).mean,
        "precision": shares.precision,
        "recall": shares.recall,
    }
    assert metrics.keys() == expected.keys()
    for name, value in expected.items():
        assert metrics[name] == pytest.approx(value, rel=1e-4), name
    assert all(type(value) is float for value in metrics.values())
    assert 0 < metrics["precision"] < 1


def test_images_are_recognised_of_which_a_classifier_is_sure():
    logits = np.log([[0.95, 0.03, 0.02], [0.6, 0.3, 0.1], [0.05, 0.92, 0.03], [0.34, 0.33, 0.33]])
    outputs = Outputs(np.eye(4, dtype=np.float32), logits=logits.astype(np.float32))
    extractor = Extractor("digits", "key", {}, lambda variables, images: outputs)
    seen = generation_metrics([extractor], REAL[:4], FAKE[:4], seed=0, batch_size=4)
    assert seen["recognised"] == 0.5


def test_precision_and_recall_of_further_extractors_carry_their_name():
    first, second = _linear("a", dim=5), _linear("b", dim=3)
    both = generation_metrics([first, second], REAL, FAKE, seed=0)
    alone = generation_metrics([second], REAL, FAKE, seed=0)
    assert both.keys() == {"fd_a", "fd_b", "precision", "recall", "precision_b", "recall_b"}
    assert both["fd_b"] == alone["fd_b"]
    assert (both["precision_b"], both["recall_b"]) == (alone["precision"], alone["recall"])
    assert both["precision"] != both["precision_b"]


@pytest.mark.parametrize("batch_size", [1, 8, 61, 500])
def test_batches_of_any_size_give_the_same(batch_size):
    extractors = [_linear("inception", inception=True), _linear("other", dim=3)]
    once = (part for part in np.split(FAKE, [3, 40]))
    metrics = generation_metrics(extractors, REAL, once, seed=0, batch_size=batch_size)
    expected = generation_metrics(extractors, list(np.split(REAL, 9)), FAKE, seed=0)
    for name, value in expected.items():
        assert metrics[name] == pytest.approx(value, rel=1e-5), name


def test_what_was_seen_of_a_reference_is_kept_by_content(tmp_path):
    extractor = _linear("inception", inception=True)
    fresh = generation_metrics([extractor], REAL, FAKE, seed=0)
    for _ in range(2):
        kept = generation_metrics([extractor], REAL, FAKE, seed=0, cache_folder=tmp_path)
        assert kept == pytest.approx(fresh, rel=1e-9)
    (path,) = tmp_path.iterdir()
    # The file is what is used: features moved by 1 in it change precision, not distances.
    key = features.key_of(REAL, extractor.name, extractor.key)
    arrays = features.load(path, key)
    features.save(path, key, **arrays | {"features": arrays["features"] + 1})
    moved = generation_metrics([extractor], REAL, FAKE, seed=0, cache_folder=tmp_path)
    assert moved["fid"] == pytest.approx(fresh["fid"])
    assert moved["precision"] != fresh["precision"]
    # Another key at its place, other images and another extractor do not use it.
    features.save(path, "other", **arrays | {"features": arrays["features"] + 1})
    kept = generation_metrics([extractor], REAL, FAKE, seed=0, cache_folder=tmp_path)
    assert kept == pytest.approx(fresh, rel=1e-9)
    generation_metrics([extractor], REAL[1:], FAKE, seed=0, cache_folder=tmp_path)
    other = extractor._replace(key="other weights")
    generation_metrics([other], REAL, FAKE, seed=0, cache_folder=tmp_path)
    assert len(list(tmp_path.iterdir())) == 3


def test_measuring_streams():
    """10,000 images of CIFAR-10's size, 31 MB, with spatial features of 15 MB."""
    weights = np.random.default_rng(0).normal(size=(3072, 384)).astype(np.float32)

    def apply(variables, images):
        flat = images.reshape(len(images), -1).astype(jnp.float32) @ variables
        return Outputs(flat[:, :4], flat)

    rng = np.random.default_rng(1)
    batches = (rng.integers(0, 256, (200, 32, 32, 3), dtype=np.uint8) for _ in range(50))
    extractor = Extractor("any", "key", jnp.asarray(weights), apply)
    jax.jit(apply)(extractor.variables, jnp.zeros((200, 32, 32, 3), jnp.uint8))
    tracemalloc.start()
    (measured,) = measure([extractor], batches, batch_size=200)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert measured.features.shape == (10000, 4)
    assert measured.spatial.count == 10000
    assert peak < 12e6


def test_few_images_are_refused():
    extractor = _linear("a")
    with pytest.raises(UserError, match="got none"):
        measure([extractor], REAL[:0])
    with pytest.raises(UserError, match="need at least 4 samples, got 3"):
        generation_metrics([extractor], REAL, FAKE[:3], seed=0)
