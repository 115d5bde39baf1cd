"""Fréchet distance against closed forms, streaming statistics against one batch, the cache."""

import functools
import tracemalloc

import numpy as np
import pytest
import scipy.linalg

from lzn_jax.errors import UserError
from lzn_jax.evaluation import features as features_module
from lzn_jax.evaluation import metrics
from lzn_jax.evaluation.metrics import Statistics, frechet_distance, merge, statistics_of


def _gaussian(mean, covariance):
    count = 11
    return Statistics(count, np.asarray(mean, float), (count - 1) * np.asarray(covariance, float))


def _random_covariance(rng, dim, rank=None):
    factor = rng.normal(size=(dim, rank or 2 * dim))
    return factor @ factor.T / factor.shape[1]


def _streamed(features, batch_size):
    starts = range(0, len(features), batch_size)
    parts = (statistics_of(features[start : start + batch_size]) for start in starts)
    return functools.reduce(merge, parts)


def test_distance_of_means_and_of_commuting_covariances():
    a = _gaussian([1, 2, 3], np.diag([1, 4, 9]))
    assert frechet_distance(a, _gaussian([4, 2, -1], np.diag([1, 4, 9]))) == pytest.approx(25)
    # (1 - 3)² + (2 - 1)² + (3 - 3)²
    assert frechet_distance(a, _gaussian([1, 2, 3], np.diag([9, 1, 9]))) == pytest.approx(5)


def test_distance_of_covariances_that_do_not_commute():
    rng = np.random.default_rng(0)
    one, two = _random_covariance(rng, 12), _random_covariance(rng, 12)
    assert np.abs(one @ two - two @ one).max() > 0.1
    shift = rng.normal(size=12)
    root = scipy.linalg.sqrtm(one @ two).real
    expected = shift @ shift + np.trace(one + two - 2 * root)
    distance = frechet_distance(_gaussian(np.zeros(12), one), _gaussian(shift, two))
    assert distance == pytest.approx(expected, rel=1e-12)
    assert frechet_distance(_gaussian(shift, two), _gaussian(np.zeros(12), one)) == pytest.approx(
        distance, rel=1e-12
    )


def test_singular_covariances():
    rng = np.random.default_rng(1)
    basis = np.linalg.qr(rng.normal(size=(64, 64)))[0]
    # Subspaces of 5 dimensions that share two: (2 - 1)² for each of those, 4 and 1 for the others.
    one = 4 * basis[:, :5] @ basis[:, :5].T
    two = basis[:, 3:8] @ basis[:, 3:8].T
    distance = frechet_distance(_gaussian(np.zeros(64), one), _gaussian(np.zeros(64), two))
    assert distance == pytest.approx(2 * 1 + 3 * 4 + 3 * 1, abs=1e-6)


@pytest.mark.parametrize("rank", [3, 200])
def test_a_distance_to_itself_is_zero_and_never_negative(rank):
    rng = np.random.default_rng(2)
    gaussian = _gaussian(rng.normal(size=100), _random_covariance(rng, 100, rank))
    assert 0 <= frechet_distance(gaussian, gaussian) < 1e-11


def test_streaming_equals_one_batch_far_from_zero():
    rng = np.random.default_rng(3)
    features = rng.normal(size=(1000, 6)) @ rng.normal(size=(6, 6)) + 1e4
    streamed = _streamed(features, 37)
    assert streamed.count == 1000
    np.testing.assert_allclose(streamed.mean, features.mean(axis=0), rtol=1e-14)
    np.testing.assert_allclose(
        streamed.covariance, np.cov(features, rowvar=False), rtol=1e-11, atol=1e-11
    )


def test_float32_features_are_summed_in_float64():
    rng = np.random.default_rng(4)
    features = (rng.normal(size=(5000, 3)) + 1e4).astype(np.float32)
    expected = np.cov(features.astype(np.float64), rowvar=False)
    np.testing.assert_allclose(_streamed(features, 500).covariance, expected, rtol=1e-10)


def test_streaming_takes_constant_memory():
    def peak(batches):
        rng = np.random.default_rng(6)
        tracemalloc.start()
        total = None
        for _ in range(batches):  # features of CIFAR-size images, 100 a batch
            images = rng.integers(0, 256, (100, 32, 32, 3), dtype=np.uint8)
            batch = statistics_of(images.reshape(100, -1)[:, :64])
            total = merge(total, batch) if total else batch
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert total.count == 100 * batches
        return size

    assert peak(100) < 1.05 * peak(5) < 2**21


def test_fewer_than_two_samples_are_refused():
    with pytest.raises(UserError, match="at least 2 samples, got 1"):
        frechet_distance(statistics_of(np.ones((1, 3))), _gaussian(np.zeros(3), np.eye(3)))


def test_features_that_do_not_match_or_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="3 features cannot be compared with 2"):
        frechet_distance(_gaussian(np.zeros(3), np.eye(3)), _gaussian(np.zeros(2), np.eye(2)))
    with pytest.raises(ValueError, match="finite"):
        statistics_of(np.array([[1.0, np.nan]]))


def test_saved_statistics_are_used_under_their_own_key_only(tmp_path):
    rng = np.random.default_rng(7)
    path = tmp_path / "cache" / "statistics.npz"
    assert features_module.load(path, "any") is None
    statistics = statistics_of(rng.normal(size=(20, 4)))
    key = features_module.key_of(np.arange(3), "inception")
    features_module.save(path, key, **metrics.to_arrays(statistics))
    loaded = metrics.from_arrays(features_module.load(path, key))
    assert frechet_distance(loaded, statistics) < 1e-12
    assert loaded.count == 20
    assert features_module.load(path, features_module.key_of(np.arange(1, 4), "inception")) is None
    assert features_module.load(path, features_module.key_of(np.arange(3), "another")) is None
    for content in (path.read_bytes()[:-200], b"", b"no npz"):
        path.write_bytes(content)
        assert features_module.load(path, key) is None


@pytest.mark.parametrize("key", ["another", np.zeros(10**6, np.uint8)])
def test_arrays_of_another_key_are_not_unpacked(tmp_path, monkeypatch, key):
    np.savez_compressed(tmp_path / "a.npz", key=key, values=np.zeros(10**6))
    read = []
    monkeypatch.setattr(np.lib.format, "read_array", lambda file, **_: read.append(file.name))
    assert features_module.load(tmp_path / "a.npz", "any") is None
    assert read == (["key.npy"] if isinstance(key, str) else [])


def test_keys_tell_content_type_shape_and_division_apart():
    parts = [
        (np.zeros(4, np.uint8),),
        (np.ones(4, np.uint8),),
        (np.zeros((2, 2), np.uint8),),
        (np.zeros(1, np.uint32),),
        (np.zeros(2, np.uint8), np.zeros(2, np.uint8)),
        ("ab", "c"),
        ("a", "bc"),
        ("abc",),
    ]
    assert len({features_module.key_of(*part) for part in parts}) == len(parts)
    rows = np.arange(12).reshape(3, 4)
    assert features_module.key_of(rows[:, ::2]) == features_module.key_of(rows[:, ::2].copy())
