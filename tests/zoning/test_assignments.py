"""Assignments to all anchors at once, weights of queries and latents that are left out."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest

from lzn_jax import zoning
from lzn_jax.zoning import devices

SOLVERS = [zoning.DPMSolver(12), zoning.AdamsBashforth(9)]
KINDS = ["DPMSolver", "Adams"]


def _draw(m, n, q=5, spread=1.5, seed=0):
    rng = np.random.default_rng(seed)
    return (
        rng.standard_normal((m, q)).astype(np.float32),
        (spread * rng.standard_normal((n, q))).astype(np.float32),
        rng.normal(size=n).astype(np.float32),
    )


@pytest.mark.parametrize("solver", SOLVERS, ids=KINDS)
def test_assignments_and_their_gradients_are_exact(solver, x64, monkeypatch):
    monkeypatch.setattr(devices, "BLOCK_LOGITS", 5 * 8)  # several blocks
    arrays = [np.float64(a) for a in _draw(9, 7)]
    arrays[1][6] = arrays[1][2] + 1e-3  # nearly equal
    factors = np.random.default_rng(1).normal(size=(solver.num_steps, 9, 7))

    @jax.jit
    @functools.partial(jax.grad, argnums=(0, 1, 2), has_aux=True)
    def found(latents, anchors, log_weights):
        anchors = jnp.append(anchors, jnp.full((1, 5), jnp.nan), axis=0)
        log_weights = jnp.append(log_weights, -jnp.inf)
        log_p = zoning.log_assignments.__wrapped__(
            latents, anchors, solver=solver, log_weights=log_weights
        )
        return jnp.sum(factors * log_p[..., :7]), log_p

    def exact(latents, anchors, log_weights):
        anchors, log_weights = np.vstack([anchors, np.zeros(5)]), np.append(log_weights, -np.inf)
        return oracle.log_assignments(latents, anchors, solver=solver, log_weights=log_weights)

    gradients, values = found(*arrays)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-7, atol=1e-7)
    close(values, exact(*arrays))
    assert np.isneginf(values[..., 7]).all()
    slopes = oracle.gradients(lambda *arrays: (factors * exact(*arrays)[..., :7]).sum(), *arrays)
    jax.tree.map(close, gradients, slopes)


@pytest.mark.parametrize("count", [1, 2])
def test_assignments_among_fewer_anchors_than_neighbours_have_a_gradient(count):
    arrays = _draw(4, count)[:2]

    def total(latents, anchors, form=zoning):
        log_p = form.log_assignments(latents, anchors, solver=zoning.Euler(5))
        return (log_p[-1] * np.arange(1.0, count + 1)).sum()

    found = jax.jit(jax.grad(total, (0, 1)))(*arrays)
    expected = oracle.gradients(functools.partial(total, form=oracle), *arrays)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4)
    jax.tree.map(close, found, expected)


def test_label_smoothing_of_certain_assignments_has_a_gradient():
    anchors = np.float32(20 * np.eye(4))  # where the flow's steps are certain

    def smoothed(latents, form=zoning):
        log_p = form.log_assignments(latents, anchors, solver=zoning.Euler(4))[-1]
        return -(0.9 * log_p.diagonal() + 0.1 * log_p.mean(1)).mean()

    (expected,) = oracle.gradients(functools.partial(smoothed, form=oracle), anchors)
    assert np.abs(expected).max() > 0.1
    found = jax.jit(jax.grad(smoothed))(anchors)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_nearly_equal_anchors_share_an_assignment():
    latents, anchors, _ = _draw(8, 4)
    pairs = np.repeat(anchors, 2, axis=0) + np.tile([[0.0], [1e-6]], (4, 1)).astype(np.float32)
    found = np.exp(zoning.log_assignments(latents, pairs, solver=zoning.Euler(10)))
    arrays = np.float64(latents), np.float64(anchors)
    alone = np.exp(oracle.log_assignments(*arrays, solver=zoning.Euler(10)))
    np.testing.assert_allclose(found[..., ::2] + found[..., 1::2], alone, atol=1e-4)


@pytest.mark.parametrize("solver", SOLVERS, ids=KINDS)
def test_a_query_of_weight_k_is_k_equal_samples(solver, x64):
    queries, context, log_weights = map(np.float64, _draw(3, 5, seed=2))
    noise = np.float64(_draw(3, 1, seed=3)[0])
    arrays = queries, context, log_weights, np.log(np.arange(1.0, 4.0))

    @jax.jit
    @functools.partial(jax.value_and_grad, argnums=(0, 1, 2, 3))
    def in_context(queries, context, log_weights, own_log_weights):
        kwargs = {"log_weights": log_weights, "query_log_weights": own_log_weights}
        latents = zoning.latents_in_context(queries, context, noise, solver=solver, **kwargs)
        return jnp.sum(latents**2)

    def one_by_one(queries, context, log_weights, own_log_weights):
        total = 0.0
        for k in range(3):
            anchors, own = np.vstack([context, queries[k]]), np.array([5])
            kwargs = {"solver": solver, "log_weights": np.append(log_weights, own_log_weights[k])}
            total += (oracle.compute_latents(anchors, noise[[k]], own, **kwargs) ** 2).sum()
        return total

    expected = one_by_one(*arrays), oracle.gradients(one_by_one, *arrays)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-8)
    jax.tree.map(close, in_context(*arrays), expected)


def test_latents_that_are_not_present_take_no_part_in_the_loss():
    latents, anchors, _ = _draw(8, 5, seed=4)
    targets, is_present = np.arange(8) % 5, np.arange(8) % 3 > 0
    kwargs = {"solver": zoning.Euler(7)}

    @jax.jit
    @functools.partial(jax.value_and_grad, argnums=(0, 1), has_aux=True)
    def loss(latents, anchors):
        return zoning.alignment_loss(latents, anchors, targets, is_present=is_present, **kwargs)

    def loss_of_rows(latents, anchors):
        rows = latents[is_present], anchors, targets[is_present]
        return oracle.alignment_loss(*rows, **kwargs)

    arrays = np.float64(latents), np.float64(anchors)
    slopes = oracle.gradients(lambda *arrays: loss_of_rows(*arrays)[0], *arrays)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)
    jax.tree.map(close, loss(latents, anchors), (loss_of_rows(*arrays), slopes))


def test_a_loss_of_no_latent_that_is_present_is_0_and_so_is_its_gradient():
    latents, anchors, _ = _draw(4, 3)

    @jax.jit
    @jax.value_and_grad
    def loss(latents):
        return zoning.alignment_loss(
            latents, anchors, np.zeros(4, int), solver=zoning.Euler(4), is_present=np.zeros(4, bool)
        )[0]

    value, gradient = loss(latents)
    assert value == 0
    assert not np.any(gradient)
