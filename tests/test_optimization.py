"""Learning rates, clipping, Adam and EMA against their formulas in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict

from lzn_jax import train

NETWORKS = ["encoder", "decoder"]


def _training(**changes):
    fields = {
        "num_steps": 20,
        "warmup_steps": 0,
        "schedule": "constant",
        "gradient_clip": 1e9,
        "learning_rate": {"encoder": 1e-3, "decoder": 2e-2},
        "decoder_steps": None,
    }
    return ConfigDict(fields | changes)


def _rates(training, steps, peak=0.5):
    return np.array([train.learning_rate(jnp.int32(k), peak, training) for k in steps])


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_warmup_is_linear_from_the_first_step(schedule):
    rates = _rates(_training(warmup_steps=8, schedule=schedule), range(8))
    np.testing.assert_allclose(rates, 0.5 * (1 / 8 + 7 / 8 * np.arange(8) / 8), rtol=1e-6)


@pytest.mark.parametrize("warmup_steps", [0, 1, 8])
def test_constant_after_warmup(warmup_steps):
    rates = _rates(_training(warmup_steps=warmup_steps), range(warmup_steps, 30))
    np.testing.assert_array_equal(rates, np.float32(0.5))


def test_cosine_falls_to_zero_at_the_end_of_training():
    training = _training(warmup_steps=4, schedule="cosine")
    rates = _rates(training, [4, 8, 12, 16, 20, 25])
    # A cosine of 0, 45, 90, 135 and 180 degrees.
    half = np.sqrt(0.5)
    expected = 0.25 * np.array([2, 1 + half, 1, 1 - half, 0, 0])
    np.testing.assert_allclose(rates, expected, atol=1e-7)


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
@pytest.mark.parametrize("warmup_steps", [5, 50])
def test_warmup_as_long_as_training_or_longer(schedule, warmup_steps):
    training = _training(num_steps=5, warmup_steps=warmup_steps, schedule=schedule)
    rates = _rates(training, range(5))
    factors = 1 / warmup_steps + (1 - 1 / warmup_steps) * np.arange(5) / warmup_steps
    np.testing.assert_allclose(rates, 0.5 * factors, rtol=1e-6)


def _updates(training, gradients):
    """Updates at each step for a list of {network: {'w': (n,)}}."""
    optimizer = train.make_optimizer(training, list(gradients[0]))
    params = jax.tree.map(jnp.zeros_like, gradients[0])
    state = optimizer.init(params)
    results = []
    for gradient in gradients:
        updates, state = optimizer.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
        results.append(updates)
    return results


def _adam(gradients, rates):
    """Updates of Adam (Kingma and Ba 2015, algorithm 1) with the customary constants."""
    m = v = 0.0
    for k, (g, rate) in enumerate(zip(gradients, rates, strict=True), start=1):
        m = 0.9 * m + 0.1 * g
        v = 0.999 * v + 0.001 * g**2
        yield -rate * (m / (1 - 0.9**k)) / (np.sqrt(v / (1 - 0.999**k)) + 1e-8)


def test_adam_after_clipping_by_the_norm_over_all_networks():
    """Norms 0.5, 5 and 1000 with clip 1: the decoder's gradient scales the encoder's."""
    raw = {
        "encoder": np.array([[0.3, 0.0], [0.0, 3.0], [2.0, -1.0], [0.1, 0.2]]),
        "decoder": np.array([[0.0, -0.4], [4.0, 0.0], [1000.0, 1.0], [0.2, 0.0]]),
    }
    norm = np.sqrt(sum((g**2).sum(axis=1, keepdims=True) for g in raw.values()))
    clipped = {network: g / np.maximum(norm, 1) for network, g in raw.items()}
    gradients = [
        {network: {"w": jnp.asarray(g[k], jnp.float32)} for network, g in raw.items()}
        for k in range(4)
    ]
    training = _training(gradient_clip=1.0, warmup_steps=3)
    found = _updates(training, gradients)
    for network, peak in training.learning_rate.items():
        expected = _adam(clipped[network], peak * np.array([3, 5, 7, 9]) / 9)
        for update, reference in zip(found, expected, strict=True):
            np.testing.assert_allclose(update[network]["w"], reference, rtol=2e-4, atol=1e-9)


@pytest.mark.parametrize(("step", "active"), [(0, True), (6, True), (7, False), (100, False)])
def test_only_the_decoder_stops_at_decoder_steps(step, active):
    networks = ["encoder", "decoder", "labels"]
    found = train.still_training(jnp.int32(step), _training(decoder_steps=7), networks)
    assert {network: bool(on) for network, on in found.items()} == {
        "encoder": True,
        "decoder": active,
        "labels": True,
    }


def test_the_decoder_trains_to_the_end_without_decoder_steps():
    found = train.still_training(jnp.int32(10**6), _training(), NETWORKS)
    assert {network: bool(on) for network, on in found.items()} == {
        "encoder": True,
        "decoder": True,
    }


def test_mask_zeroes_inactive_networks_only():
    tree = {
        "encoder": {"w": jnp.array([1.0, jnp.inf]), "b": jnp.array(2.0)},
        "decoder": {"w": jnp.array([3.0, jnp.nan]), "b": jnp.array(jnp.inf)},
    }
    active = {"encoder": jnp.asarray(True), "decoder": jnp.asarray(False)}
    masked = train.mask(active, tree)
    np.testing.assert_array_equal(masked["encoder"]["w"], [1.0, np.inf])
    np.testing.assert_array_equal(masked["encoder"]["b"], 2.0)
    np.testing.assert_array_equal(masked["decoder"]["w"], [0.0, 0.0])
    np.testing.assert_array_equal(masked["decoder"]["b"], 0.0)


@pytest.mark.parametrize("decay", [0.5, 0.9999])  # of which 0.5 is reached at update 8
def test_ema_follows_the_recurrence(decay):
    values = np.random.default_rng(0).normal(size=(25, 3))
    average = {"encoder": {"w": jnp.ones(3)}}
    expected = np.ones(3)
    for k, value in enumerate(values, start=1):
        params = {"encoder": {"w": jnp.asarray(value, jnp.float32)}}
        active = {"encoder": jnp.asarray(True)}
        average = train.update_ema(average, params, jnp.int32(k - 1), decay, active)
        kept = min(decay, (1 + k) / (10 + k))
        expected = kept * expected + (1 - kept) * value
        np.testing.assert_allclose(average["encoder"]["w"], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("decay", [0.9999, 0.999999])
def test_ema_of_weights_that_stay_stays(decay):
    weights = {"encoder": {"w": jnp.linspace(0.1, 1, 50)}}
    active = {"encoder": jnp.asarray(True)}
    late = jnp.int32(10**8)
    moved = train.update_ema(weights, weights, late, decay, active)
    np.testing.assert_array_equal(moved["encoder"]["w"], weights["encoder"]["w"])
    far = {"encoder": {"w": jnp.full(50, 1e6)}}
    moved = train.update_ema(weights, far, late, decay, active)
    expected = decay * np.linspace(0.1, 1, 50) + (1 - decay) * 1e6
    np.testing.assert_allclose(moved["encoder"]["w"], expected, rtol=1e-6)


def test_ema_of_an_inactive_network_stays_to_the_bit():
    ema = {network: {"w": jnp.array([0.1, 1 / 3])} for network in NETWORKS}
    params = {network: {"w": jnp.array([5.0, 7.0])} for network in NETWORKS}
    active = {"encoder": jnp.asarray(True), "decoder": jnp.asarray(False)}
    moved = train.update_ema(ema, params, jnp.int32(0), 0.9999, active)
    np.testing.assert_array_equal(moved["decoder"]["w"], ema["decoder"]["w"])
    # 1 - 2/11 of the way at the first update
    expected = np.array([0.1, 1 / 3]) * 2 / 11 + np.array([5.0, 7.0]) * 9 / 11
    np.testing.assert_allclose(moved["encoder"]["w"], expected, rtol=1e-6)
