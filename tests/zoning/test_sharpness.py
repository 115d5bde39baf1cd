"""The alignment loss at given inverse temperatures, beside its closed form in float64."""

import functools

import jax
import numpy as np
import oracle
import pytest
from oracle import log_softmax

from lzn_jax.zoning import AdamsBashforth, Euler, align, alignment_loss_at

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


def _log_assignments(latents, anchors, sharpness=None, log_weights=0.0):
    """The closed form (m, n); without a sharpness logits are as large as the largest normal."""
    log_weights = log_softmax(np.broadcast_to(log_weights, len(anchors)))
    p = np.exp(log_weights)
    b = anchors - p @ anchors
    squares = (b**2).sum(1)
    if sharpness is None:
        sharpness = np.real(np.sqrt(2 * np.log(len(anchors)) / (p @ squares)))  # has no gradient
    return log_softmax(sharpness * latents @ b.T - 0.5 * sharpness**2 * squares + log_weights)


def _loss(latents, anchors, sharpness=None, form="log", log_weights=0.0, is_present=np.s_[:]):
    own = _log_assignments(latents, anchors, sharpness, log_weights)[np.arange(7), TARGETS]
    return -((own if form == "log" else np.exp(own))[is_present]).mean()


@functools.partial(jax.jit, static_argnames=("sharpness", "form"))
@functools.partial(jax.value_and_grad, argnums=(0, 1))
def _found(latents, anchors, **setting):
    return alignment_loss_at(latents, anchors, TARGETS, **setting)[0]


SETTINGS = [
    {"sharpness": 0.3, "log_weights": LOG_WEIGHTS},
    {"sharpness": 2.5, "form": "prob", "is_present": IS_PRESENT},
]


@pytest.mark.parametrize("setting", SETTINGS)
def test_value_and_gradients_are_those_of_the_closed_form(setting):
    exact = functools.partial(_loss, **setting)
    value, gradients = _found(*_arrays(), **setting)
    np.testing.assert_allclose(value, exact(*map(np.float64, _arrays())), rtol=1e-5)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
    jax.tree.map(close, gradients, oracle.gradients(exact, *_arrays()))


def test_without_a_sharpness_the_logits_of_n_random_anchors_are_as_large_as_the_largest_normal():
    latents, anchors = _arrays()
    log_weights = np.append(LOG_WEIGHTS, -np.inf).astype(np.float32)
    joined = np.vstack([anchors, np.full((1, 3), np.nan, np.float32)])  # removed
    value, gradients = _found(latents, joined, log_weights=log_weights)
    exact = functools.partial(_loss, log_weights=np.float64(LOG_WEIGHTS))
    np.testing.assert_allclose(value, exact(latents, np.float64(anchors)), rtol=1e-4)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6)
    jax.tree.map(close, (gradients[0], gradients[1][:5]), oracle.gradients(exact, latents, anchors))
    # The scale of anchors divides out.
    scaled, _ = _found(latents, 50 * joined, log_weights=log_weights)
    np.testing.assert_allclose(scaled, value, rtol=1e-5)


def test_equal_anchors_have_a_finite_loss():
    loss, _ = alignment_loss_at(_arrays()[0], np.ones((5, 3), np.float32), TARGETS)
    np.testing.assert_allclose(loss, np.log(5), rtol=1e-5)


def test_metrics_are_of_the_step_to_r():
    latents, anchors = (np.float64(a) for a in _arrays())
    log_p = _log_assignments(latents, anchors, 1.7)
    _, metrics = alignment_loss_at(*_arrays(), TARGETS, sharpness=1.7)
    right = np.mean(np.argmax(log_p, 1) == TARGETS)
    assert 0 < right < 1
    np.testing.assert_allclose(metrics["assignment_accuracy"], right, rtol=1e-6)
    ends = np.exp(log_p) @ anchors
    errors = np.linalg.norm(ends - anchors[TARGETS], axis=1)
    expected = np.mean(errors / np.linalg.norm(anchors[TARGETS], axis=1))
    np.testing.assert_allclose(metrics["ode_error"], expected, rtol=1e-5)


def test_it_is_the_papers_form_on_the_same_grid():
    arrays = map(np.float64, _arrays())
    expected = oracle.alignment_loss(*arrays, TARGETS, solver=Euler(2), cutoff=0.5)
    found = alignment_loss_at(*_arrays(), TARGETS, sharpness=1.0)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5), found, expected)


@pytest.mark.parametrize("sharpness", [0.0, -1.0, float("inf"), float("nan")])
def test_bad_settings_raise(sharpness):
    with pytest.raises(ValueError, match="sharpness must be a number > 0, got"):
        alignment_loss_at(*_arrays(), TARGETS, sharpness=sharpness)


def _aligned(left, right, to_right, to_left):
    """Loss and metrics of both directions, whose noise comes from these draws."""

    def one_way(source, target, draw):
        source, target, noise = (np.float64(a) for a in (source, target, 0.45 * draw))
        latents = oracle.compute_latents(source, noise, solver=AdamsBashforth(10))
        log_p = _log_assignments(latents, target)
        errors = np.linalg.norm(np.exp(log_p) @ target - target, axis=1)
        return -np.mean(log_p.diagonal()), {
            "assignment_accuracy": np.mean(np.argmax(log_p, axis=1) == np.arange(len(target))),
            "ode_error": np.mean(errors / np.linalg.norm(target, axis=1)),
        }

    return one_way(left, right, to_right), one_way(right, left, to_left)


def test_align_is_the_mean_of_both_directions_with_noise_of_their_own():
    left, right = np.float32(np.random.default_rng(3).normal(size=(2, 6, 3)))
    key = jax.random.key(5)

    @jax.jit
    @functools.partial(jax.value_and_grad, argnums=(0, 1), has_aux=True)
    def aligned(left, right):
        return align(left, right, 0.45, key)

    draws = jax.jit(lambda keys: [jax.random.normal(key, (6, 3)) for key in keys])
    both = _aligned(left, right, *map(np.asarray, draws(jax.random.split(key))))
    assert abs(both[0][0] - both[1][0]) > 0.01
    found, gradients = aligned(left, right)
    mean = jax.tree.map(lambda *values: sum(values) / 2, *both)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5), found, mean)
    assert all(np.all(np.linalg.norm(g, axis=1) > 1e-3) for g in gradients)


def test_align_takes_two_pairs_to_ten_thousand():
    """Of random anchors the loss is at most that of a wrong choice, for any number of pairs."""
    for count, dim in ((2, 2), (1000, 8)):
        both = _aligned(*np.random.default_rng(1).normal(size=(4, count, dim)))
        loss = np.mean([loss for loss, _ in both])
        assert np.log(count) / 2 < loss < 3 * np.log(count) + 3
