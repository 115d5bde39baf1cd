"""Learning rates, clipping, Adam and EMA against their formulas in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict

from lzn_jax import configuration, optimizers, parts, train
from lzn_jax.errors import UserError


def _training(**changes):
    fields = {
        "num_steps": 20,
        "warmup_steps": 0,
        "schedule": "constant",
        "optimizer": "adam",
        "gradient_clip": 1e9,
        "learning_rate": {"encoder": 1e-3, "decoder": 2e-2},
        "decoder_steps": None,
    }
    return ConfigDict(fields | changes)


def _warmup(steps, count):
    """1/W + (1 - 1/W) k/W at update k."""
    return 1 / steps + (1 - 1 / steps) * np.arange(count) / steps


HALF = np.sqrt(0.5)


@pytest.mark.parametrize(
    ("changes", "steps", "expected"),
    [
        ({"warmup_steps": 8}, range(8), _warmup(8, 8)),
        ({"warmup_steps": 8, "schedule": "cosine"}, range(8), _warmup(8, 8)),
        *(({"warmup_steps": w}, range(w, 30), 1.0) for w in (0, 1, 8)),
        # A cosine of 0, 45, 90, 135 and 180 degrees.
        (
            {"warmup_steps": 4, "schedule": "cosine"},
            [4, 8, 12, 16, 20, 25],
            np.array([2, 1 + HALF, 1, 1 - HALF, 0, 0]) / 2,
        ),
        *(  # as long as training or longer
            ({"num_steps": 5, "warmup_steps": w, "schedule": s}, range(5), _warmup(w, 5))
            for w in (5, 50)
            for s in ("constant", "cosine")
        ),
    ],
)
def test_warmup_is_linear_and_then_the_rate_is_constant_or_a_cosine(changes, steps, expected):
    training = _training(**changes)
    rates = [optimizers.learning_rate(jnp.int32(k), 0.5, training) for k in steps]
    np.testing.assert_allclose(rates, 0.5 * np.ones(len(steps)) * expected, rtol=1e-6, atol=1e-7)


def _updates(training, gradients):
    """Updates at each step for a list of {network: {'w': (n,)}}."""
    optimizer = optimizers.make_optimizer(training, list(gradients[0]))
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


def test_a_network_without_a_rate_of_its_own_has_the_default():
    """The first update of Adam is the rate, against the sign of the gradient."""
    training = _training(learning_rate={"encoder": None, "decoder": 2e-2, "default": 5e-3})
    gradient = {network: {"w": jnp.full(2, 3.0)} for network in ("encoder", "decoder", "sound")}
    (found,) = _updates(training, [gradient])
    for network, rate in {"encoder": 5e-3, "decoder": 2e-2, "sound": 5e-3}.items():
        np.testing.assert_allclose(found[network]["w"], -rate, rtol=1e-5)


@pytest.mark.parametrize(
    ("step", "decoder_steps", "is_active"),
    [(0, 7, True), (6, 7, True), (7, 7, False), (100, 7, False), (10**6, None, True)],
)
def test_only_the_decoder_stops_at_decoder_steps(step, decoder_steps, is_active):
    networks, training = ["encoder", "decoder", "labels"], _training(decoder_steps=decoder_steps)
    found = train.still_training(jnp.int32(step), training, networks)
    assert {network: bool(on) for network, on in found.items()} == {
        "encoder": True,
        "decoder": is_active,
        "labels": True,
    }


def test_logged_rates_are_those_of_the_update_until_a_network_is_fixed():
    training = _training(warmup_steps=4, decoder_steps=3)
    networks, warmup = ["encoder", "decoder"], _warmup(4, 4)
    for step, skipped, count in ((1, 0, 0), (3, 0, 2), (3, 1, 1), (4, 0, 3), (4, 2, 1), (9, 1, 7)):
        share = warmup[count] if count < 4 else 1.0
        found = train.learning_rates(training, networks, step, skipped)
        expected = {"encoder": 1e-3 * share, "decoder": 2e-2 * share * (step <= 3)}
        assert found == {f"learning_rate_{n}": pytest.approx(r) for n, r in expected.items()}


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


def _averaged(ema, params, step, decay, is_active=True):
    """EMA of the weights of one network."""
    trees = ({"encoder": {"w": jnp.asarray(w, jnp.float32)}} for w in (ema, params))
    active = {"encoder": jnp.asarray(is_active)}
    return np.asarray(train.update_ema(*trees, jnp.int32(step), decay, active)["encoder"]["w"])


@pytest.mark.parametrize("decay", [0.5, 0.9999])  # 0.5 is reached at update 8
def test_ema_follows_the_recurrence(decay):
    average = expected = np.ones(3)
    for k, value in enumerate(np.random.default_rng(0).normal(size=(25, 3)), start=1):
        average = _averaged(average, value, k - 1, decay)
        kept = min(decay, (1 + k) / (10 + k))
        expected = kept * expected + (1 - kept) * value
        np.testing.assert_allclose(average, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("decay", [0.9999, 0.999999])
def test_ema_of_weights_that_stay_stays(decay):
    weights, late = np.linspace(0.1, 1, 50, dtype=np.float32), 10**8
    np.testing.assert_array_equal(_averaged(weights, weights, late, decay), weights)
    expected = decay * np.linspace(0.1, 1, 50) + (1 - decay) * 1e6
    np.testing.assert_allclose(_averaged(weights, 0 * weights + 1e6, late, decay), expected, 1e-6)


def test_ema_of_an_inactive_network_stays_to_the_bit():
    ema, params = np.float32([0.1, 1 / 3]), np.float32([5.0, 7.0])
    np.testing.assert_array_equal(_averaged(ema, params, 0, 0.9999, is_active=False), ema)
    # 1 - 2/11 of the way at the first update
    expected = ema * 2 / 11 + params * 9 / 11
    np.testing.assert_allclose(_averaged(ema, params, 0, 0.9999), expected, rtol=1e-6)


def test_adamw_is_adam_and_shrinks_weights_by_the_rate():
    training = _training(optimizer="adamw", weight_decay=0.5)
    raw, start = np.array([[0.3, 0.0], [0.0, 3.0], [2.0, -1.0]]), np.array([2.0, -4.0])
    optimizer = optimizers.make_optimizer(training, ["encoder"])
    params = {"encoder": {"w": jnp.asarray(start, jnp.float32)}}
    state = optimizer.init(params)
    for gradient, step in zip(raw, _adam(raw, [1e-3] * 3), strict=True):
        gradient = {"encoder": {"w": jnp.asarray(gradient, jnp.float32)}}
        updates, state = optimizer.update(gradient, state, params)
        np.testing.assert_allclose(updates["encoder"]["w"], step - 1e-3 * 0.5 * start, rtol=2e-4)
        params, start = optax.apply_updates(params, updates), start + step - 1e-3 * 0.5 * start


@pytest.fixture
def registered(monkeypatch):
    """Adds a part for the time of a test."""
    parts.names("optimizer")  # loads what ships
    monkeypatch.setattr(parts, "PARTS", dict(parts.PARTS))
    return parts.add


def test_an_optimizer_of_ones_own_has_the_rate_of_each_network_and_its_fields(registered):
    registered("optimizer", "signs", lambda training, rate: optax.sign_sgd(rate))
    registered("schedule", "halves", lambda training, peak: lambda k: peak * training.share**k)
    training = _training(optimizer="signs", schedule="halves", warmup_steps=1, share=0.5)
    gradients = [{name: {"w": jnp.array([3.0, -2.0])} for name in training.learning_rate}] * 4
    for k, updates in enumerate(_updates(training, gradients)):
        for network, peak in training.learning_rate.items():
            expected = peak * np.array([-1, 1]) / 2 ** max(k - 1, 0)
            np.testing.assert_allclose(updates[network]["w"], expected, rtol=1e-6)


def test_a_weight_of_an_optimizer_is_no_loss_that_trains(registered):
    momentum = {".momentum_weight": parts.share("of the sum", 0.9)}
    registered("optimizer", "summed", lambda training, rate: optax.sgd(rate), momentum)
    fields = ["training.optimizer=summed", "alignment.weight=0", "training.generation_weight="]
    assert configuration.load("digits_joint", fields[:2]).training.momentum_weight == 0.9
    expected = "^training.generation_weight must be > 0 unless latent.enabled is True"
    with pytest.raises(UserError, match=expected):
        configuration.load("digits_joint", [*fields[:2], f"{fields[2]}0"])


def test_what_is_no_transformation_is_no_optimizer(registered):
    registered("optimizer", "none", lambda training, rate: 3)
    with pytest.raises(UserError, match="optimizer 'none' must build an optax transformation, got"):
        optimizers.make_optimizer(_training(optimizer="none"), ["encoder", "decoder"])
