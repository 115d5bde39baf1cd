"""Features in batches, the names of their metrics, and the feature network on digits."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small
from flax import linen as nn

from lzn_jax import data
from lzn_jax.errors import UserError
from lzn_jax.evaluation import features as features_module
from lzn_jax.evaluation.features import (
    Extractor,
    FeatureNetwork,
    Outputs,
    extract,
    feature_extractor,
    generation_metrics,
)
from lzn_jax.evaluation.metrics import (
    frechet_distance,
    gaussian_of,
    inception_score,
    kernel_inception_distance,
    precision_recall,
)


def images_of(seed, count=90, high=256):
    return np.random.default_rng(seed).integers(0, high, (count, 4, 4, 3), dtype=np.uint8)


REAL, FAKE = images_of(0), images_of(1, 61, 200)


def compared(extractor, real, fake, **options):
    sets = (extract([extractor], x, **options)[extractor.name] for x in (real, fake))
    return generation_metrics(extractor.name, *sets, seed=3)


def projection(dim):
    return np.random.default_rng(dim).normal(size=(48, dim)).astype(np.float32) / 100


def project(variables, images):
    flat = images.reshape(len(images), -1).astype(jnp.float32)
    return {name: flat @ weights for name, weights in variables.items()}


SIZES = {"features": 5, "spatial": 6, "logits": 7}
VARIABLES = {part: projection(size) for part, size in SIZES.items()}
LINEAR = Extractor("inception", VARIABLES, lambda v, x: Outputs(**project(v, x)))


def by_hand(images, dim):
    return images.reshape(len(images), -1).astype(np.float32) @ projection(dim)


def distance(dim):
    return frechet_distance(*(gaussian_of(by_hand(images, dim)) for images in (REAL, FAKE)))


@pytest.mark.parametrize("batch_size", [1, 8, 500])
def test_inception_gives_the_names_of_the_contract_in_batches_of_any_size(batch_size):
    metrics = compared(LINEAR, REAL, FAKE, batch_size=batch_size)
    precision, recall = precision_recall(by_hand(REAL, 5), by_hand(FAKE, 5))
    kid = kernel_inception_distance(by_hand(REAL, 5), by_hand(FAKE, 5), seed=3)
    score = inception_score(by_hand(FAKE, 7))
    expected = {"fid": distance(5), "sfid": distance(6), "inception_score": score, "kid": kid}
    expected |= {"precision": precision, "recall": recall}
    assert metrics == pytest.approx(expected, rel=1e-4)
    assert all(type(value) is float for value in metrics.values())
    assert 0 < metrics["precision"] < 1


def test_images_are_recognised_if_a_classifier_is_sure():
    logits = np.log([[0.95, 0.03, 0.02], [0.6, 0.3, 0.1], [0.05, 0.92, 0.03], [0.34, 0.33, 0.33]])
    outputs = Outputs(np.eye(4, dtype=np.float32), logits=logits.astype(np.float32))
    extractor = Extractor("digits", {}, lambda variables, images: outputs)
    assert compared(extractor, REAL[:4], FAKE[:4], batch_size=4)["recognised"] == 0.5


def test_few_images_are_refused():
    with pytest.raises(UserError, match="need at least 4 samples, got 3"):
        compared(LINEAR, REAL, FAKE[:3])


@pytest.fixture(scope="module")
def digits():
    return data.load_data(small.config())


@pytest.fixture(scope="module")
def extractor(digits, full_speed):
    """Trained for a shorter time, from weights that no program draws."""
    init = FeatureNetwork.init

    def drawn(module, *given):
        return small.drawn(jax.eval_shape(functools.partial(init, module), *given), 0.1)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(features_module, "NUM_STEPS", 300)
        patch.setattr(FeatureNetwork, "init", drawn)
        return feature_extractor(digits[0], name="digits")


@pytest.mark.slow
@pytest.mark.usefixtures("full_speed")
def test_the_network_knows_digits_that_it_never_saw(digits):
    extractor = feature_extractor(digits[0], name="digits")
    outputs = extractor.apply(extractor.variables, jnp.asarray(digits[1].images))
    assert np.mean(np.argmax(outputs.logits, axis=1) == digits[1].labels) > 0.97
    assert outputs.features.shape == (360, 64)
    assert outputs.features.dtype == jnp.float32


def test_its_distance_grows_with_noise_and_missing_classes(digits, extractor):
    (train, test), rng = digits, np.random.default_rng(0)
    noise, half = rng.normal(size=test.images.shape), rng.permutation(len(train.labels))[:700]
    real = extract([extractor], train.images)["digits"]

    def measured(images):
        return generation_metrics("digits", real, extract([extractor], images)["digits"], seed=0)

    noisy = [np.clip(test.images + size * noise, 0, 255) for size in (0, 16, 32, 64, 128)]
    distances = [measured(images.astype(np.uint8))["fd_digits"] for images in noisy]
    assert distances == sorted(distances)
    assert distances[-1] > 10 * distances[0] > 10 * measured(train.images[half])["fd_digits"]
    low, full = measured(test.images[test.labels < 5]), measured(test.images)
    assert low["fd_digits"] > 10 * full["fd_digits"]
    assert low["recall"] < 0.7 < 0.85 < min(low["precision"], full["precision"], full["recall"])


class Linear(FeatureNetwork):
    """Pixels and a linear classifier, which compile in no time."""

    @nn.compact
    def __call__(self, images):
        pixels = images.reshape(len(images), -1)
        return Outputs(pixels, logits=nn.Dense(self.num_classes)(pixels))


def test_the_network_depends_on_the_seed_images_and_labels_alone(monkeypatch):
    monkeypatch.setattr(features_module, "NUM_STEPS", 3)
    monkeypatch.setattr(features_module, "FeatureNetwork", Linear)
    train = data.Examples(REAL, np.arange(len(REAL), dtype=np.int32) % 3)
    texts = np.full(len(REAL), "a", object)
    pairs = train._replace(texts=texts, left_out=("an empty text",), groups=train.labels)
    one, same, other = (
        feature_extractor(examples, name="a", seed=seed).variables
        for examples, seed in ((train, 1), (pairs, 1), (train, 2))
    )
    jax.tree.map(np.testing.assert_array_equal, one, same)
    assert any(jax.tree.leaves(jax.tree.map(lambda a, b: np.any(a != b), one, other)))
