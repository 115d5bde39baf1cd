"""Precision and recall, KID, CMMD and inception score against numbers by hand and plain loops."""

import tracemalloc

import numpy as np
import pytest

from lzn_jax.errors import UserError
from lzn_jax.evaluation.metrics import (
    cmmd,
    inception_score,
    kernel_inception_distance,
    precision_recall,
    squared_mmd,
)


def _line(*points):
    return np.array(points, np.float64)[:, None]


# Radii of 0, 1, 2, 10 with k = 1: 1, 1, 1, 8; with k = 3: 10, 9, 8, 10. Of 3, 19, 30: 16, 11, 11.
REFERENCE = _line(0, 1, 2, 10)


@pytest.mark.parametrize("block_size", [1, 3, 100])
def test_precision_and_recall_by_hand(block_size):
    # 3 and 18 lie on the surfaces of the balls round 2 and 10; 19 just outside.
    result = precision_recall(REFERENCE, _line(3, 18, 19, 30), k=1, block_size=block_size)
    assert result.precision == pytest.approx(2 / 4)
    # Radii of 3, 18, 19, 30: 15, 1, 1, 11; all reference points are within 15 of 3.
    assert result.recall == 1
    few = precision_recall(REFERENCE, _line(3, 3.5, 30), k=1, block_size=block_size)
    # Radii 0.5, 0.5, 26.5: 10 is within 26.5 of 30, the others are outside of all.
    assert few.precision == pytest.approx(2 / 3)
    assert few.recall == pytest.approx(1 / 4)


@pytest.mark.parametrize("seed", range(5))
def test_surfaces_belong_to_balls_whatever_the_rounding(seed):
    rng = np.random.default_rng(seed)
    direction = rng.normal(size=(1, 64))
    direction /= np.linalg.norm(direction)
    generated = _line(3, 18, 18.001, 30) @ direction + 10
    assert precision_recall(REFERENCE @ direction + 10, generated, k=1).precision == 2 / 4


@pytest.mark.parametrize("block_size", [2, 100])
def test_three_neighbours_are_the_default(block_size):
    generated = _line(-10, -10.1, 20, 20.1, 50)
    assert precision_recall(REFERENCE, generated, block_size=block_size).precision == 2 / 5


def test_equal_samples_are_inside_balls_of_no_radius_far_from_zero():
    rng = np.random.default_rng(1)
    sample = rng.normal(size=64) + 1e3
    one_image = np.repeat(sample[None], 50, axis=0).astype(np.float32)
    reference = np.concatenate([one_image[:7], 100 + rng.normal(size=(7, 64)).astype(np.float32)])
    for block_size in (4, 100):
        result = precision_recall(reference, one_image, block_size=block_size)
        assert result == (1.0, 0.5)


def test_precision_and_recall_equal_loops_over_all_pairs():
    rng = np.random.default_rng(2)
    a, b = rng.normal(size=(60, 8)) + 100, 1.2 * rng.normal(size=(70, 8)) + 100.3

    def inside(points, centres):
        radii = [
            sorted(np.linalg.norm(c - d) for j, d in enumerate(centres) if j != i)[2]
            for i, c in enumerate(centres)
        ]
        return np.mean(
            [
                any(np.linalg.norm(p - c) <= r for c, r in zip(centres, radii, strict=True))
                for p in points
            ]
        )

    assert precision_recall(a, b, block_size=16) == (inside(b, a), inside(a, b))


def test_pairs_are_never_all_in_memory():
    points = np.random.default_rng(3).normal(size=(3000, 4))
    tracemalloc.start()
    precision_recall(points, points, block_size=200)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3000**2


def test_too_few_samples_for_a_ball_are_refused():
    with pytest.raises(UserError, match="need at least 4 samples, got 3"):
        precision_recall(REFERENCE, REFERENCE[:3])


def _cubic(x, y):
    return (x @ y / len(x) + 1) ** 3


def _gaussian(x, y):
    return np.exp(-np.sum((x - y) ** 2) / (2 * 10.0**2))


def _mean_kernel(kernel, x, y, *, diagonal=True):
    pairs = [(i, j) for i in range(len(x)) for j in range(len(y)) if diagonal or i != j]
    return np.mean([kernel(x[i], y[j]) for i, j in pairs])


def test_kid_equals_a_double_loop_without_the_diagonal():
    rng = np.random.default_rng(4)
    x, y = rng.normal(size=(7, 5)), rng.normal(size=(9, 5)) + 0.5
    within = [_mean_kernel(_cubic, z, z, diagonal=False) for z in (x, y)]
    assert squared_mmd(x, y) == pytest.approx(sum(within) - 2 * _mean_kernel(_cubic, x, y))


