"""Float32 results against float64, on anchors that are hard for float32.

Relative errors are in the Frobenius norm. Oracle and plain form get the float32 inputs, exactly.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from oracle import in_float64, relative_error

from lzn_jax import zoning
from lzn_jax.zoning import (
    DPMSolver,
    Euler,
    assignment_log_probs,
    compute_latents,
    decode,
    latents_in_context,
    plain,
)

# Bounds on rounding hold for optimised programs, as users run them.
pytestmark = pytest.mark.usefixtures("full_speed")

N, Q, STEPS = 128, 64, 20
OWN = np.arange(N, dtype=np.int32)
ANCHORS = (
    "gaussian",
    "clustered",
    "around 1000",
    "pairs 1e-4 apart in each coordinate",
    "pairs 1e-3 apart in each coordinate",
    "pairs 1e-4 apart in norm",
    "pairs 1e-3 apart in norm",
    "triplet 1e-4 apart in norm",
)
LATENT_BOUND = 1e-6
CASES = pytest.mark.parametrize("case", ANCHORS)
EULER = Euler(STEPS)
SOLVERS = pytest.mark.parametrize("solver", [EULER, DPMSolver(STEPS)], ids=["Euler", "DPM"])


def _unit_rows(a):
    return a / np.linalg.norm(a, axis=1, keepdims=True)


def _anchors(case, rng, n=N, q=Q):
    """Float32 anchors (n, q); nearly equal ones are n/2 (n/3) rows apart."""
    a = rng.normal(size=(n, q))
    if case == "clustered":
        a = 10 * _unit_rows(rng.normal(size=(1, q))) + 1e-3 * a
    if case == "around 1000":
        a = 1000 + a
    if case.startswith(("pairs", "triplet")):
        copies = 2 if case.startswith("pairs") else 3
        distance = float(case.split()[1])
        first = a[: -(-n // copies)]
        offsets = rng.normal(size=(copies - 1, *first.shape))
        if case.endswith("norm"):
            offsets /= np.linalg.norm(offsets, axis=-1, keepdims=True)
        a = np.concatenate([first, *(first + distance * offsets)])[:n]
    return np.float32(a)


def _problem(case, n=N, q=Q, seed=0):
    """Anchors, their partners and noise, each float32 (n, q)."""
    rng = np.random.default_rng(seed)
    anchors = _anchors(case, rng, n, q)
    partners = np.float32(anchors + 0.5 * rng.normal(size=(n, q)))
    return anchors, partners, np.float32(rng.normal(size=(n, q)))


def _exact(function, *arrays, solver=EULER):
    return function(*map(np.float64, arrays), solver=solver)


@SOLVERS
@pytest.mark.parametrize(
    ("case", "n", "q"),
    [*((case, N, Q) for case in ANCHORS), *((case, 96, 256) for case in (ANCHORS[1], ANCHORS[5]))],
)
def test_latents(case, n, q, solver):
    anchors, _, noise = _problem(case, n, q)
    latents = compute_latents(anchors, noise, solver=solver)
    assert latents.dtype == jnp.float32
    exact = _exact(oracle.compute_latents, anchors, noise, solver=solver)
    assert relative_error(latents, exact) <= LATENT_BOUND


def test_removed_anchors_leave_room_for_their_neighbours():
    # Two removed anchors lie nearer to each kept one than its partner does.
    pairs, _, noise = _problem("pairs 1e-4 apart in norm", seed=7)
    rng = np.random.default_rng(7)
    offsets = 2e-5 * _unit_rows(rng.normal(size=(2, N, Q)).reshape(2 * N, Q))
    anchors = np.float32(np.concatenate([pairs, np.tile(pairs, (2, 1)) + offsets]))
    log_weights = np.repeat(np.float32([0, -np.inf]), [N, 2 * N])
    latents = compute_latents(anchors, noise, OWN, solver=EULER, log_weights=log_weights)
    exact = _exact(oracle.compute_latents, pairs, noise)
    assert relative_error(latents, exact) <= LATENT_BOUND


@CASES
def test_latents_in_context(case):
    # The last quarter of the anchors are queries, so their near-equal partners are in the context.
    anchors, _, noise = _problem(case, seed=3)
    cut = 3 * N // 4
    arrays = anchors[cut:], anchors[:cut], noise[cut:]
    latents = latents_in_context(*arrays, solver=EULER)
    exact = _exact(oracle.latents_in_context, *arrays)
    assert relative_error(latents, exact) <= LATENT_BOUND


@pytest.mark.parametrize("case", ["gaussian", "clustered", "pairs 1e-3 apart in norm"])
@SOLVERS
def test_decoded_points(case, solver):
    _, partners, noise = _problem(case, seed=4)
    points = decode(noise, partners, solver=solver)
    exact = _exact(oracle.decode, noise, partners, solver=solver)
    assert relative_error(points, exact) <= 1e-5


@SOLVERS
def test_improbable_assignments_keep_their_digits(solver):
    rng = np.random.default_rng(5)
    anchors, latents = np.float32(rng.normal(size=(2, 24, 32)))
    targets = rng.integers(0, 24, size=24)
    log_probs = assignment_log_probs(latents, anchors, targets, solver=solver)
    arrays = np.float64(latents), np.float64(anchors)
    exact = oracle.assignment_log_probs(*arrays, targets, solver=solver)
    assert exact.min() < np.log(1e-30)
    np.testing.assert_allclose(log_probs, exact, rtol=2e-5, atol=2e-5)


@functools.partial(jax.jit, static_argnames=("form", "solver", "num_steps"))
@functools.partial(jax.grad, argnums=(0, 1), has_aux=True)
def _gradients(anchors, partners, noise, form, **setting):
    latents = form.compute_latents(anchors, noise, **setting)
    return form.alignment_loss(latents, partners, jnp.asarray(OWN), **setting)[0], latents


@CASES
def test_latents_and_gradient_of_the_alignment_loss(case):
    """20 + 20 Euler steps, noise scale 0.45, log form, with respect to both anchor sets.

    Among Gaussian anchors most assignments are saturated and the gradient is a difference of
    nearly 1 from 1: there it is held to 1e-6 in absolute terms.
    """
    anchors, partners, noise = _problem(case, seed=6)
    noise = np.float32(0.45) * noise
    gradients, latents = _gradients(anchors, partners, noise, form=zoning, solver=EULER)
    of_plain = functools.partial(_gradients, form=plain, num_steps=STEPS)
    exact = in_float64(of_plain, anchors, partners, noise)
    assert relative_error(latents, exact[1]) <= LATENT_BOUND
    for gradient, reference in zip(gradients, exact[0], strict=True):
        off = np.max(np.abs(np.asarray(gradient) - reference))
        is_saturated = case == "gaussian" and off <= 1e-6
        bound = 1e-4 if "triplet" in case else 1e-5
        assert is_saturated or relative_error(gradient, reference) <= bound
