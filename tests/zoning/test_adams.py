"""Adams-Bashforth on the grid of the anchors is the scheme that it says it is: the oracle's."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
import small
from oracle import relative_error

from lzn_jax.zoning import (
    AdamsBashforth,
    assignment_log_probs,
    classify,
    compute_latents,
    decode,
)


def _case(kind):
    """Anchors, noise, own anchors and log weights, some of them unusual."""
    rng = np.random.default_rng(3)
    anchors, noise, own = rng.normal(size=(14, 5)), rng.normal(size=(9, 5)), rng.integers(0, 14, 9)
    log_weights = np.zeros(14)
    if kind == "weights":
        log_weights = rng.normal(size=14)
    if kind == "near duplicates":
        anchors[7:] = anchors[:7] + 1e-3 * rng.normal(size=(7, 5))
    if kind == "no noise":
        noise = np.zeros_like(noise)
    return anchors, noise, own, log_weights


@functools.partial(jax.jit, static_argnames="solver")
def _both_ways(anchors, noise, own, log_weights, solver):
    """Latents, points and log assignments of noise."""
    kwargs = {"solver": solver, "log_weights": log_weights}
    latents = compute_latents(anchors, noise, own, **kwargs)
    points = decode(noise, anchors, **kwargs)
    log_probs = assignment_log_probs(noise, anchors, own, **kwargs)
    return latents, points, log_probs


@pytest.mark.parametrize(
    ("kind", "steps", "order"),
    [
        *(("weights", steps, 3) for steps in (1, 2, 7)),
        *small.slow(*(("weights", steps, order) for steps in (1, 7) for order in (1, 2))),
        ("near duplicates", 7, 3),
        ("no noise", 7, 3),
    ],
)
def test_orders_and_steps(kind, steps, order, x64):
    anchors, noise, own, log_weights = _case(kind)
    solver = AdamsBashforth(steps, order)
    found = _both_ways(anchors, noise, own, log_weights, solver)
    latents = oracle.adams_latents(anchors, noise, own, steps, order, log_weights)
    points, log_p = oracle.adams_decode(noise, anchors, steps, min(order, 2), log_weights)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-9)
    jax.tree.map(close, found, (latents, points, log_p[:, np.arange(9), own]))


# Unusual anchors


def test_where_no_anchor_differs_the_latent_is_the_noise():
    rng = np.random.default_rng(8)
    (anchor,), noise = np.float32(rng.normal(size=(1, 4))), rng.normal(size=(9, 4))
    equal, noise = np.tile(anchor, (9, 1)), np.float32(np.concatenate([0 * noise, noise]))

    @jax.jit
    def outputs(anchors, noise, log_weights):
        kwargs = {"solver": AdamsBashforth(4), "log_weights": log_weights}

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
    kwargs = {"solver": AdamsBashforth(8), "log_weights": np.float64(log_weights[kept])}
    alone = np.float64(anchors[kept])
    latents = oracle.compute_latents(alone, np.float64(noise[:50]), np.arange(50), **kwargs)
    expected = latents, oracle.decode(latents, alone, **kwargs)
    np.testing.assert_allclose(found[0], expected[0], atol=1e-5)
    # The sample of anchors whose neighbours set the last step is another one.
    assert relative_error(found[1], expected[1]) <= 0.02


def test_latents_decode_to_their_own_anchor():
    rng = np.random.default_rng(7)
    anchors, noise = rng.normal(size=(2, 200, 16))
    latents = oracle.compute_latents(anchors, noise, solver=AdamsBashforth(20))
    ends = classify(*map(np.float32, (latents, anchors)), solver=AdamsBashforth(20))
    assert np.mean(np.asarray(ends) == np.arange(200)) >= 0.97


def test_the_scale_and_the_place_of_anchors_change_nothing():
    rng = np.random.default_rng(11)
    anchors, noise = np.float32(rng.normal(size=(2, 50, 6)))
    latents = compute_latents(anchors, noise, solver=AdamsBashforth(8))
    for moved in (1024 * anchors, anchors / 1024, anchors + 64):
        found = compute_latents(moved, noise, solver=AdamsBashforth(8))
        np.testing.assert_allclose(found, latents, atol=2e-4)
