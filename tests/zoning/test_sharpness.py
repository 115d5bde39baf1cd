"""The alignment loss at given inverse temperatures, beside its closed form in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

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


def _log_assignments(latents, anchors, sharpness, log_weights):
    """Log assignment (..., m) of each latent to its target, at each r."""
    weights = np.exp(log_weights) / np.sum(np.exp(log_weights))
    mean = np.broadcast_to((weights @ anchors)[..., None, :], latents.shape)
    u, r, found = latents, 0.0, []
    for next_r in sharpness:
        u, r = u + (next_r - r) * mean, next_r
        squared = np.sum(anchors**2, -1)[..., None, :]
        logits = r * u @ np.swapaxes(anchors, -1, -2) - 0.5 * r**2 * squared + log_weights
        log_p = oracle._log_softmax(logits)
        mean = np.exp(log_p) @ anchors
        found.append(
            np.take_along_axis(log_p, np.broadcast_to(TARGETS, log_p.shape[:-1])[..., None], -1)
        )
    return [each[..., 0] for each in found]


def _loss(latents, anchors, sharpness, weights=None, form="log", log_weights=None, present=None):
    """The loss in NumPy, for real and complex arrays."""
    log_weights = np.zeros(len(LOG_WEIGHTS)) if log_weights is None else np.float64(log_weights)
    best, total = None, 0.0
    weights = weights or (1,) * len(sharpness)
    found = _log_assignments(latents, anchors, sharpness, log_weights)
    for log_p, weight in zip(found, weights, strict=True):
        best = log_p if best is None else np.where(log_p.real > best.real, log_p, best)
        total = total - weight / sum(weights) * (best if form == "log" else np.exp(best))
    rows = slice(None) if present is None else present
    return np.mean(total[..., rows], -1)


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
    latents, anchors = _arrays()

    def found_loss(*arrays):
        return alignment_loss_at(*arrays, TARGETS, **setting)[0]

    found, gradients = jax.value_and_grad(found_loss, (0, 1))(latents, anchors)
    options = {**setting, "present": setting.get("is_present")}
    options.pop("is_present", None)
    exact, expected = oracle.value_and_gradients(
        lambda *arrays: _loss(*arrays, **options), np.float64(latents), np.float64(anchors)
    )
    np.testing.assert_allclose(found, exact, rtol=1e-5)
    for gradient, each in zip(gradients, expected, strict=True):
        np.testing.assert_allclose(gradient, each, rtol=1e-4, atol=1e-5)


def test_one_r_is_a_softmax_of_distances_from_the_mean():
    latents, anchors = (np.float64(a) for a in _arrays())
    log_weights, r = np.float64(LOG_WEIGHTS), 1.7
    b = anchors - np.exp(log_weights) @ anchors / np.sum(np.exp(log_weights))
    logits = r * latents @ b.T - 0.5 * r**2 * np.sum(b**2, 1) + log_weights
    expected = -np.mean(oracle._log_softmax(logits)[np.arange(7), TARGETS])
    found, metrics = alignment_loss_at(*_arrays(), TARGETS, sharpness=(r,), log_weights=LOG_WEIGHTS)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    right = np.mean(np.argmax(logits, 1) == TARGETS)
    assert 0 < right < 1
    np.testing.assert_allclose(metrics["assignment_accuracy"], right, rtol=1e-6)


def test_sharpness_1_is_the_second_step_of_two_of_euler():
    expected = alignment_loss(*_arrays(), TARGETS, solver=Euler(2), cutoff=0.5)
    found = alignment_loss_at(*_arrays(), TARGETS, sharpness=(1.0,))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), found, expected)


def test_the_last_term_alone_is_the_papers_form_on_the_same_grid():
    r = tuple(k / (6 - k) for k in range(1, 6))  # Euler's in 6 steps
    expected = alignment_loss(*_arrays(), TARGETS, solver=Euler(6), cutoff=0.2)
    found = alignment_loss_at(*_arrays(), TARGETS, sharpness=r, weights=(0.0, 0.0, 0.0, 0.0, 1.0))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), found, expected)


def test_a_removed_anchor_has_no_part_in_the_loss():
    latents, anchors = _arrays()
    log_weights = np.append(LOG_WEIGHTS, -np.inf).astype(np.float32)
    joined = np.vstack([anchors, np.full((1, 3), np.nan, np.float32)])
    setting = {"sharpness": (1.0, 4.0)}
    expected, _ = alignment_loss_at(latents, anchors, TARGETS, log_weights=LOG_WEIGHTS, **setting)
    found, _ = alignment_loss_at(latents, joined, TARGETS, log_weights=log_weights, **setting)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_the_loss_on_8_devices_is_that_of_one():
    latents, anchors = np.tile(_arrays()[0], (2, 1)), _arrays()[1]
    targets, setting = np.tile(TARGETS, 2), {"sharpness": (1.0, 8.0), "weights": (2.0, 1.0)}

    @jax.jit
    def gradients(*arrays):
        def loss(*arrays):
            return alignment_loss_at(*arrays, targets, **setting)[0]

        return jax.value_and_grad(loss, (0, 1))(*arrays)

    expected = gradients(latents, anchors)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    with jax.set_mesh(mesh):
        whole = NamedSharding(mesh, PartitionSpec())
        found = gradients(*jax.device_put((latents, anchors), whole))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), found, expected
    )


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
        alignment_loss_at(*_arrays(), jnp.asarray(TARGETS), **setting)


@pytest.mark.parametrize("setting", [s for s in SETTINGS if "is_present" not in s])
def test_the_plain_form_has_the_same_loss(setting):
    found, _ = alignment_loss_at(*_arrays(), TARGETS, **setting)
    expected = plain.alignment_loss_at(*_arrays(), TARGETS, **setting)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
