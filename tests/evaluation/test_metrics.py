"""Metrics of features against closed forms, numbers by hand and plain loops."""

import functools

import numpy as np
import pytest
import scipy.linalg

from lzn_jax.errors import UserError
from lzn_jax.evaluation import metrics
from lzn_jax.evaluation.metrics import (
    Gaussian,
    cmmd,
    frechet_distance,
    gaussian_of,
    inception_score,
    kernel_inception_distance,
    precision_recall,
    squared_mmd,
)

RNG = np.random.default_rng(0)


def covariance_of(rank, dim):
    factor = RNG.normal(size=(dim, rank))
    return factor @ factor.T / rank


def frechet(mean, one, other):
    mean, one, other = (np.asarray(each, float) for each in (mean, one, other))
    return frechet_distance(Gaussian(0 * mean, one), Gaussian(mean, other))


def unit(count, shift=0.0):
    points = RNG.normal(size=(count, 6)) + shift
    return points / np.linalg.norm(points, axis=1, keepdims=True)


def cubic(x, y):
    return (x @ y / len(x) + 1) ** 3


def rbf(x, y):
    return np.exp(-np.sum((x - y) ** 2) / (2 * 10.0**2))


def mmd(kernel, x, y, *, diagonal):
    """The squared distance by loops over pairs."""

    def mean(x, y, same):
        pairs = [(i, j) for i in range(len(x)) for j in range(len(y))]
        return np.mean([kernel(x[i], y[j]) for i, j in pairs if diagonal or not same or i != j])

    return mean(x, x, True) + mean(y, y, True) - 2 * mean(x, y, False)


def scores_by_definition(logits, split):
    scores = []
    for start in range(0, len(logits), split):
        p = np.exp(logits[start : start + split])
        p /= p.sum(axis=1, keepdims=True)
        scores.append(np.exp(np.mean(np.sum(p * np.log(p / p.mean(axis=0)), axis=1))))
    return np.mean(scores)


BASIS = np.linalg.qr(RNG.normal(size=(64, 64)))[0]
ONE, OTHER, SHIFT = covariance_of(24, 12), covariance_of(24, 12), RNG.normal(size=12)
ROOT = scipy.linalg.sqrtm(ONE @ OTHER).real
X, Y, LOGITS = RNG.normal(size=(7, 5)), RNG.normal(size=(9, 5)) + 0.5, 2 * RNG.normal(size=(11, 4))
U, V = unit(9), unit(13, 0.7)
RIGHT, NEAR = np.array([[1.0, 0.0]]), np.array([[np.cos(1e-5), np.sin(1e-5)]])
UP = np.array([[0.0, 1.0]])
CERTAIN = np.where(np.eye(7, dtype=bool), 0.0, -np.inf)
DIAGONAL = np.diag([1.0, 4, 9])


@pytest.mark.parametrize(
    ("found", "expected", "tolerance"),
    [
        (lambda: frechet([3, 0, -4], DIAGONAL, DIAGONAL), 25, 1e-12),
        # (1 - 3)² + (2 - 1)² + (3 - 3)²
        (lambda: frechet(np.zeros(3), DIAGONAL, np.diag([9, 1, 9])), 5, 1e-12),
        (  # covariances that do not commute
            lambda: frechet(SHIFT, ONE, OTHER),
            SHIFT @ SHIFT + np.trace(ONE + OTHER - 2 * ROOT),
            1e-12,
        ),
        (lambda: frechet(-SHIFT, OTHER, ONE), frechet(SHIFT, ONE, OTHER), 1e-12),
        (  # subspaces of 5 dimensions that share two: (2 - 1)² for these, 4 and 1 for the others
            lambda: frechet(
                np.zeros(64), 4 * BASIS[:, :5] @ BASIS[:, :5].T, BASIS[:, 3:8] @ BASIS[:, 3:8].T
            ),
            2 * 1 + 3 * 4 + 3 * 1,
            1e-7,
        ),
        (lambda: squared_mmd(X, Y), mmd(cubic, X, Y, diagonal=False), 1e-9),
        (  # small sets are their own subsets
            lambda: kernel_inception_distance(X, Y[:7], seed=0, subsets=4),
            squared_mmd(X, Y[:7]),
            1e-9,
        ),
        (lambda: cmmd(U, V), 1000 * mmd(rbf, U, V, diagonal=True), 1e-9),
        (lambda: cmmd(RIGHT, UP), 2000 * (1 - np.exp(-2 / 200)), 1e-12),
        (lambda: 1 + cmmd(U, U[::-1]), 1, 1e-12),
        # As near as float32 can tell them: the digits that 1 - exp(-tiny) loses are there.
        (lambda: cmmd(RIGHT, NEAR), 1000 * 1e-10 / 100, 1e-5),
        (lambda: inception_score(CERTAIN), 7, 1e-12),
        (lambda: inception_score(np.full((5, 7), 3.0, np.float32)), 1, 1e-12),
        # Probabilities e^-1000 and their logarithms stay finite.
        (lambda: inception_score(1000 * np.eye(7)), 7, 1e-12),
        (lambda: inception_score(LOGITS, split_size=4), scores_by_definition(LOGITS, 4), 1e-12),
    ],
)
@pytest.mark.parametrize("rows", [4, 256])
def test_closed_forms(found, expected, tolerance, rows, monkeypatch):
    monkeypatch.setattr(metrics, "_BLOCK_ROWS", rows)
    assert found() == pytest.approx(expected, rel=tolerance, abs=1e-14)


