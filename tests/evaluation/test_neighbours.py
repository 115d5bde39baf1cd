"""k-NN classification against a loop in float64, a sum by hand, and the blocks it works in."""

import numpy as np
import pytest

from lzn_jax.evaluation import probes
from lzn_jax.evaluation.probes import knn_log_votes


def _reference(bank, labels, queries, num_classes, k, temperature):
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


@pytest.mark.parametrize(("k", "temperature"), [(1, 0.07), (20, 0.07), (20, 1.0), (200, 0.1)])
def test_votes_are_those_of_a_loop_over_rows(k, temperature):
    bank, labels = _sample(60, 7, seed=0)  # a k of 200 is more than the bank has
    queries, _ = _sample(33, 7, seed=1)
    votes = knn_log_votes(bank, labels, queries, num_classes=7, k=k, temperature=temperature)
    assert votes.dtype == np.float32
    expected = _reference(bank, labels, queries, 7, k, temperature)
    np.testing.assert_allclose(np.exp(votes), expected, atol=2e-5)


def test_votes_by_hand():
    # Similarities 1, 0.6, 0 and -1; temperature 0.2 makes weights e^5, e^3, e^0 and e^-5.
    bank = np.array([[2, 0], [3, 4], [0, 1], [-1, 0]], np.float32)
    query = np.array([[7, 0]], np.float32)
    votes = knn_log_votes(bank, np.array([0, 2, 2, 1]), query, num_classes=4, k=3, temperature=0.2)
    total = np.exp(5) + np.exp(3) + 1
    expected = np.log([np.exp(5) / total, 0.5, (np.exp(3) + 1) / total, 0.5])
    np.testing.assert_allclose(votes[0, [0, 2]], expected[[0, 2]], rtol=1e-5)
    assert np.isneginf(votes[0, [1, 3]]).all()  # class 1 is too far, class 3 is not there


def test_earlier_rows_win_ties_within_and_across_blocks(monkeypatch):
    monkeypatch.setattr(probes, "_REFERENCE_ROWS", 4)
    bank = np.tile(np.array([[0.3, -1.7, 0.2]], np.float32), (11, 1))  # all duplicates
    labels = np.arange(11)
    votes = knn_log_votes(bank, labels, bank[:2], num_classes=11, k=6)
    np.testing.assert_allclose(np.exp(votes[:, :6]), 1 / 6, rtol=1e-5)
    assert np.isneginf(votes[:, 6:]).all()


@pytest.mark.parametrize(("bank_rows", "query_rows"), [(7, 5), (64, 2), (3, 100)])
def test_blocks_of_odd_sizes_change_nothing(monkeypatch, bank_rows, query_rows):
    bank, labels = _sample(101, 5, seed=0)
    queries, _ = _sample(23, 5, seed=1)
    monkeypatch.setattr(probes, "_REFERENCE_ROWS", bank_rows)
    monkeypatch.setattr(probes, "_QUERY_ROWS", query_rows)
    probes._update_nearest.clear_cache()  # the size of a block is compiled in
    votes = knn_log_votes(bank, labels, queries, num_classes=5)
    probes._update_nearest.clear_cache()
    np.testing.assert_allclose(
        np.exp(votes), _reference(bank, labels, queries, 5, 20, 0.07), atol=2e-5
    )


def test_low_temperatures_and_zero_rows_stay_finite():
    bank = np.array([[1, 0], [0, 0], [0, 1e-3]], np.float32)
    queries = np.array([[1, 0], [0, 0]], np.float32)
    votes = knn_log_votes(bank, np.arange(3), queries, num_classes=3, temperature=1e-3)
    np.testing.assert_allclose(votes[0], [0, -1000, -1000], rtol=1e-5)
    np.testing.assert_allclose(np.exp(votes[1]), 1 / 3, rtol=1e-5)  # similarity 0 to each


@pytest.mark.parametrize(
    ("bank", "labels", "message"),
    [
        (np.zeros((0, 2), np.float32), np.zeros(0, int), "0 rows"),
        (np.zeros((2, 2), np.float32), np.array([0, 3]), "labels must be in"),
        (np.array([[np.nan, 0]], np.float32), np.array([0]), "not finite"),
    ],
)
def test_what_cannot_vote_is_refused(bank, labels, message):
    with pytest.raises(ValueError, match=message):
        knn_log_votes(bank, labels, np.ones((1, 2), np.float32), num_classes=3)


def test_queries_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="not finite"):
        knn_log_votes(
            np.ones((2, 2), np.float32),
            np.zeros(2, int),
            np.full((1, 2), np.inf, np.float32),
            num_classes=3,
        )
