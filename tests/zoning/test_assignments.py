"""Assignments to all anchors at once, weights of queries and latents that are left out."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small
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


@pytest.mark.parametrize("cutoff", [0.0, 0.5])
def test_the_best_assignments_are_the_plain_forms(cutoff):
    latents, anchors, log_weights = _draw(11, 7)
    found = zoning.best_assignment_log_probs(
        latents, anchors, solver=zoning.Euler(8), cutoff=cutoff, log_weights=log_weights
    )

    @jax.jit
    def exact(latents, anchors, log_weights):
        return zoning.plain.follow(latents, None, anchors, zoning.Euler(8), log_weights)[1]

    expected = in_float64(exact, latents, anchors, log_weights)
    np.testing.assert_allclose(found, expected[int(8 * cutoff) :].max(axis=0), rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("n", [3, *small.slow(1, 2, 40)])
@pytest.mark.parametrize("solver", SOLVERS, ids=KINDS)
def test_they_are_those_that_are_found_target_by_target(solver, n, monkeypatch):
    monkeypatch.setattr(devices, "BLOCK_LOGITS", 5 * n)  # several blocks
    latents, anchors, _ = _draw(9, n)
    found = zoning.best_assignment_log_probs(latents, anchors, solver=solver, cutoff=0.3)
    for target in range(0, n, 5):
        each = zoning.assignment_log_probs(latents, anchors, jnp.full(9, target), solver=solver)
        best = np.max(each[int(0.3 * solver.num_steps) :], axis=0)
        np.testing.assert_allclose(found[:, target], best, rtol=1e-4, atol=1e-4)


def test_a_removed_anchor_is_never_assigned_and_changes_nothing():
    latents, anchors, log_weights = _draw(6, 5)
    kwargs = {"solver": zoning.Euler(6)}
    removed = np.where(np.arange(5) == 2, -np.inf, log_weights).astype(np.float32)
    found = zoning.best_assignment_log_probs(latents, anchors, log_weights=removed, **kwargs)
    assert np.isneginf(found[:, 2]).all()
    others = np.array([0, 1, 3, 4])
    expected = zoning.best_assignment_log_probs(
        latents, anchors[others], log_weights=log_weights[others], **kwargs
    )
    np.testing.assert_allclose(found[:, others], expected, rtol=1e-5, atol=1e-5)


def test_nearly_equal_anchors_share_an_assignment():
    latents, anchors, _ = _draw(8, 4)
    pairs = np.repeat(anchors, 2, axis=0) + np.tile([[0.0], [1e-6]], (4, 1)).astype(np.float32)
    solver = zoning.Euler(10)
    found = np.exp(zoning.best_assignment_log_probs(latents, pairs, solver=solver, cutoff=0.2))
    alone = np.exp(zoning.best_assignment_log_probs(latents, anchors, solver=solver, cutoff=0.2))
    np.testing.assert_allclose(found[:, ::2] + found[:, 1::2], alone, atol=1e-4)


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
