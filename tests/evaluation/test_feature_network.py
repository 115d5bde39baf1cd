"""The feature network on scikit-learn's digits: what it tells apart, and its file."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small

from lzn_jax import data
from lzn_jax.data import pixels
from lzn_jax.evaluation import features as features_module
from lzn_jax.evaluation.features import (
    FeatureNetwork,
    feature_extractor,
    generation_metrics,
    measure,
)
from lzn_jax.evaluation.metrics import frechet_distance, merge

pytestmark = pytest.mark.usefixtures("full_speed")


@pytest.fixture(scope="module")
def digits():
    return data.load_data(small.config())


@pytest.fixture(scope="module")
def extractor(digits, full_speed):
    return feature_extractor(digits[0], name="digits")


@pytest.fixture
def few_steps(monkeypatch):
    monkeypatch.setattr(features_module, "NUM_STEPS", 3)


def test_it_knows_digits_that_it_never_saw(digits, extractor):
    _, test = digits
    features, logits = FeatureNetwork(10).apply(
        extractor.variables, pixels.normalise(jnp.asarray(test.images))
    )
    assert np.mean(np.argmax(logits, axis=1) == test.labels) > 0.97
    outputs = extractor.apply(extractor.variables, jnp.asarray(test.images))
    np.testing.assert_allclose(outputs.features, features, atol=1e-5)
    assert features.shape == (360, 64)
    assert features.dtype == jnp.float32


def test_its_distance_is_small_between_halves_and_large_to_noise(digits, extractor):
    images, rng = digits[0].images, np.random.default_rng(0)
    shuffled = images[rng.permutation(len(images))]
    noise = rng.integers(0, 256, images.shape, dtype=np.uint8)
    half = len(images) // 2
    whole, one, other, random = (
        measure([extractor], part)[0].statistics
        for part in (images, shuffled[:half], shuffled[half:], noise)
    )
    assert frechet_distance(whole, merge(other, one)) < 1e-9
    assert 50 * frechet_distance(one, other) < frechet_distance(whole, random)


def test_its_distance_grows_with_noise_and_missing_classes(digits, extractor):
    train, test = digits
    rng = np.random.default_rng(0)
    noise = rng.normal(size=test.images.shape)
    distances = []
    for size in (0, 16, 32, 64, 128):
        noisy = np.clip(test.images + size * noise, 0, 255).astype(np.uint8)
        distances.append(generation_metrics([extractor], train.images, noisy, seed=0)["fd_digits"])
    assert distances == sorted(distances)
    assert distances[-1] > 10 * distances[0]
    low = generation_metrics([extractor], train.images, test.images[test.labels < 5], seed=0)
    full = generation_metrics([extractor], train.images, test.images, seed=0)
    assert low["fd_digits"] > 10 * full["fd_digits"]
    assert low["recall"] < 0.7 < 0.85 < min(low["precision"], full["precision"], full["recall"])


@pytest.mark.usefixtures("few_steps")
def test_the_seed_decides(digits):
    one, same, other = (feature_extractor(digits[0], name="a", seed=seed) for seed in (1, 1, 2))
    jax.tree.map(np.testing.assert_array_equal, one.variables, same.variables)
    assert one.key == same.key != other.key


@pytest.mark.usefixtures("few_steps")
def test_texts_and_what_is_no_pair_do_not_count(digits):
    texts = np.full(len(digits[0].labels), "a", object)
    pairs = digits[0]._replace(texts=texts, left_out=("an empty text",), groups=digits[0].labels)
    one, same = (feature_extractor(train, name="a") for train in (digits[0], pairs))
    jax.tree.map(np.testing.assert_array_equal, one.variables, same.variables)


@pytest.mark.usefixtures("few_steps")
def test_it_is_trained_once_for_each_content(digits, tmp_path, monkeypatch):
    train, test = digits
    first = feature_extractor(train, name="a", cache_folder=tmp_path)
    trained = []
    monkeypatch.setattr(features_module, "_train", lambda *a: trained.append(1) or first.variables)
    again = feature_extractor(train, name="a", cache_folder=tmp_path)
    assert not trained
    jax.tree.map(np.testing.assert_array_equal, first.variables, again.variables)
    assert first.key == again.key
    images = jnp.asarray(test.images)
    np.testing.assert_array_equal(
        first.apply(first.variables, images).features, again.apply(again.variables, images).features
    )
    feature_extractor(train, name="a", seed=1, cache_folder=tmp_path)
    feature_extractor(test, name="a", cache_folder=tmp_path)
    relabelled = train._replace(labels=train.labels[::-1])
    feature_extractor(relabelled, name="a", cache_folder=tmp_path)
    feature_extractor(train._replace(images=255 - train.images), name="a", cache_folder=tmp_path)
    assert len(trained) == 4 == len(list(tmp_path.iterdir())) - 1
