"""Adams-Bashforth on the grid of the anchors is the scheme that it says it is: the oracle's.

The grid has no gradient, in neither of them.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from oracle import relative_error

from lzn_jax.zoning import (
    AdamsBashforth,
    alignment_loss,
    assignment_log_probs,
    classify,
    compute_latents,
    decode,
    latents_in_context,
)

FIVE_STEPS = AdamsBashforth(5)


def _case(kind, rng):
    """Anchors, noise, own anchors and log weights, some of them unusual."""
    anchors, noise, own = rng.normal(size=(14, 5)), rng.normal(size=(9, 5)), rng.integers(0, 14, 9)
    log_weights = np.zeros(14)
    if kind == "weights":
        log_weights = rng.normal(size=14)
    if kind == "near duplicates":
        anchors[7:] = anchors[:7] + 1e-3 * rng.normal(size=(7, 5))
    if kind == "no noise":
        noise = np.zeros_like(noise)
    return (anchors, noise, log_weights), own


def _assert_same(found, exact):
    """Values and gradients, of one number, by all arrays."""
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-7, atol=1e-9), found, exact)


@functools.partial(jax.jit, static_argnames="solver")
def _both_ways(anchors, noise, own, log_weights, solver):
    kwargs = {"solver": solver, "log_weights": log_weights}
    return compute_latents(anchors, noise, own, **kwargs), decode(noise, anchors, **kwargs)


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_orders_and_steps(order, steps, x64):
    (anchors, noise, log_weights), own = _case("weights", np.random.default_rng(3))
    latents, points = _both_ways(anchors, noise, own, log_weights, AdamsBashforth(steps, order))
    exact = oracle.adams_latents(anchors, noise, own, steps, order, log_weights)
    np.testing.assert_allclose(latents, exact, rtol=1e-9, atol=1e-9)
    exact, _ = oracle.adams_decode(noise, anchors, steps, min(order, 2), log_weights)
    np.testing.assert_allclose(points, exact, rtol=1e-9, atol=1e-9)


@jax.jit
@functools.partial(jax.value_and_grad, argnums=(0, 1, 2))
def _sum_of_latents(anchors, noise, log_weights, own):
    latents = compute_latents(anchors, noise, own, solver=FIVE_STEPS, log_weights=log_weights)
    return jnp.sum(jnp.sin(latents))


@pytest.mark.parametrize("kind", ["weights", "near duplicates", "no noise"])
def test_value_and_gradient_are_the_schemes(kind, x64):
    arrays, own = _case(kind, np.random.default_rng(4))

    def exact(anchors, noise, log_weights):
        latents = oracle.adams_latents(anchors, noise, own, 5, 3, log_weights[:, None])
        return np.sin(latents).sum((-1, -2))

    _assert_same(_sum_of_latents(*arrays, own), oracle.value_and_gradients(exact, *arrays))


def test_queries_in_a_context_are_anchors_of_their_own(x64):
    rng = np.random.default_rng(5)
    arrays = [rng.normal(size=shape) for shape in ((3, 4), (12, 4), (3, 4), (12,))]

    def total(queries, context, noise, log_weights):
        kwargs = {"solver": FIVE_STEPS, "log_weights": log_weights}
        return jnp.sum(jnp.sin(latents_in_context(queries, context, noise, **kwargs)))

    def exact(*arrays):
        latents = oracle.latents_in_context(oracle.adams_latents, *arrays, num_steps=5)
        return np.sin(latents).sum((-1, -2))

    found = jax.jit(jax.value_and_grad(total, (0, 1, 2, 3)))(*arrays)
    _assert_same(found, oracle.value_and_gradients(exact, *arrays))


def test_assignments_and_the_loss_are_the_schemes(x64):
    rng = np.random.default_rng(6)
    latents, anchors = (rng.normal(size=(k, 6)) for k in (20, 12))
    targets = rng.integers(0, 12, 20)

    @jax.jit
    @functools.partial(jax.value_and_grad, argnums=(0, 1), has_aux=True)
    def loss(latents, anchors):
        arrays = latents, anchors, targets
        log_probs = assignment_log_probs(*arrays, solver=FIVE_STEPS)
        return alignment_loss(*arrays, solver=FIVE_STEPS)[0], log_probs

    def exact(latents, anchors):
        return oracle.alignment_loss(oracle.adams_decode(latents, anchors, 5)[1], targets, 1)

    (value, log_probs), gradients = loss(latents, anchors)
    _, log_p = oracle.adams_decode(latents, anchors, 5)
    np.testing.assert_allclose(log_probs, log_p[:, np.arange(20), targets], rtol=1e-9, atol=1e-9)
    _assert_same((value, gradients), oracle.value_and_gradients(exact, latents, anchors))


# Unusual anchors


@pytest.mark.parametrize("steps", [1, 4])
def test_where_no_anchor_differs_the_latent_is_the_noise(steps):
    rng = np.random.default_rng(8)
    (anchor,), noise = np.float32(rng.normal(size=(1, 4))), rng.normal(size=(9, 4))
    equal, noise = np.tile(anchor, (9, 1)), np.float32(np.concatenate([0 * noise, noise]))

    @jax.jit
    def outputs(anchors, noise, log_weights):
        kwargs = {"solver": AdamsBashforth(steps), "log_weights": log_weights}

        def latents(anchors, noise):
            return compute_latents(anchors, noise, jnp.zeros(18, int), **kwargs)

        found, pull = jax.vjp(latents, anchors, noise)
        return found, decode(noise, anchors, **kwargs), pull(jnp.ones_like(found))

    for count in (1, 2, 9):  # one anchor, two equal ones, all equal; the others are removed
        log_weights = np.where(np.arange(9) < count, 0, -np.inf).astype(np.float32)
        found, points, gradients = outputs(equal, noise, log_weights)
        np.testing.assert_allclose(found, noise, atol=1e-6)
        np.testing.assert_allclose(points, np.tile(anchor, (18, 1)), atol=1e-6)
        assert all(np.all(np.isfinite(gradient)) for gradient in gradients)


def test_removed_anchors_are_as_if_absent():
    rng = np.random.default_rng(10)
    anchors, noise = np.float32(rng.normal(size=(2, 300, 6)))
    kept = rng.permutation(300)[:200]
    log_weights = np.full(300, -np.inf, np.float32)
    log_weights[kept] = rng.normal(size=200)

    @jax.jit
    def both(anchors, own, log_weights):
        kwargs = {"solver": AdamsBashforth(8), "log_weights": log_weights}
        latents = compute_latents(anchors, noise[:50], own, **kwargs)
        return latents, decode(latents, anchors, **kwargs)

    found = both(anchors, kept[:50], log_weights)
    expected = both(anchors[kept], np.arange(50), log_weights[kept])
    np.testing.assert_allclose(found[0], expected[0], atol=1e-5)
    # The sample of anchors whose neighbours set the last step is another one.
    assert relative_error(found[1], expected[1]) <= 0.02


def test_latents_decode_to_their_own_anchor():
    rng = np.random.default_rng(7)
    anchors, noise = np.float32(rng.normal(size=(2, 200, 16)))

    @jax.jit
    def ends(anchors, noise):
        latents = compute_latents(anchors, noise, solver=AdamsBashforth(20))
        return classify(latents, anchors, solver=AdamsBashforth(20))

    assert np.mean(ends(anchors, noise) == np.arange(200)) >= 0.97


def test_the_scale_and_the_place_of_anchors_change_nothing():
    rng = np.random.default_rng(11)
    anchors, noise = np.float32(rng.normal(size=(2, 50, 6)))
    latents = compute_latents(anchors, noise, solver=AdamsBashforth(8))
    for moved in (1024 * anchors, anchors / 1024, anchors + 64):
        found = compute_latents(moved, noise, solver=AdamsBashforth(8))
        np.testing.assert_allclose(found, latents, atol=2e-4)
