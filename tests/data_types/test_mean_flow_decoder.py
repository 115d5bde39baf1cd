"""MeanFlow as a decoder: its times reach the network, and it samples and inverts in few steps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small
from flax import linen as nn

from lzn_jax.data import normalise, to_uint8
from lzn_jax.decoders import flow, mean_flow
from lzn_jax.decoders.mean_flow import MeanFlowDecoder
from lzn_jax.models import named, normal_by_index

KEYS = tuple(jax.random.split(jax.random.key(2), 2))
LATENTS, LABELS = jnp.ones((6, 3)), jnp.eye(6)


class _Network:
    """The velocity t + 10 s of the times that it gets from the condition."""

    dropout = 0.0

    def apply(self, variables, x, t, latents, beside, *, train):
        labels, waves = jnp.split(beside, [6], axis=1)
        start, between = (2 / jnp.pi * jnp.arcsin(waves[:, k]) for k in (0, 8))
        own = (jnp.repeat(each, len(x) // 6, axis=0) for each in (LATENTS, LABELS))  # of each draw
        pairs = zip((latents, labels), own, strict=True)
        wrong = t + sum(jnp.abs(given - expected).sum(1) for given, expected in pairs)
        velocity = start + 10 * (start + between) + 1000 * wrong
        return jnp.zeros_like(x) + velocity[:, None, None, None]


def _decoder(num_steps=1, **changes):
    changes |= {"decoder__name": "mean_ncsnpp", "sampling__num_steps": num_steps}
    changes |= {"training__flow_draws": 2}
    decoder = MeanFlowDecoder(small.config("configs/digits_joint.py", **changes), nn.Dense(1))
    decoder.module = _Network()
    return decoder


def test_the_loss_is_meanflows_at_the_drawn_times():
    images = jax.random.randint(KEYS[0], (6, 8, 8, 1), 0, 256).astype(jnp.uint8)
    decoder = _decoder(decoder__condition_dropout=0.0)
    batch, twice = {"images": images}, jnp.repeat(normalise(images), 2, axis=0)  # a row a draw
    noise, t = flow.draw(KEYS[1], twice)
    s = mean_flow.draw_ends(named(KEYS[0], "ends"), t)
    assert 0 < np.sum(t != s) < 12
    batch |= {"flow_noise": noise, "flow_time": t}
    found = decoder.loss({"decoder": None}, batch, (LATENTS, LABELS), KEYS)

    def velocity(x, t, s, condition):
        return jnp.zeros_like(x) + (t + 10 * s)[:, None, None, None]

    expected = mean_flow.loss(velocity, twice, None, noise, t, s)
    np.testing.assert_allclose(found, expected, rtol=1e-3)


def test_a_condition_is_dropped_at_its_rate_and_times_are_not():
    count, found = 2000, []
    decoder = _decoder(decoder__condition_dropout=0.2)

    def network(variables, key, x, t, latents, beside):
        jax.debug.callback(found.append, beside)
        return jnp.zeros_like(x)

    decoder.in_training = lambda: network
    batch = {"images": jnp.zeros((count, 2, 2, 1), jnp.uint8)}
    decoder.loss({"decoder": None}, batch, (jnp.ones((count, 3)), jnp.ones((count, 6))), KEYS)
    jax.effects_barrier()
    labels, waves = np.split(np.asarray(found[0]), [6], axis=1)
    np.testing.assert_array_equal(labels[:, 1:], labels[:, :-1])
    assert np.mean(labels[:, 0] == 0) == pytest.approx(0.2, abs=4 * np.sqrt(0.16 / count))
    np.testing.assert_allclose(np.sum(waves**2, axis=1), 16, rtol=1e-5)


def test_sampling_and_inversion_take_the_steps_of_the_config():
    condition, index = (LATENTS, LABELS), jnp.arange(6)
    for num_steps, change in ((1, 10.0), (2, 0.5 * (5 + 10.5))):
        decoder = _decoder(num_steps)
        noise = normal_by_index(KEYS[0], "image_noise", index, (8, 8, 1))
        found = decoder.generate({"decoder": None}, KEYS[0], condition, index)
        np.testing.assert_array_equal(found["images"], to_uint8(noise + change))
        np.testing.assert_array_equal(found["num_evaluations"], num_steps)
        back = decoder.invert({"decoder": None}, jnp.full((6, 8, 8, 1), 255, jnp.uint8), condition)
        expected = {1: 1 - 1.0, 2: 1 - 0.5 * (1 + 5 + 0.5)}[num_steps]
        np.testing.assert_allclose(back, expected, atol=1e-4)
