"""The alignment loss at given inverse temperatures, beside its closed form in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracle import in_float64, log_softmax

from lzn_jax.zoning import (
    AdamsBashforth,
    Euler,
    align,
    alignment_loss,
    alignment_loss_at,
    compute_latents,
)

SHAPES = ((7, 3), (5, 3))
TARGETS = np.array([0, 4, 2, 2, 1, 0, 3], np.int32)
IS_PRESENT = np.array([1, 1, 0, 1, 1, 1, 1], bool)
LOG_WEIGHTS = np.float32(np.log([0.5, 1, 2, 1, 0.25]))


def _arrays(seed=0):
    """Latents, half of them near their target, and anchors."""
    rng = np.random.default_rng(seed)
    latents, anchors = (np.float32(rng.normal(size=shape)) for shape in SHAPES)
    latents[::2] += 2 * anchors[TARGETS[::2]]
    return latents, anchors


def _loss(latents, anchors, sharpness, form="log", log_weights=0.0, is_present=np.s_[:]):
    """The closed form."""
    log_weights = log_softmax(jnp.broadcast_to(log_weights, len(anchors)))
    b = anchors - jnp.exp(log_weights) @ anchors
    logits = sharpness * latents @ b.T - 0.5 * sharpness**2 * jnp.sum(b**2, 1) + log_weights
    log_p = log_softmax(logits)[np.arange(7), TARGETS]
    return -jnp.mean((log_p if form == "log" else jnp.exp(log_p))[is_present])


SETTINGS = [
    {"sharpness": 0.3, "log_weights": LOG_WEIGHTS},
    {"sharpness": 2.5, "form": "prob", "is_present": IS_PRESENT},
]


@pytest.mark.parametrize("setting", SETTINGS)
def test_value_and_gradients_are_those_of_the_closed_form(setting):
    def gradients(loss):
        return jax.value_and_grad(functools.partial(loss, **setting), (0, 1))

    def found_loss(*arrays, **setting):
        return alignment_loss_at(*arrays, TARGETS, **setting)[0]

    found, exact = gradients(found_loss)(*_arrays()), in_float64(gradients(_loss), *_arrays())
    np.testing.assert_allclose(found[0], exact[0], rtol=1e-5)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
    jax.tree.map(close, found[1], exact[1])


def test_without_a_sharpness_the_logits_of_n_random_anchors_are_as_large_as_the_largest_normal():
    log_weights = np.append(LOG_WEIGHTS, -np.inf).astype(np.float32)
    latents, anchors = _arrays()
    joined = np.vstack([anchors, np.full((1, 3), np.nan, np.float32)])  # removed
    p = np.exp(np.float64(LOG_WEIGHTS)) / np.sum(np.exp(np.float64(LOG_WEIGHTS)))
    b = anchors - p @ anchors
    r = np.sqrt(2 * np.log(5) / (p @ np.sum(b**2, 1)))

    def loss(anchors, r=None):
        return alignment_loss_at(latents, anchors, TARGETS, sharpness=r, log_weights=log_weights)[0]

    found, expected = (jax.value_and_grad(loss)(joined, each) for each in (None, float(r)))
    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6)
    jax.tree.map(close, found, expected)  # r itself has no gradient
    # The scale of anchors divides out.
    scaled = alignment_loss_at(latents, 50 * joined, TARGETS, log_weights=log_weights)[0]
    np.testing.assert_allclose(scaled, found[0], rtol=1e-5)


def test_equal_anchors_have_a_finite_loss():
    loss, _ = alignment_loss_at(_arrays()[0], np.ones((5, 3), np.float32), TARGETS)
    np.testing.assert_allclose(loss, np.log(5), rtol=1e-5)


def test_metrics_are_of_the_step_to_r():
    latents, anchors = (np.float64(a) for a in _arrays())
    b = anchors - np.mean(anchors, axis=0)
    logits = 1.7 * latents @ b.T - 0.5 * 1.7**2 * np.sum(b**2, 1)
    _, metrics = alignment_loss_at(*_arrays(), TARGETS, sharpness=1.7)
    right = np.mean(np.argmax(logits, 1) == TARGETS)
    assert 0 < right < 1
    np.testing.assert_allclose(metrics["assignment_accuracy"], right, rtol=1e-6)
    ends = np.exp(log_softmax(logits)) @ anchors
    errors = np.linalg.norm(ends - anchors[TARGETS], axis=1)
    expected = np.mean(errors / np.linalg.norm(anchors[TARGETS], axis=1))
    np.testing.assert_allclose(metrics["ode_error"], expected, rtol=1e-5)


def test_it_is_the_papers_form_on_the_same_grid():
    expected = alignment_loss(*_arrays(), TARGETS, solver=Euler(2), cutoff=0.5)
    found = alignment_loss_at(*_arrays(), TARGETS, sharpness=1.0)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5), found, expected)


@pytest.mark.parametrize("sharpness", [0.0, -1.0, float("inf"), float("nan")])
def test_bad_settings_raise(sharpness):
    with pytest.raises(ValueError, match="sharpness must be a number > 0, got"):
        alignment_loss_at(*_arrays(), TARGETS, sharpness=sharpness)


def test_align_is_the_mean_of_both_directions_with_noise_of_their_own():
    rng = np.random.default_rng(3)
    left, right = (np.float32(rng.normal(size=(6, 3))) for _ in range(2))
    key, flow, pairs = jax.random.key(5), AdamsBashforth(10), np.arange(6)

    def one_way(source, target, key, scale):
        noise = scale * jax.random.normal(key, source.shape)
        latents = compute_latents(source, noise, solver=flow)
        return alignment_loss_at(latents, target, pairs)

    to_right, to_left = jax.random.split(key)
    expected = one_way(left, right, to_right, 0.45), one_way(right, left, to_left, 0.45)
    assert abs(expected[0][0] - expected[1][0]) > 0.01
    mean = jax.tree.map(lambda *both: sum(both) / 2, *expected)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-5)
    jax.tree.map(close, align(left, right, 0.45, key), mean)
    gradients = jax.grad(lambda *a: align(*a, 0.45, key)[0], (0, 1))(left, right)
    assert all(np.all(np.linalg.norm(g, axis=1) > 1e-3) for g in gradients)


def test_align_takes_two_pairs_to_ten_thousand():
    """Of random anchors the loss is at most that of a wrong choice, for any number of pairs."""
    for count, dim in ((2, 2), (1000, 8)):
        left, right = jax.random.normal(jax.random.key(1), (2, count, dim))
        loss, _ = align(left, right, 0.45, jax.random.key(0))
        assert np.log(count) / 2 < loss < 3 * np.log(count) + 3
