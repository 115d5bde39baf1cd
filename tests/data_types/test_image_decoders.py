"""Decoders by flow and MeanFlow: conditions and times that reach their networks, and samples.

The networks are stubs.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small
from flax import linen as nn
from scipy.stats import kstest

from lzn_jax.data import normalise, to_uint8
from lzn_jax.decoders import flow, mean_flow
from lzn_jax.decoders.flow import FlowDecoder
from lzn_jax.decoders.mean_flow import MeanFlowDecoder
from lzn_jax.models import named, normal_by_index

KEYS = tuple(jax.random.split(jax.random.key(2), 2))
LATENTS, LABELS = jnp.ones((6, 3)), jnp.eye(6)


def given(part, batch, condition, **changes):
    """What the network of a decoder's loss is given: x_t, t, latents and condition."""
    decoder, found = (
        part.from_config(small.config("configs/digits_text.py", **changes), nn.Dense(1)),
        [],
    )

    def network(variables, key, *inputs):
        jax.debug.callback(lambda *arrays: found.extend(map(np.asarray, arrays)), *inputs)
        return jnp.zeros_like(inputs[0])

    decoder.in_training = lambda: network
    jax.jit(decoder.loss)({"decoder": None}, batch, condition, KEYS)
    jax.effects_barrier()
    return found[:4]


@pytest.mark.parametrize("part", [FlowDecoder, MeanFlowDecoder])
def test_a_condition_is_dropped_whole_at_its_rate_and_times_are_not(part):
    count, ones = 4000, np.ones((4000, 3), np.float32)
    batch = {"images": np.zeros((count, 2, 2, 1), np.uint8)}
    changes = {"decoder__condition_dropout": 0.2, "training__flow_draws": 1}
    _, t, latents, beside = given(part, batch, (ones, ones), **changes)
    labels, waves = np.split(beside, [3], axis=1)
    np.testing.assert_array_equal(latents, ones)
    np.testing.assert_array_equal(labels[:, 1:], labels[:, :-1])
    assert set(np.unique(labels)) == {0, 1}
    is_dropped = labels[:, 0] == 0
    assert np.mean(is_dropped) == pytest.approx(0.2, abs=4 * np.sqrt(0.16 / count))
    if part is MeanFlowDecoder:
        np.testing.assert_allclose(np.sum(waves**2, axis=1), 16, rtol=1e-5)
        t = waves[:, 0]
    # Times of dropped and of kept rows have one distribution.
    largest = kstest(t[is_dropped], t[~is_dropped]).statistic
    assert largest < 2 * np.sqrt(1 / is_dropped.sum() + 1 / (~is_dropped).sum())


def test_each_draw_of_an_image_has_the_images_own_condition():
    levels, draws = np.array([0, 51, 102, 255], np.int32), 3
    batch = {"images": np.tile(levels[:, None, None, None], (1, 2, 2, 1)).astype(np.uint8)}
    condition = (levels[:, None], -levels[:, None])
    changes = {"decoder__condition_dropout": 0.0, "training__flow_draws": draws}
    at_the_end = {
        "flow_noise": np.zeros((12, 2, 2, 1), np.float32),
        "flow_time": np.ones(12, np.float32),
    }
    x_t, _, latents, beside = given(FlowDecoder, batch | at_the_end, condition, **changes)
    shown = 127.5 * (x_t[:, 0, 0, 0] + 1)
    assert sorted(shown.round().tolist()) == sorted(draws * levels.tolist())
    np.testing.assert_allclose(latents[:, 0], shown, atol=1e-4)
    np.testing.assert_allclose(beside[:, 0], -shown, atol=1e-4)
    x_t, t, *_ = given(FlowDecoder, batch, condition, **changes)
    assert len(np.unique(t)) == len(np.unique(x_t[:, 0, 0, 0])) == 12


class Velocity:
    """A network of MeanFlow: the velocity t + 10 s of the times that the condition has."""

    dropout = 0.0

    def apply(self, variables, x, t, latents, beside, *, train):
        labels, waves = jnp.split(beside, [6], axis=1)
        start, between = (2 / jnp.pi * jnp.arcsin(waves[:, k]) for k in (0, 8))
        own = (jnp.repeat(each, len(x) // 6, axis=0) for each in (LATENTS, LABELS))  # of each draw
        pairs = zip((latents, labels), own, strict=True)
        wrong = t + sum(jnp.abs(given - expected).sum(1) for given, expected in pairs)
        velocity = start + 10 * (start + between) + 1000 * wrong
        return jnp.zeros_like(x) + velocity[:, None, None, None]


NCSNPP = Path(__file__).parents[1] / "ncsnpp_joint.py"


def mean_flow_decoder(**changes):
    changes |= {"decoder__name": "mean_ncsnpp", "training__flow_draws": 2}
    decoder = MeanFlowDecoder.from_config(small.config(NCSNPP, **changes), nn.Dense(1))
    decoder.module = Velocity()
    return decoder


def test_the_loss_is_meanflows_at_the_drawn_times():
    decoder = mean_flow_decoder(decoder__condition_dropout=0.0)

    def velocity(x, t, s, condition):
        return jnp.zeros_like(x) + (t + 10 * s)[:, None, None, None]

    @jax.jit
    def losses(images, latents, labels):
        twice = jnp.repeat(normalise(images), 2, axis=0)  # a row a draw
        noise, t = flow.draw(KEYS[1], twice)
        s = mean_flow.draw_ends(named(KEYS[0], "ends"), t)
        batch = {"images": images, "flow_noise": noise, "flow_time": t}
        found = decoder.loss({"decoder": None}, batch, (latents, labels), KEYS)
        return found, mean_flow.loss(velocity, twice, None, noise, t, s), jnp.sum(t != s)

    images = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 1), np.uint8)
    found, expected, num_others = losses(images, LATENTS, LABELS)
    assert 0 < num_others < 12
    np.testing.assert_allclose(found, expected, rtol=1e-3)


@pytest.mark.parametrize(
    ("num_steps", "change", "back"), [(1, 10.0, -1.0), (2, 0.5 * (5 + 10.5), -0.5 * (1 + 5 + 0.5))]
)
def test_meanflow_samples_and_inverts_in_the_steps_of_the_config(num_steps, change, back):
    decoder, condition = mean_flow_decoder(sampling__num_steps=num_steps), (LATENTS, LABELS)

    @jax.jit
    def both_ways(images, condition):
        index = jnp.arange(6)
        noise = normal_by_index(KEYS[0], "image_noise", index, (8, 8, 1))
        found = decoder.generate({"decoder": None}, KEYS[0], condition, index)
        back = decoder.invert({"decoder": None}, images, condition)
        return found, to_uint8(noise + change), back

    white = np.full((6, 8, 8, 1), 255, np.uint8)
    found, expected, inverted = both_ways(white, condition)
    np.testing.assert_array_equal(found["images"], expected)
    np.testing.assert_array_equal(found["num_evaluations"], num_steps)
    np.testing.assert_allclose(inverted, 1 + back, atol=1e-4)
