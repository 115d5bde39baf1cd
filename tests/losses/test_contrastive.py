"""SimCLR's and CLIP's losses against closed forms and a loop over pairs in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lzn_jax.losses import contrastive

nt_xent = jax.jit(contrastive.nt_xent, static_argnames="temperature")
info_nce = jax.jit(contrastive.info_nce, static_argnames="temperature")


def by_loops(first, second, temperature):
    """Chen et al., equation 1 and algorithm 1, pair by pair."""
    z = np.concatenate([first, second]).astype(np.float64)
    n = len(first)
    similarity = np.array([[a @ b / np.sqrt((a @ a) * (b @ b)) for b in z] for a in z])
    total = 0.0
    for i in range(2 * n):
        others = [np.exp(similarity[i, k] / temperature) for k in range(2 * n) if k != i]
        partner = (i + n) % (2 * n)
        total -= np.log(np.exp(similarity[i, partner] / temperature) / sum(others))
    return total / (2 * n)


@pytest.mark.parametrize("temperature", [0.07, 0.5])
def test_loss_is_that_of_a_loop_over_pairs(temperature):
    first, second = np.random.default_rng(0).normal(size=(2, 6, 4)).astype(np.float32)
    loss, _ = nt_xent(jnp.asarray(first), jnp.asarray(second), temperature=temperature)
    assert float(loss) == pytest.approx(by_loops(first, second, temperature), rel=1e-5)


def test_accuracy_is_the_share_that_finds_its_partner():
    first = jnp.eye(4)
    # 0 and 1 are next to their partners; 2 and 3 have changed theirs.
    second = first[jnp.array([0, 1, 3, 2])]
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


@pytest.mark.parametrize("temperature", [0.07, 0.5])
def test_loss_of_two_sides_is_that_of_a_loop_over_pairs(temperature):
    first, second = np.random.default_rng(1).normal(size=(2, 6, 4))
    loss, _ = info_nce(jnp.float32(first), jnp.float32(second), temperature=temperature)
    assert float(loss) == pytest.approx(by_pairs(first, second, temperature), rel=1e-5)


@pytest.mark.parametrize("rows", [[0, 2, 5], []])
def test_pairs_that_are_not_present_are_as_if_they_were_not_there(rows):
    first, second = np.random.default_rng(1).normal(size=(2, 6, 4)).astype(np.float32)
    is_present = jnp.zeros(6, bool).at[jnp.array(rows, int)].set(True)

    def loss_of(first):
        return info_nce(first, second, temperature=0.3, is_present=is_present)[0]

    loss, gradient = jax.value_and_grad(loss_of)(jnp.asarray(first))
    expected = by_pairs(first[rows], second[rows], 0.3) if rows else 0.0
    assert float(loss) == pytest.approx(expected, rel=1e-5)
    absent = np.setdiff1d(np.arange(6), rows)
    np.testing.assert_array_equal(gradient[absent], 0)
    assert bool(np.any(gradient)) == bool(rows)


def test_accuracy_counts_both_sides():
    first = jnp.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]])
    second = jnp.array([[1.0, 0.05], [0.0, 1.0], [0.1, 1.0]])
    cosines = np.asarray(first @ second.T) / np.outer(
        *(np.linalg.norm(x, axis=1) for x in (first, second))
    )
    right = [np.argmax(side, axis=1) == np.arange(3) for side in (cosines, cosines.T)]
    _, metrics = info_nce(first, second, temperature=0.1)
    assert 0 < np.mean(right) < 1
    assert float(metrics["assignment_accuracy"]) == pytest.approx(np.mean(right))
