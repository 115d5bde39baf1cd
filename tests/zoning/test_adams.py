"""Adams-Bashforth on the grid of the anchors: exact within bars, and the scheme that it says it is.

Errors are relative, in the Frobenius norm; the truth is Runge-Kutta of order 4 in float64 on the
plain form of the flow, the oracle's, which gets the float32 inputs exactly.
"""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from oracle import in_float64, relative_error

from lzn_jax.zoning import (
    AdamsBashforth,
    alignment_loss,
    assignment_log_probs,
    classify,
    compute_latents,
    decode,
    latents_in_context,
)

# Bounds on errors hold for optimised programs, as users run them.
pytestmark = pytest.mark.usefixtures("full_speed")

ALPHAS = pytest.mark.parametrize("noise_scale", [0.0, 0.45, 1.0])
TRAINED = Path(__file__).parents[1] / "golden" / "digits_anchors.npz"


def _anchors(case, n, q, rng):
    match case.split():
        case ["Gaussian", scale]:
            return float(scale) * rng.normal(size=(n, q))
        case ["clusters"]:
            return rng.normal(size=(10, q))[rng.integers(0, 10, n)] + 0.2 * rng.normal(size=(n, q))
        case ["labels"]:
            return 0.5 * rng.normal(size=(10, q))
        case ["pairs", distance]:
            first, offsets = rng.normal(size=(2, n // 2, q))
            offsets /= np.linalg.norm(offsets, axis=1, keepdims=True)
            return np.concatenate([first, first + float(distance) * offsets])


@functools.cache
def _problem(case, noise_scale, n=160, q=48, seed=0):
    """Anchors, noise and exact latents."""
    rng = np.random.default_rng(seed)
    anchors = np.float32(_anchors(case, n, q, rng))
    noise = np.float32(noise_scale * rng.normal(size=anchors.shape))
    own = np.arange(len(anchors))
    return anchors, noise, in_float64(lambda a, e: oracle.exact_latents(a, e, own), anchors, noise)


# How near to the exact flow


@ALPHAS
@pytest.mark.parametrize(
    ("case", "bars"),
    [
        ("Gaussian 0.05", {10: 0.005, 20: 0.0005}),
        ("Gaussian 0.3", {10: 0.005, 20: 0.0005}),
        ("Gaussian 1", {10: 0.005, 20: 0.0005}),
        ("Gaussian 4", {10: 0.005, 20: 0.0005}),
        ("labels", {10: 0.005, 20: 0.0005}),
        ("clusters", {10: 0.025, 20: 0.004}),
        ("pairs 1e-2", {20: 0.05, 40: 0.01}),
        ("pairs 1e-4", {40: 0.04}),
    ],
)
def test_latents_are_exact_whatever_the_scale_of_the_anchors(case, bars, noise_scale):
    anchors, noise, exact = _problem(case, noise_scale)
    for steps, bar in bars.items():
        latents = compute_latents(anchors, noise, solver=AdamsBashforth(steps))
        assert relative_error(latents, exact) <= bar, steps


OWN = np.arange(32)


@pytest.mark.parametrize(
    ("case", "n", "q", "bar"),
    [
        # Among many anchors in few dimensions a few points pass sharply from one to the next.
        ("Gaussian 1", 1024, 32, 0.0015),
        ("Gaussian 1", 512, 256, 0.0005),
        ("clusters", 1024, 32, 0.004),
        ("clusters", 512, 256, 0.004),
    ],
)
def test_latents_of_many_anchors(case, n, q, bar):
    # Of the first points, as all of the exact ones would take a minute.
    rng = np.random.default_rng(1)
    anchors = np.float32(_anchors(case, n, q, rng))
    for noise_scale in (0.0, 1.0):
        noise = np.float32(noise_scale * rng.normal(size=(32, q)))
        exact = in_float64(lambda a, e: oracle.exact_latents(a, e, OWN, 120), anchors, noise)
        latents = compute_latents(anchors, noise, OWN, solver=AdamsBashforth(20))
        assert relative_error(latents, exact) <= bar


@pytest.mark.parametrize(("noise_scale", "factor"), [(0.0, 15), (1.0, 100)])
def test_error_falls_with_the_steps(x64, noise_scale, factor):
    anchors, noise, exact = (np.float64(a) for a in _problem("Gaussian 1", noise_scale))
    coarse, fine = (
        relative_error(compute_latents(anchors, noise, solver=AdamsBashforth(steps)), exact)
        for steps in (20, 160)
    )
    assert fine <= coarse / factor


@pytest.mark.parametrize("case", ["Gaussian 1", "clusters"])
def test_gradient_is_that_of_the_exact_flow(case, x64):
    anchors, noise, _ = (np.float64(a) for a in _problem(case, 1.0, n=96, q=32))
    own, factors = np.arange(len(anchors)), np.random.default_rng(2).normal(size=anchors.shape)

    def gradients(latents):
        total = jax.grad(lambda a, e: jnp.sum(jnp.sin(latents(a, e)) * factors), (0, 1))
        return jax.jit(total)(anchors, noise)

    found = gradients(lambda a, e: compute_latents(a, e, solver=AdamsBashforth(20)))
    exact = gradients(lambda a, e: oracle.exact_latents(a, e, own, 150))
    assert max(map(relative_error, found, exact)) <= 0.03


@pytest.mark.parametrize("case", ["Gaussian 0.3", "Gaussian 4", "clusters"])
def test_variance_of_latents_is_that_of_the_exact_ones(case):
    anchors, noise, exact = _problem(case, 1.0)
    latents = np.float64(compute_latents(anchors, noise, solver=AdamsBashforth(20)))
    assert np.var(latents) / np.var(exact) == pytest.approx(1, abs=0.01)


# What it computes: the oracle's scheme, whose grid has no gradient either


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


def _assert_same(function, oracles, *arrays):
    """Values and gradients, of one number, by all arrays."""
    by = tuple(range(len(arrays)))
    found, exact = (jax.jit(jax.value_and_grad(f, by))(*arrays) for f in (function, oracles))
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-7, atol=1e-9), found, exact)


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_orders_and_steps(order, steps, x64):
    (anchors, noise, log_weights), own = _case("weights", np.random.default_rng(3))
    kwargs = {"solver": AdamsBashforth(steps, order), "log_weights": log_weights}
    latents = compute_latents(anchors, noise, own, **kwargs)
    exact = oracle.adams_latents(anchors, noise, own, steps, order, log_weights)
    np.testing.assert_allclose(latents, exact, rtol=1e-9, atol=1e-9)
    points = decode(noise, anchors, **kwargs)
    exact, _ = oracle.adams_decode(noise, anchors, steps, min(order, 2), log_weights)
    np.testing.assert_allclose(points, exact, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", ["weights", "near duplicates", "no noise"])
def test_value_and_gradient_are_the_schemes(kind, x64):
    arrays, own = _case(kind, np.random.default_rng(4))

    def total(anchors, noise, log_weights):
        solver = AdamsBashforth(5)
        latents = compute_latents(anchors, noise, own, solver=solver, log_weights=log_weights)
        return jnp.sum(jnp.sin(latents))

    def exact(anchors, noise, log_weights):
        return jnp.sum(jnp.sin(oracle.adams_latents(anchors, noise, own, 5, 3, log_weights)))

    _assert_same(total, exact, *arrays)


def test_queries_in_a_context_are_anchors_of_their_own(x64):
    rng = np.random.default_rng(5)
    arrays = [rng.normal(size=shape) for shape in ((3, 4), (12, 4), (3, 4), (12,))]

    def total(queries, context, noise, log_weights):
        kwargs = {"solver": AdamsBashforth(5), "log_weights": log_weights}
        return jnp.sum(jnp.sin(latents_in_context(queries, context, noise, **kwargs)))

    def exact(queries, context, noise, log_weights):
        def latent(query, e):
            joined, weights = jnp.concatenate([context, query[None]]), jnp.append(log_weights, 0)
            return oracle.adams_latents(joined, e[None], np.array([12]), 5, 3, weights)

        return jnp.sum(jnp.sin(jax.vmap(latent)(queries, noise)))

    _assert_same(total, exact, *arrays)


def test_assignments_and_the_loss_are_the_schemes(x64):
    rng = np.random.default_rng(6)
    latents, anchors = (rng.normal(size=(k, 6)) for k in (20, 12))
    targets = rng.integers(0, 12, 20)
    solver = AdamsBashforth(10)

    def log_probs(latents, anchors):
        return oracle.adams_decode(latents, anchors, 10)[1][:, jnp.arange(20), targets]

    found = assignment_log_probs(latents, anchors, targets, solver=solver)
    np.testing.assert_allclose(found, log_probs(latents, anchors), rtol=1e-9, atol=1e-9)

    def loss(latents, anchors):
        return alignment_loss(latents, anchors, targets, solver=solver)[0]

    def exact(latents, anchors):
        return -jnp.mean(jnp.max(log_probs(latents, anchors)[2:], axis=0))

    _assert_same(loss, exact, latents, anchors)


def test_latents_decode_to_their_own_anchor():
    rng = np.random.default_rng(7)
    anchors, noise = np.float32(rng.normal(size=(2, 200, 16)))
    latents = compute_latents(anchors, noise, solver=AdamsBashforth(20))
    assert np.mean(classify(latents, anchors, solver=AdamsBashforth(20)) == np.arange(200)) >= 0.97


# Unusual anchors


@pytest.mark.parametrize("noise_scale", [0.0, 1.0])
@pytest.mark.parametrize("steps", [1, 12])
def test_where_no_anchor_differs_the_latent_is_the_noise(noise_scale, steps):
    rng = np.random.default_rng(8)
    (anchor,), noise = np.float32(rng.normal(size=(1, 4))), rng.normal(size=(9, 4))
    noise = np.float32(noise_scale * noise)
    solver = AdamsBashforth(steps)
    for count in (1, 2, 9):  # one anchor, two equal ones, all equal
        equal = np.tile(anchor, (count, 1))

        def latents(anchors, noise):
            return compute_latents(anchors, noise, jnp.zeros(9, int), solver=solver)

        found, pull = jax.vjp(latents, equal, noise)
        np.testing.assert_allclose(found, noise, atol=1e-6)
        assert all(np.all(np.isfinite(gradient)) for gradient in pull(jnp.ones_like(found)))
        points = decode(noise, equal, solver=solver)
        np.testing.assert_allclose(points, np.tile(anchor, (9, 1)), atol=1e-6)


def test_a_query_that_is_in_its_bank_but_for_rounding_is_a_weight_of_its_anchor():
    # Together they are one anchor of twice the weight, whose latent is exact.
    rng = np.random.default_rng(9)
    context, noise = np.float32(rng.normal(size=(2, 64, 24)))
    queries = np.nextafter(context, np.float32(np.inf))
    latents = latents_in_context(queries, context, noise, solver=AdamsBashforth(20))

    def exact(context, noise):
        rows = jnp.arange(64)
        weights = jnp.log(2.0) * jnp.eye(64)

        def latent(row):
            return oracle.exact_latents(
                context, noise[row][None], row[None], log_weights=weights[row]
            )[0]

        return jax.lax.map(latent, rows)

    assert relative_error(latents, in_float64(jax.jit(exact), context, noise)) <= 0.001


def test_removed_anchors_are_as_if_absent():
    rng = np.random.default_rng(10)
    anchors, noise = np.float32(rng.normal(size=(2, 300, 6)))
    kept = rng.permutation(300)[:200]
    log_weights = np.full(300, -np.inf, np.float32)
    log_weights[kept] = rng.normal(size=200)
    solver = AdamsBashforth(8)

    def both(anchors, own, log_weights):
        kwargs = {"solver": solver, "log_weights": log_weights}
        latents = compute_latents(anchors, noise[:50], own, **kwargs)
        return latents, decode(latents, anchors, **kwargs)

    found = both(anchors, kept[:50], log_weights)
    expected = both(anchors[kept], np.arange(50), log_weights[kept])
    np.testing.assert_allclose(found[0], expected[0], atol=1e-5)
    # The sample of anchors whose neighbours set the last step is another one.
    assert relative_error(found[1], expected[1]) <= 0.02


def test_the_scale_and_the_place_of_anchors_change_nothing():
    rng = np.random.default_rng(11)
    anchors, noise = np.float32(rng.normal(size=(2, 50, 6)))
    latents = compute_latents(anchors, noise, solver=AdamsBashforth(8))
    for moved in (1024 * anchors, anchors / 1024, anchors + 64):
        found = compute_latents(moved, noise, solver=AdamsBashforth(8))
        np.testing.assert_allclose(found, latents, atol=2e-4)


# Anchors as trained networks make them


@pytest.mark.parametrize(("noise_scale", "bar"), [(0.0, 0.025), (0.45, 0.02), (1.0, 0.02)])
def test_anchors_of_a_trained_encoder(noise_scale, bar):
    anchors = np.float32(np.load(TRAINED)["anchors"])
    rng = np.random.default_rng(12)
    noise = np.float32(noise_scale * rng.normal(size=(40, anchors.shape[1])))
    own = rng.permutation(len(anchors))[:40]
    exact = in_float64(lambda a, e: oracle.exact_latents(a, e, own, 120), anchors, noise)
    latents = compute_latents(anchors, noise, own, solver=AdamsBashforth(12))
    assert relative_error(latents, exact) <= bar
