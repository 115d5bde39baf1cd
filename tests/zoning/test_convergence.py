"""Latents of Adams-Bashforth are the exact ones within bars, whatever the anchors.

Errors are relative, in the Frobenius norm; the truth is Runge-Kutta of order 4 in float64, the
oracle's, which gets the float32 inputs exactly.
"""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
import small
from oracle import relative_error

from lzn_jax.zoning import AdamsBashforth, compute_latents, latents_in_context

SCALES = np.array([0.0, 0.45, 1.0])  # of noise
TRAINED = Path(__file__).parents[1] / "golden" / "digits_anchors.npz"


def _anchors(case, n, q, rng):
    match case.split():
        case ["Gaussian", scale]:
            return float(scale) * rng.normal(size=(n, q))
        case ["clusters"]:
            return rng.normal(size=(10, q))[rng.integers(0, 10, n)] + 0.2 * rng.normal(size=(n, q))
        case ["pairs", distance]:
            first, offsets = rng.normal(size=(2, n // 2, q))
            offsets /= np.linalg.norm(offsets, axis=1, keepdims=True)
            return np.concatenate([first, first + float(distance) * offsets])


def _scaled(noise, scales=SCALES):
    """Noise of each scale, one after another."""
    return np.float32(np.concatenate([scale * noise for scale in scales]))


def _exact(anchors, noise, own, num_steps=150):
    return oracle.exact_latents(np.float64(anchors), np.float64(noise), own, num_steps)


@functools.cache
def _problem(case):
    """Anchors, noise of each scale at half of them, log weights, and exact latents."""
    rng = np.random.default_rng(0)
    kept = 10 if case.startswith("labels") else 160
    anchors = np.float32(_anchors(case.removeprefix("labels, "), 160, 48, rng))
    noise = _scaled(rng.normal(size=(80, 48)))
    own = np.tile(3 * np.arange(80) % kept, len(SCALES))
    log_weights = np.where(np.arange(160) < kept, 0, -np.inf).astype(np.float32)
    return (anchors, noise, own), log_weights, _exact(anchors[:kept], noise, own)


def _latents(case, steps):
    arrays, log_weights, _ = _problem(case)
    return compute_latents(*arrays, solver=AdamsBashforth(steps), log_weights=log_weights)


def _errors(latents, exact, count=3):
    """Of each scale of the noise."""
    pairs = zip(np.split(np.asarray(latents), count), np.split(exact, count), strict=True)
    return np.array([relative_error(*pair) for pair in pairs])


@pytest.mark.parametrize(
    ("case", "bars"),
    [
        *small.slow(
            ("Gaussian 0.05", {10: 0.005, 20: 0.0005}),
            ("Gaussian 0.3", {10: 0.005, 20: 0.0005}),
            ("Gaussian 1", {10: 0.005, 20: 0.0005}),
            ("labels, Gaussian 0.5", {10: 0.005, 20: 0.0005}),
            ("pairs 1e-2", {20: 0.05, 40: 0.01}),
            ("pairs 1e-4", {40: 0.04}),
        ),
        ("Gaussian 4", {10: 0.005, 20: 0.0005}),
        ("clusters", {10: 0.025, 20: 0.004}),
    ],
)
def test_latents_are_exact_whatever_the_scale_of_the_anchors(case, bars):
    for steps, bar in bars.items():
        errors = _errors(_latents(case, steps), _problem(case)[-1])
        assert np.all(errors <= bar), f"{steps} steps, noise of scales {SCALES}: {errors}"


@pytest.mark.parametrize(
    ("case", "n", "q", "bar"),
    [
        # Among many anchors in few dimensions a few points pass sharply from one to the next.
        ("Gaussian 1", 512, 256, 0.0005),
        *small.slow(
            ("Gaussian 1", 1024, 32, 0.0015),
            ("clusters", 1024, 32, 0.004),
            ("clusters", 512, 256, 0.004),
        ),
    ],
)
def test_latents_of_many_anchors(case, n, q, bar):
    # Of the first points, as all of the exact ones would take a minute.
    rng = np.random.default_rng(1)
    anchors = np.float32(_anchors(case, n, q, rng))
    noise, own = _scaled(rng.normal(size=(32, q)), (0.0, 1.0)), np.tile(np.arange(32), 2)
    latents = compute_latents(anchors, noise, own, solver=AdamsBashforth(20))
    assert np.all(_errors(latents, _exact(anchors, noise, own, 120), count=2) <= bar)


def test_error_falls_with_the_steps():
    (anchors, noise, own), _, exact = _problem("Gaussian 1")
    arrays = np.float64(anchors), np.float64(noise), own
    fine = oracle.compute_latents(*arrays, solver=AdamsBashforth(160))
    factors = _errors(_latents("Gaussian 1", 20), exact) / _errors(fine, exact)
    assert factors[0] >= 15
    assert factors[-1] >= 100


def _gradients(latents):
    """By anchors and noise, of a sum in which all latents count differently."""

    def total(anchors, noise, factors):
        return jnp.sum(jnp.sin(latents(anchors, noise)) * factors)

    return jax.jit(jax.grad(total, (0, 1)))


FOUND = _gradients(functools.partial(compute_latents, solver=AdamsBashforth(20)))
EXACT = _gradients(functools.partial(oracle.exact_latents, own=np.arange(96), num_steps=60))


@pytest.mark.parametrize("case", ["clusters", *small.slow("Gaussian 1")])
def test_gradient_is_that_of_the_exact_flow(case, x64):
    rng = np.random.default_rng(0)
    anchors, noise, factors = _anchors(case, 96, 32, rng), *rng.normal(size=(2, 96, 32))
    found, exact = (gradients(anchors, noise, factors) for gradients in (FOUND, EXACT))
    assert max(map(relative_error, found, exact)) <= 0.03


@pytest.mark.parametrize("case", ["Gaussian 0.3", "Gaussian 4", "clusters"])
def test_variance_of_latents_is_that_of_the_exact_ones(case):
    latents, exact = (np.float64(a[-80:]) for a in (_latents(case, 20), _problem(case)[-1]))
    assert np.var(latents) / np.var(exact) == pytest.approx(1, abs=0.01)


def test_a_query_that_is_in_its_bank_but_for_rounding_is_a_weight_of_its_anchor():
    # Together they are one anchor of twice the weight, whose latent is exact.
    rng = np.random.default_rng(9)
    context, noise = np.float32(rng.normal(size=(2, 64, 24)))
    queries = np.nextafter(context, np.float32(np.inf))
    latents = latents_in_context(queries, context, noise, solver=AdamsBashforth(20))
    weights, own = np.log(2.0) * np.eye(64), np.arange(64)
    arrays = np.float64(context), np.float64(noise)
    exact = oracle.exact_latents(*arrays, own, log_weights=weights)
    assert relative_error(latents, exact) <= 0.001


def test_anchors_of_a_trained_encoder():
    anchors = np.float32(np.load(TRAINED)["anchors"])
    rng = np.random.default_rng(12)
    noise = _scaled(rng.normal(size=(40, anchors.shape[1])))
    own = np.tile(rng.permutation(len(anchors))[:40], len(SCALES))
    latents = compute_latents(anchors, noise, own, solver=AdamsBashforth(12))
    assert np.all(_errors(latents, _exact(anchors, noise, own, 60)) <= [0.025, 0.02, 0.02])
