"""The contrastive losses against closed forms and loops over pairs in float64."""

import functools

import jax
import numpy as np
import pytest

from lzn_jax.losses import contrastive

nt_xent = jax.jit(contrastive.nt_xent, static_argnames=("temperature", "decoupled"))
info_nce = jax.jit(contrastive.info_nce, static_argnames="temperature")
siglip = jax.jit(contrastive.siglip, static_argnames=("temperature", "bias"))


def by_loops(first, second, temperature, decoupled=False):
    """Chen et al., equation 1 and algorithm 1, pair by pair; Yeh et al., equation 6."""
    z = np.concatenate([first, second]).astype(np.float64)
    n = len(first)
    similarity = np.array([[a @ b / np.sqrt((a @ a) * (b @ b)) for b in z] for a in z])
    total = 0.0
    for i in range(2 * n):
        partner = (i + n) % (2 * n)
        left_out = {i, partner} if decoupled else {i}
        rows = [k for k in range(2 * n) if k not in left_out]
        others = np.exp(similarity[i, rows] / temperature)
        total -= np.log(np.exp(similarity[i, partner] / temperature) / sum(others))
    return total / (2 * n)


def test_accuracy_is_the_share_that_finds_its_partner():
    first = np.eye(4, dtype=np.float32)
    # 0 and 1 are next to their partners; 2 and 3 have changed theirs.
    second = first[[0, 1, 3, 2]]
    _, metrics = nt_xent(first, second, temperature=0.1)
    assert float(metrics["assignment_accuracy"]) == 0.5


def by_pairs(first, second, temperature):
    """Radford et al., figure 3: mean cross entropy of rows and of columns."""
    cosines = np.array([[a @ b / np.sqrt((a @ a) * (b @ b)) for b in second] for a in first])
    total = 0.0
    for logits in (cosines / temperature, cosines.T / temperature):
        for i, row in enumerate(logits):
            total -= row[i] - np.log(np.sum(np.exp(row)))
    return total / (2 * len(first))


def by_sigmoids(first, second, temperature, bias):
    """Zhai et al., algorithm 1, pair by pair."""
    total = 0.0
    for i, a in enumerate(first):
        for j, b in enumerate(second):
            logit = a @ b / np.sqrt((a @ a) * (b @ b)) / temperature + bias
            probability = 1 / (1 + np.exp(-logit))
            total -= np.log(probability if i == j else 1 - probability)
    return total / len(first)


@pytest.mark.parametrize(
    ("loss", "by_hand", "setting"),
    [
        (nt_xent, by_loops, {"temperature": 0.07}),
        (nt_xent, by_loops, {"temperature": 0.5}),
        (nt_xent, by_loops, {"temperature": 0.07, "decoupled": True}),
        (nt_xent, by_loops, {"temperature": 0.5, "decoupled": True}),
        (info_nce, by_pairs, {"temperature": 0.07}),
        (info_nce, by_pairs, {"temperature": 0.5}),
        (siglip, by_sigmoids, {"temperature": 0.3, "bias": -2.0}),
        (siglip, by_sigmoids, {"temperature": 0.3, "bias": 0.5}),
    ],
)
def test_loss_is_that_of_a_loop_over_pairs(loss, by_hand, setting):
    first, second = np.random.default_rng(1).normal(size=(2, 6, 4)).astype(np.float32)
    found, metrics = loss(first, second, **setting)
    expected = by_hand(*np.float64([first, second]), **setting)
    assert float(found) == pytest.approx(expected, rel=1e-5)
    if loss is siglip:
        _, expected = info_nce(first, second, temperature=0.3)
        assert float(metrics["assignment_accuracy"]) == expected["assignment_accuracy"]


TWO_SIDED = {
    "info_nce": (contrastive.info_nce, by_pairs, {"temperature": 0.3}),
    "siglip": (contrastive.siglip, by_sigmoids, {"temperature": 0.3, "bias": -1.0}),
}


@functools.cache
def with_gradient(name):
    loss, _, setting = TWO_SIDED[name]
    return jax.jit(jax.value_and_grad(functools.partial(loss, **setting), has_aux=True))


@pytest.mark.parametrize("rows", [[0, 2, 5], []])
@pytest.mark.parametrize("name", TWO_SIDED)
def test_pairs_that_are_not_present_are_as_if_they_were_not_there(name, rows):
    _, by_hand, setting = TWO_SIDED[name]
    first, second = np.random.default_rng(1).normal(size=(2, 6, 4)).astype(np.float32)
    is_present = np.isin(np.arange(6), rows)
    (loss, metrics), gradient = with_gradient(name)(first, second, is_present=is_present)
    expected = by_hand(first[rows], second[rows], **setting) if rows else 0.0
    if rows:
        (_, same), _ = with_gradient(name)(first[rows], second[rows])
        assert float(metrics["assignment_accuracy"]) == pytest.approx(
            float(same["assignment_accuracy"])
        )
    assert float(loss) == pytest.approx(expected, rel=1e-5)
    absent = np.setdiff1d(np.arange(6), rows)
    np.testing.assert_array_equal(np.asarray(gradient)[absent], 0)
    assert bool(np.any(gradient)) == bool(rows)


def test_accuracy_counts_both_sides():
    first = np.float32([[1, 0], [0.9, 0.1], [0, 1]])
    second = np.float32([[1, 0.05], [0, 1], [0.1, 1]])
    cosines = first @ second.T / np.outer(*(np.linalg.norm(x, axis=1) for x in (first, second)))
    right = [np.argmax(side, axis=1) == np.arange(3) for side in (cosines, cosines.T)]
    _, metrics = info_nce(first, second, temperature=0.1)
    assert 0 < np.mean(right) < 1
    assert float(metrics["assignment_accuracy"]) == pytest.approx(np.mean(right))