@pytest.mark.parametrize("rank", [3, 200])
def test_a_distance_to_itself_is_zero_and_never_negative(rank):
    covariance = covariance_of(rank, 100)
    assert 0 <= frechet(np.zeros(100), covariance, covariance) < 1e-11


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_gaussians_in_blocks_are_those_of_all_rows_far_from_zero(dtype):
    features = (RNG.normal(size=(1000, 6)) @ RNG.normal(size=(6, 6)) + 1e4).astype(dtype)
    mean, covariance = gaussian_of(features, rows=37)
    features = features.astype(np.float64)
    np.testing.assert_allclose(mean, features.mean(axis=0), rtol=1e-14)
    np.testing.assert_allclose(covariance, np.cov(features, rowvar=False), rtol=1e-10, atol=1e-11)


def test_kid_is_unbiased_and_reproducible():
    pool = RNG.normal(size=(3000, 4)).astype(np.float32)
    kid = functools.partial(kernel_inception_distance, pool[:1500], pool[1500:], subset_size=20)
    means = [kid(seed=seed) for seed in range(10)]
    # Within 5 standard errors of the expectation 0; with the diagonal each would be near
    # 2 (E k(x, x) - E k(x, y)) / 20 = 0.9.
    assert abs(np.mean(means)) < 5 * np.std(means) / np.sqrt(10) < 0.3
    assert means[0] == kid(seed=0) != means[1]


def line(*points):
    return np.array(points, np.float64)[:, None]


REFERENCE = line(0, 1, 2, 10)  # radii with k = 1: 1, 1, 1, 8; with k = 3: 10, 9, 8, 10


@pytest.mark.parametrize("rows", [1, 3, 256])
@pytest.mark.parametrize(
    ("generated", "k", "expected"),
    [
        # 3 and 18 lie on the surfaces of the balls round 2 and 10; 19 just outside. Radii of
        # 3, 18, 19, 30: 15, 1, 1, 11; all reference points are within 15 of 3.
        ((3, 18, 19, 30), 1, (2 / 4, 1)),
        # Radii 0.5, 0.5, 26.5: 10 is within 26.5 of 30, the others are outside of all.
        ((3, 3.5, 30), 1, (2 / 3, 1 / 4)),
        ((-10, -10.1, 20, 20.1, 50), 3, (2 / 5, 1)),
    ],
)
def test_precision_and_recall_by_hand(generated, k, expected, rows, monkeypatch):
    monkeypatch.setattr(metrics, "_BLOCK_ROWS", rows)
    assert precision_recall(REFERENCE, line(*generated), k=k) == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(5))
def test_surfaces_belong_to_balls_whatever_the_rounding(seed):
    direction = np.random.default_rng(seed).normal(size=(1, 64))
    direction /= np.linalg.norm(direction)
    generated = line(3, 18, 18.001, 30) @ direction + 10
    assert precision_recall(REFERENCE @ direction + 10, generated, k=1)[0] == 2 / 4


def test_equal_samples_are_inside_balls_of_no_radius_far_from_zero():
    one_image = np.repeat(RNG.normal(size=(1, 64)) + 1e3, 50, axis=0).astype(np.float32)
    others = 100 + RNG.normal(size=(7, 64)).astype(np.float32)
    assert precision_recall(np.concatenate([one_image[:7], others]), one_image) == (1.0, 0.5)


def test_precision_and_recall_equal_loops_over_all_pairs():
    a, b = RNG.normal(size=(60, 8)) + 100, 1.2 * RNG.normal(size=(70, 8)) + 100.3

    def inside(points, centres):
        between = np.linalg.norm(centres[:, None] - centres, axis=2)
        radii = np.sort(between, axis=1)[:, 3]  # the first is the sample itself
        distances = np.linalg.norm(points[:, None] - centres, axis=2)
        return np.mean(np.any(distances <= radii, axis=1))

    assert precision_recall(a, b) == (inside(b, a), inside(a, b))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: gaussian_of(np.ones((1, 12))), UserError, "at least 2 samples, got 1"),
        (lambda: gaussian_of(np.array([[1.0, np.nan]] * 2)), ValueError, "finite"),
        (lambda: kernel_inception_distance(X[:1], Y, seed=0), UserError, "at least 2 samples"),
        (lambda: precision_recall(REFERENCE, REFERENCE[:3]), UserError, "at least 4 .* got 3"),
        (lambda: inception_score(LOGITS[:0]), UserError, "at least 1 sample"),
    ],
)  # fmt: skip
def test_what_cannot_be_measured_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()
