"""The alignment loss at given inverse temperatures, beside its closed form in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracle import in_float64, log_softmax

from lzn_jax.zoning import Euler, alignment_loss, alignment_loss_at, plain

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


def _loss(
    latents, anchors, sharpness, weights=(), form="log", log_weights=0.0, is_present=np.s_[:]
):
    """The closed form."""
    log_weights = log_softmax(jnp.broadcast_to(log_weights, len(anchors)))
    mean = jnp.exp(log_weights) @ anchors
    u, r, found = latents, 0.0, []
    for next_r in sharpness:
        u, r = u + (next_r - r) * mean, next_r
        squared = jnp.sum(anchors**2, axis=1)
        log_p = log_softmax(r * u @ anchors.T - 0.5 * r**2 * squared + log_weights)
        mean = jnp.exp(log_p) @ anchors
        found.append(log_p[np.arange(7), TARGETS])
    best = [functools.reduce(jnp.maximum, found[: k + 1]) for k in range(len(found))]
    terms = jnp.stack(best if form == "log" else list(map(jnp.exp, best)))[:, is_present]
    return -jnp.average(jnp.mean(terms, axis=1), weights=jnp.array(weights) if weights else None)


SETTINGS = [
    {"sharpness": (1.0,)},
    {"sharpness": (0.3,), "log_weights": LOG_WEIGHTS},
    {"sharpness": (2.5,), "form": "prob"},
    {"sharpness": (1.0, 3.0, 9.0)},
    {
        "sharpness": (1.0, 2.0, 4.0, 8.0),
        "weights": (3.0, 0.0, 0.0, 1.0),
        "log_weights": LOG_WEIGHTS,
    },
    {"sharpness": (0.5, 4.0), "weights": (0.25, 0.5), "form": "prob", "is_present": IS_PRESENT},
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


@pytest.mark.parametrize("setting", [s for s in SETTINGS if "is_present" not in s])
def test_the_plain_form_has_the_same_loss(setting):
    found = plain.alignment_loss_at(*_arrays(), TARGETS, **setting)
    exact = in_float64(functools.partial(_loss, **setting), *_arrays())
    np.testing.assert_allclose(found, exact, rtol=1e-5)


def test_one_r_is_a_softmax_of_distances_from_the_mean():
    latents, anchors = (np.float64(a) for a in _arrays())
    log_weights, r = np.float64(LOG_WEIGHTS), 1.7
    b = anchors - np.exp(log_weights) @ anchors / np.sum(np.exp(log_weights))
    logits = r * latents @ b.T - 0.5 * r**2 * np.sum(b**2, 1) + log_weights
    expected = -np.mean(log_softmax(logits)[np.arange(7), TARGETS])
    found, metrics = alignment_loss_at(*_arrays(), TARGETS, sharpness=(r,), log_weights=LOG_WEIGHTS)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    right = np.mean(np.argmax(logits, 1) == TARGETS)
    assert 0 < right < 1
    np.testing.assert_allclose(metrics["assignment_accuracy"], right, rtol=1e-6)


@pytest.mark.parametrize(
    ("steps", "cutoff", "weights"), [(2, 0.5, (1.0,)), (6, 0.2, (0.0, 0.0, 0.0, 0.0, 1.0))]
)
def test_the_last_term_alone_is_the_papers_form_on_the_same_grid(steps, cutoff, weights):
    expected = alignment_loss(*_arrays(), TARGETS, solver=Euler(steps), cutoff=cutoff)
    r = tuple(k / (steps - k) for k in range(1, steps))  # Euler's
    found = alignment_loss_at(*_arrays(), TARGETS, sharpness=r, weights=weights)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5), found, expected)


def test_a_removed_anchor_has_no_part_in_the_loss():
    latents, anchors = _arrays()
    log_weights = np.append(LOG_WEIGHTS, -np.inf).astype(np.float32)
    joined = np.vstack([anchors, np.full((1, 3), np.nan, np.float32)])
    setting = {"sharpness": (1.0, 4.0)}
    expected, _ = alignment_loss_at(latents, anchors, TARGETS, log_weights=LOG_WEIGHTS, **setting)
    found, _ = alignment_loss_at(latents, joined, TARGETS, log_weights=log_weights, **setting)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"sharpness": ()}, "sharpness must be increasing numbers > 0"),
        ({"sharpness": (0.0, 1.0)}, "sharpness must be increasing"),
        ({"sharpness": (2.0, 1.0)}, "sharpness must be increasing"),
        ({"sharpness": (1.0, float("inf"))}, "sharpness must be increasing"),
        ({"sharpness": (1.0, 2.0), "weights": (1.0,)}, "weights must be one number >= 0 per"),
        ({"sharpness": (1.0, 2.0), "weights": (1.0, -0.5)}, "weights must be one number"),
        ({"sharpness": (1.0, 2.0), "weights": (0.0, 0.0)}, "not all 0"),
    ],
)
def test_bad_settings_raise(setting, message):
    with pytest.raises(ValueError, match=message):
        alignment_loss_at(*_arrays(), TARGETS, **setting)
