"""Assignments to all anchors at once, weights of queries and latents that are left out."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracle import in_float64

from lzn_jax import zoning
from lzn_jax.zoning import devices

SOLVERS = [zoning.Euler(9), zoning.DPMSolver(12), zoning.AdamsBashforth(9)]
KINDS = ["Euler", "DPMSolver", "Adams"]


def _draw(m, n, q=5, spread=1.5, seed=0):
    rng = np.random.default_rng(seed)
    return (
        rng.standard_normal((m, q)).astype(np.float32),
        (spread * rng.standard_normal((n, q))).astype(np.float32),
        rng.normal(size=n).astype(np.float32),
    )


def _by_plain(solver, latents, anchors, log_weights):
    return zoning.plain.follow(latents, None, anchors, solver, log_weights)[1]


@pytest.mark.parametrize("solver", SOLVERS, ids=KINDS)
def test_assignments_and_their_gradients_are_those_of_the_plain_form(solver, x64, monkeypatch):
    monkeypatch.setattr(devices, "BLOCK_LOGITS", 5 * 8)  # several blocks
    latents, anchors, log_weights = map(np.float64, _draw(9, 7))
    anchors[6] = anchors[2] + 1e-3  # nearly equal
    factors = np.random.default_rng(1).normal(size=(solver.num_steps, 9, 7))

    def found(latents, anchors, log_weights):
        anchors = jnp.append(anchors, jnp.full((1, 5), jnp.nan), axis=0)
        log_weights = jnp.append(log_weights, -jnp.inf)
        log_p = zoning.log_assignments.__wrapped__(
            latents, anchors, solver=solver, log_weights=log_weights
        )
        return jnp.sum(factors * log_p[..., :7]), log_p

    def exact(latents, anchors, log_weights):
        anchors = jnp.append(anchors, jnp.zeros((1, 5)), axis=0)
        log_p = _by_plain(solver, latents, anchors, jnp.append(log_weights, -jnp.inf))
        return jnp.sum(factors * log_p[..., :7]), log_p

    (_, values), gradients = jax.jit(jax.value_and_grad(found, (0, 1, 2), has_aux=True))(
        latents, anchors, log_weights
    )
    (_, expected), slopes = jax.jit(jax.value_and_grad(exact, (0, 1, 2), has_aux=True))(
        latents, anchors, log_weights
    )
    close = functools.partial(np.testing.assert_allclose, rtol=1e-7, atol=1e-7)
    close(values, expected)
    assert np.isneginf(values[..., 7]).all()
    jax.tree.map(close, gradients, slopes)


@pytest.mark.parametrize("count", [1, 2])
def test_assignments_among_fewer_anchors_than_neighbours_have_a_gradient(count):
    latents, anchors, _ = _draw(4, count)

    def total(latents, anchors):
        log_p = zoning.log_assignments(latents, anchors, solver=zoning.Euler(5))
        return jnp.sum(log_p[-1] * jnp.arange(1.0, count + 1))

    def plain_total(latents, anchors):
        log_p = _by_plain(zoning.Euler(5), latents, anchors, None)
        return jnp.sum(log_p[-1] * jnp.arange(1.0, count + 1))

    found = jax.grad(total, (0, 1))(latents, anchors)
    expected = in_float64(jax.jit(jax.grad(plain_total, (0, 1))), latents, anchors)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4)
    jax.tree.map(close, found, expected)


def test_label_smoothing_of_certain_assignments_has_a_gradient():
    anchors = np.float32(20 * np.eye(4))  # where the flow's steps are certain

    def smoothed(latents):
        log_p = zoning.log_assignments(latents, anchors, solver=zoning.Euler(4))[-1]
        return -jnp.mean(0.9 * jnp.diagonal(log_p) + 0.1 * jnp.mean(log_p, axis=1))

    def exact(latents):
        log_p = _by_plain(zoning.Euler(4), latents, jnp.float64(anchors), None)[-1]
        return -jnp.mean(0.9 * jnp.diagonal(log_p) + 0.1 * jnp.mean(log_p, axis=1))

    expected = in_float64(jax.jit(jax.grad(exact)), anchors)
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(jax.grad(smoothed)(anchors), expected, rtol=1e-4, atol=1e-5)


def test_nearly_equal_anchors_share_an_assignment():
    latents, anchors, _ = _draw(8, 4)
    pairs = np.repeat(anchors, 2, axis=0) + np.tile([[0.0], [1e-6]], (4, 1)).astype(np.float32)
    found = np.exp(zoning.log_assignments(latents, pairs, solver=zoning.Euler(10)))
    alone = np.exp(zoning.log_assignments(latents, anchors, solver=zoning.Euler(10)))
    np.testing.assert_allclose(found[..., ::2] + found[..., 1::2], alone, atol=1e-4)


@pytest.mark.parametrize("solver", SOLVERS, ids=KINDS)
def test_a_query_of_weight_k_is_k_equal_samples(solver, x64):
    queries, context, log_weights = map(np.float64, _draw(6, 5, seed=2))
    noise = np.float64(_draw(6, 1, seed=3)[0])
    own_log_weights = np.log(np.arange(1.0, 7.0))

    def in_context(queries, context, log_weights, own_log_weights):
        kwargs = {"log_weights": log_weights, "query_log_weights": own_log_weights}
        latents = zoning.latents_in_context(queries, context, noise, solver=solver, **kwargs)
        return jnp.sum(jnp.sin(latents))

    def one_by_one(queries, context, log_weights, own_log_weights):
        @jax.vmap
        def latent(query, noise, own_log_weight):
            anchors = jnp.concatenate([context, query[None]])
            kwargs = {"solver": solver, "log_weights": jnp.append(log_weights, own_log_weight)}
            return zoning.compute_latents(anchors, noise[None], jnp.array([5]), **kwargs)

        return jnp.sum(jnp.sin(latent(queries, noise, own_log_weights)))

    found, expected = (
        jax.value_and_grad(f, (0, 1, 2, 3))(queries, context, log_weights, own_log_weights)
        for f in (in_context, one_by_one)
    )
    close = functools.partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-8)
    jax.tree.map(close, found, expected)


def test_latents_that_are_not_present_take_no_part_in_the_loss():
    latents, anchors, _ = _draw(8, 5, seed=4)
    targets, rows = np.arange(8) % 5, np.flatnonzero(np.arange(8) % 3)

    def loss(latents, anchors, targets=targets, is_present=None):
        kwargs = {"solver": zoning.Euler(7), "is_present": is_present}
        return zoning.alignment_loss(latents, anchors, targets, **kwargs)

    def loss_of_rows(latents, anchors):
        return loss(latents[rows], anchors, targets[rows])

    is_present = np.isin(np.arange(8), rows)
    gradients = functools.partial(jax.value_and_grad, argnums=(0, 1), has_aux=True)
    found = gradients(functools.partial(loss, is_present=is_present))(latents, anchors)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)
    jax.tree.map(close, found, gradients(loss_of_rows)(latents, anchors))


def test_a_loss_of_no_latent_that_is_present_is_0_and_so_is_its_gradient():
    latents, anchors, _ = _draw(4, 3)

    def loss(latents):
        return zoning.alignment_loss(
            latents, anchors, np.zeros(4, int), solver=zoning.Euler(4), is_present=np.zeros(4, bool)
        )[0]

    value, gradient = jax.value_and_grad(loss)(latents)
    assert value == 0
    assert not gradient.any()
