"""Probes at the optimum that scikit-learn finds, neighbours by a loop, accuracy by hand."""

import itertools

import jax
import numpy as np
import pytest
from scipy.special import softmax
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from lzn_jax.evaluation import probes
from lzn_jax.evaluation.probes import (
    PROTOCOLS,
    accuracy,
    fit_cached,
    knn_log_votes,
    train_linear,
)


def _train(batch, name, num_steps):
    """A single kind of features of three classes, in a batch that is repeated, by a protocol."""
    features, labels = batch
    optimizer = PROTOCOLS[name].optimizer(num_steps, len(labels))
    named, dims = itertools.repeat(({"x": features}, labels)), {"x": features.shape[1]}
    return train_linear(named, dims, 3, optimizer, num_steps)["x"]


DIGITS = load_digits(return_X_y=True)
DIGITS = DIGITS[0].astype(np.float32), DIGITS[1]


def _blobs(count, num_classes, dim, distance, seed=0):
    """Gaussian classes; means of length about `distance` * sqrt(dim)."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % num_classes
    means = distance * rng.normal(size=(num_classes, dim))
    return (means[labels] + rng.normal(size=(count, dim))).astype(np.float32), labels


SIZES = 600, 3, 20  # of all fits to blobs, among 5 classes, of which 2 are absent


def _same_up_to_shift(logits, expected, **tolerance):
    center = lambda a: a - a.mean(axis=1, keepdims=True)  # noqa: E731
    np.testing.assert_allclose(center(logits), center(expected), **tolerance)


@pytest.mark.parametrize("penalty", [0.1, 1e-4])
def test_gradient_vanishes_at_the_fit(penalty):
    features, labels = DIGITS
    features = features * np.geomspace(1e-3, 1e3, 64, dtype=np.float32) + 5  # units differ
    model, _ = fit_cached(features, labels, 10, penalties=[penalty])
    inputs = StandardScaler().fit_transform(features.astype(np.float64))
    logits = features.astype(np.float64) @ model.weights.astype(np.float64) + model.bias
    residual = (softmax(logits, axis=1) - np.eye(10)[labels]) / len(labels)
    deviation = features.astype(np.float64).std(axis=0)[:, None]
    gradient = inputs.T @ residual + penalty * deviation * model.weights
    assert np.abs(gradient).max() < 3e-5
    assert np.abs(residual.sum(axis=0)).max() < 3e-5
    np.testing.assert_allclose(model(features), logits, atol=1e-2)


def test_penalty_is_strong_for_noise_and_weak_for_separable_classes():
    noise, labels = _blobs(*SIZES, distance=0)
    assert fit_cached(noise, labels, 5)[1] >= 0.1
    apart, labels = _blobs(*SIZES, distance=3)
    model, penalty = fit_cached(apart, labels, 5)
    assert penalty <= 1e-5
    assert accuracy(model(apart), labels) == {1: 1.0}


def test_constant_and_repeated_features_and_absent_classes_are_no_obstacle():
    features, labels = _blobs(600, 3, 5, distance=1)
    wide = np.hstack([features, features, np.full((600, 10), 0.1, np.float32)])
    # Two equal columns share the weight, which halves its penalty.
    model, _ = fit_cached(wide, labels, 5, penalties=[0.2])
    inputs = StandardScaler().fit_transform(features)
    reference = LogisticRegression(C=1 / (600 * 0.1), tol=1e-8).fit(inputs, labels)
    expected = reference.decision_function(inputs)
    _same_up_to_shift(model(wide)[:, :3], expected, atol=2e-3)
    assert np.abs(model.weights[10:]).max() < 1e-4
    assert softmax(model(wide), axis=1)[:, 3:].max() < 1e-3


def test_each_class_gives_its_share_to_the_held_out_rows():
    labels = np.repeat([0, 1, 2, 3], [100, 40, 2, 1])
    held_out = probes._hold_out(labels, seed=0)
    assert np.bincount(labels[held_out], minlength=4).tolist() == [15, 6, 1, 0]
    assert (probes._hold_out(labels, seed=1) != held_out).any()


def test_a_fit_that_stops_early_says_so(monkeypatch):
    monkeypatch.setattr(probes, "_MAX_ITERATIONS", 2)
    features, labels = _blobs(*SIZES, distance=0.5)
    with pytest.warns(RuntimeWarning, match="not converged"):
        fit_cached(features, labels, 5, penalties=[1e-3])


@pytest.mark.parametrize(
    ("name", "distance", "steps"), [("simclr", 0.5, 1500), ("paper", 0.2, 4000)]
)
def test_protocols_reach_the_optimum(name, distance, steps):
    features, labels = _blobs(256, 3, 4, distance=distance)
    model = _train((features, labels), name, steps)
    reference = LogisticRegression(C=np.inf, tol=1e-8, max_iter=1000).fit(features, labels)
    _same_up_to_shift(model(features), reference.decision_function(features), atol=1e-2)


def test_paper_protocol_has_a_constant_rate_and_no_decay():
    params = np.full(1, 1000.0, np.float32)
    for batch_size in (256, 8192):
        optimizer = PROTOCOLS["paper"].optimizer(5, batch_size)
        state, update = optimizer.init(params), jax.jit(optimizer.update)
        for _ in range(10):  # Adam moves by its rate where gradients are constant
            move, state = update(np.ones(1, np.float32), state, params)
            np.testing.assert_allclose(move, -3e-4, rtol=1e-4)


@pytest.mark.parametrize("batch_size", [256, 1024])
def test_simclr_protocol_scales_its_rate_with_the_batch_and_ends_at_zero(batch_size):
    optimizer = PROTOCOLS["simclr"].optimizer(10, batch_size)
    state, update, moves = optimizer.init(np.zeros(1)), jax.jit(optimizer.update), []
    for _ in range(11):
        move, state = update(np.ones(1), state)
        moves.append(-float(move[0]))
    momentum = np.cumsum(0.9 ** np.arange(12))[1:]  # Nesterov's look ahead included
    expected = 0.05 * batch_size / 256 * (1 + np.cos(np.pi * np.arange(11) / 10)) * momentum
    np.testing.assert_allclose(moves, expected, rtol=1e-4, atol=1e-7)


def test_training_takes_no_more_batches_than_its_steps():
    batch = np.ones((4, 3), np.float32), np.array([0, 1, 0, 1])
    smaller = tuple(part[:3] for part in batch)  # the last of an epoch
    stream = (({"x": features}, labels) for features, labels in [batch, batch, smaller, batch])
    train_linear(stream, {"x": 3}, 2, PROTOCOLS["paper"].optimizer(3, 4), num_steps=3)
    assert len(list(stream)) == 1


def test_kinds_of_features_do_not_see_each_other():
    features, labels = _blobs(64, 3, 4, distance=0.5)
    other = features[:, :2] ** 2
    named = itertools.repeat(({"a": features, "b": other}, labels))
    optimizer = PROTOCOLS["paper"].optimizer(20, 64)
    both = train_linear(named, {"a": 4, "b": 2}, 3, optimizer, num_steps=20)
    for name, values in {"a": features, "b": other}.items():
        alone = _train((values, labels), "paper", 20)
        np.testing.assert_allclose(both[name].weights, alone.weights, rtol=1e-5, atol=1e-8)


def test_accuracy_by_hand():
    up, down, none = np.arange(7.0), np.arange(7.0)[::-1], np.full(7, -np.inf)
    none[0] = 0  # no vote for the others
    # Ranks are the classes in the first row and, by ties, in the fourth and fifth.
    scores = np.stack([down, up, up, 0 * up, 0 * up, none, np.nan * up])
    labels = np.array([0, 1, 2, 4, 5, 1, 0])
    found = accuracy(scores, labels, top=(1, 2, 5))
    assert found == {1: 1 / 7, 2: 1 / 7, 5: 3 / 7}
    assert accuracy(np.eye(5), np.arange(5)) == {1: 1.0}  # top-5 would be certain
    assert accuracy(np.eye(6), np.arange(6)) == {1: 1.0, 5: 1.0}


def _votes_by_loops(bank, labels, queries, num_classes, k, temperature):
    """Shares of the votes, one query at a time."""
    unit = lambda row: row / max(np.linalg.norm(row), 1e-300)  # noqa: E731
    shares = np.zeros((len(queries), num_classes))
    for row, query in enumerate(queries.astype(np.float64)):
        similarities = [unit(query) @ unit(other) for other in bank.astype(np.float64)]
        nearest = np.argsort(np.negative(similarities), kind="stable")[:k]
        for index in nearest:
            shares[row, labels[index]] += np.exp(similarities[index] / temperature)
    return shares / shares.sum(axis=1, keepdims=True)


def _sample(count, num_classes, seed, dim=8):
    rng = np.random.default_rng(seed)
    scale = rng.uniform(0.1, 50, (count, 1))  # lengths do not matter to a cosine
    features = (scale * rng.normal(size=(count, dim))).astype(np.float32)
    return features, rng.integers(num_classes, size=count)


@pytest.mark.parametrize(
    ("k", "temperature", "size"),
    [(1, 0.07, 2**24), (20, 0.07, 10), (20, 1.0, 5 * 60), (200, 0.1, 2**24)],
)
def test_votes_are_those_of_a_loop_over_rows(k, temperature, size, monkeypatch):
    monkeypatch.setattr(probes, "_SIMILARITIES", size)  # one, five or all queries at once
    probes._log_votes.clear_cache()
    bank, labels = _sample(60, 7, seed=0)  # a k of 200 is more than the bank has
    queries, _ = _sample(33, 7, seed=1)
    votes = knn_log_votes(bank, labels, queries, num_classes=7, k=k, temperature=temperature)
    probes._log_votes.clear_cache()  # the size is compiled in
    assert votes.dtype == np.float32
    expected = _votes_by_loops(bank, labels, queries, 7, k, temperature)
    np.testing.assert_allclose(np.exp(votes), expected, atol=2e-5)


def test_earlier_rows_win_ties():
    bank = np.tile(np.array([[0.3, -1.7, 0.2]], np.float32), (11, 1))  # all duplicates
    votes = knn_log_votes(bank, np.arange(11), bank[:2], num_classes=11, k=6)
    np.testing.assert_allclose(np.exp(votes[:, :6]), 1 / 6, rtol=1e-5)
    assert np.isneginf(votes[:, 6:]).all()


def test_low_temperatures_and_zero_rows_stay_finite():
    bank = np.array([[1, 0], [0, 0], [0, 1e-3]], np.float32)
    queries = np.array([[1, 0], [0, 0]], np.float32)
    votes = knn_log_votes(bank, np.arange(3), queries, num_classes=3, temperature=1e-3)
    np.testing.assert_allclose(votes[0], [0, -1000, -1000], rtol=1e-5)
    np.testing.assert_allclose(np.exp(votes[1]), 1 / 3, rtol=1e-5)  # similarity 0 to each
