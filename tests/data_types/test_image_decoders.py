"""The flow decoder in training: which condition goes with which image, and how often there is none.

The network is a stub that records what it is given.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small
from flax import linen as nn
from scipy.stats import kstest

from lzn_jax.decoders.flow import FlowDecoder

KEYS = tuple(jax.random.split(jax.random.key(2), 2))


def given(batch, condition, **changes):
    """What the network of the loss is given: x_t, t, latents and condition."""
    unused = nn.Dense(1)
    decoder, found = FlowDecoder(small.config("configs/digits_text.py", **changes), unused), []

    def network(variables, key, x_t, t, latents, beside):
        found.extend(np.asarray(a) for a in (x_t, t, latents, beside))
        return jnp.zeros_like(x_t)

    decoder.in_training = lambda: network
    decoder.loss({"decoder": None}, batch, condition, KEYS)
    return found


def test_a_condition_is_dropped_whole_at_its_rate():
    count, ones = 4000, jnp.ones((4000, 3))
    batch = {"images": jnp.zeros((count, 2, 2, 1), jnp.uint8)}
    changes = {"decoder__condition_dropout": 0.2, "training__flow_draws": 1}
    _, t, latents, beside = given(batch, (ones, ones), **changes)
    np.testing.assert_array_equal(latents, ones)
    np.testing.assert_array_equal(beside[:, 1:], beside[:, :-1])
    assert set(np.unique(beside)) == {0, 1}
    is_dropped = beside[:, 0] == 0
    assert np.mean(is_dropped) == pytest.approx(0.2, abs=4 * np.sqrt(0.16 / count))
    # Times of dropped and of kept rows have one distribution.
    largest = kstest(t[is_dropped], t[~is_dropped]).statistic
    assert largest < 2 * np.sqrt(1 / is_dropped.sum() + 1 / (~is_dropped).sum())


def test_each_draw_of_an_image_has_the_images_own_condition():
    levels, draws = np.array([0, 51, 102, 255]), 3
    batch = {"images": jnp.asarray(np.tile(levels[:, None, None, None], (1, 2, 2, 1)), jnp.uint8)}
    condition = (jnp.asarray(levels[:, None]), jnp.asarray(-levels[:, None]))
    changes = {"decoder__condition_dropout": 0.0, "training__flow_draws": draws}
    at_the_end = {"flow_noise": jnp.zeros((12, 2, 2, 1)), "flow_time": jnp.ones(12)}
    x_t, _, latents, beside = given(batch | at_the_end, condition, **changes)
    shown = 127.5 * (x_t[:, 0, 0, 0] + 1)
    assert sorted(shown.round().tolist()) == sorted(draws * levels.tolist())
    np.testing.assert_allclose(latents[:, 0], shown, atol=1e-4)
    np.testing.assert_allclose(beside[:, 0], -shown, atol=1e-4)
    x_t, t, _, _ = given(batch, condition, **changes)
    assert len(np.unique(t)) == len(np.unique(x_t[:, 0, 0, 0])) == 12