def test_kid_is_unbiased_and_reproducible():
    rng = np.random.default_rng(5)
    pool = rng.normal(size=(3000, 4)).astype(np.float32)
    value = kernel_inception_distance(pool[:1500], pool[1500:], seed=0, subset_size=20)
    # The mean of 100 subsets is within 5 of its own standard errors of the expectation 0; with the
    # diagonal it would be near 2 (E k(x, x) - E k(x, y)) / 20 = 0.9.
    assert abs(value.mean) < 5 * value.std / 10 < 0.3
    again = kernel_inception_distance(pool[:1500], pool[1500:], seed=0, subset_size=20)
    other = kernel_inception_distance(pool[:1500], pool[1500:], seed=1, subset_size=20)
    assert value == again != other


def test_kid_of_shifted_features():
    rng = np.random.default_rng(6)
    x = rng.normal(size=(4000, 4))
    value = kernel_inception_distance(x[:2000], x[2000:] + 1, seed=0, subsets=20)
    # Moments of s = x·y / 4 + 1: E s³ = 1 + 3 (1/4) for x, y ~ N(0, I) of 4 features,
    # a shift of both by 1 gives s = x·y / 4 with mean 2 and the variance 1/4 + 2/4 and third moment
    # E s³ = 8 + 6 (3/4) + E δ³ with δ = (u + v)·1 / 4 + u·v / 4 and E δ³ = 6/16.
    shifted, crossed = 8 + 6 * 3 / 4 + 6 / 16, 1 + 3 * 2 / 4
    assert value.mean == pytest.approx(1.75 + shifted - 2 * crossed, rel=0.1)


def test_small_sets_are_their_own_subsets():
    rng = np.random.default_rng(7)
    x, y = rng.normal(size=(6, 3)), rng.normal(size=(6, 3))
    value = kernel_inception_distance(x, y, seed=0, subsets=4)
    assert value.mean == pytest.approx(squared_mmd(x, y))
    assert value.std < 1e-12
    with pytest.raises(UserError, match="at least 2 samples"):
        kernel_inception_distance(x[:1], y, seed=0)


def _unit(rng, count, dim=6, shift=0.0):
    points = rng.normal(size=(count, dim)) + shift
    return points / np.linalg.norm(points, axis=1, keepdims=True)


@pytest.mark.parametrize("block_size", [4, 100])
def test_cmmd_equals_a_double_loop_with_the_diagonal(block_size):
    rng = np.random.default_rng(8)
    x, y = _unit(rng, 9), _unit(rng, 13, shift=0.7)
    within = sum(_mean_kernel(_gaussian, z, z) for z in (x, y))
    expected = 1000 * (within - 2 * _mean_kernel(_gaussian, x, y))
    assert cmmd(x, y, block_size=block_size) == pytest.approx(expected, rel=1e-9)


def test_cmmd_of_two_points_and_of_a_set_with_itself():
    x, y = np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]])
    assert cmmd(x, y) == pytest.approx(2000 * (1 - np.exp(-2 / 200)))
    many = _unit(np.random.default_rng(9), 50)
    assert abs(cmmd(many, many[::-1])) < 1e-12
    # Embeddings as near as float32 can tell them: the digits that 1 - exp(-tiny) loses are there.
    near = np.array([[np.cos(1e-5), np.sin(1e-5)]])
    assert cmmd(x, near) == pytest.approx(1000 * 1e-10 / 100, rel=1e-5, abs=0)


def test_cmmd_refuses_embeddings_that_are_not_normalised():
    with pytest.raises(ValueError, match="must have norm 1"):
        cmmd(np.ones((2, 2)), np.array([[1.0, 0.0]]))


def test_inception_score_at_its_ends():
    certain = np.where(np.eye(7, dtype=bool), 0.0, -np.inf)
    assert inception_score(certain) == pytest.approx(7)
    assert inception_score(np.full((5, 7), 3.0, np.float32)) == pytest.approx(1)
    # Probabilities e^-1000 and their logarithms stay finite.
    assert inception_score(1000 * np.eye(7)) == pytest.approx(7)


def test_inception_score_equals_its_definition_in_consecutive_splits():
    rng = np.random.default_rng(10)
    logits = rng.normal(size=(11, 4)) * 2
    scores = []
    for part in (logits[:4], logits[4:8], logits[8:]):
        p = np.exp(part) / np.exp(part).sum(axis=1, keepdims=True)
        scores.append(np.exp(np.mean(np.sum(p * np.log(p / p.mean(axis=0)), axis=1))))
    assert inception_score(logits, split_size=4) == pytest.approx(np.mean(scores), rel=1e-12)
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert inception_score(np.log(probabilities), split_size=4) == pytest.approx(np.mean(scores))
    with pytest.raises(UserError, match="at least 1 sample"):
        inception_score(logits[:0])
