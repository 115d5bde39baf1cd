"""Misfits in closed form, and probabilities at a time of the flow."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lzn_jax import zoning
from lzn_jax.data_types import Classifier, Model
from lzn_jax.decoders import flow, mean_flow, one_pass

SHAPE = (4, 4, 1)
IMAGES = jnp.asarray(np.random.default_rng(0).integers(0, 256, (3, *SHAPE)), jnp.uint8)
PIXELS = np.asarray(IMAGES) / 127.5 - 1
LATENTS = jnp.asarray([[0.1], [0.2], [0.3]])
FLOW = zoning.Euler(4)


def misfits(kind, network):
    """Misfits of the images by a decoder whose network is a function."""
    module = types.SimpleNamespace(apply=lambda variables, *inputs, train: network(*inputs))
    made = kind("image", module, output="images", shape=SHAPE)
    return np.asarray(made.misfits({made.network: {}}, IMAGES, (LATENTS, None)))


def of_velocity(velocity):
    """Mean squared errors of a velocity of (x_t, t) over the fixed noise and its negative."""
    drawn = np.asarray(jax.random.normal(jax.random.key(0), (flow.MISFIT_DRAWS, *SHAPE)))
    noise, t = np.concatenate([drawn, -drawn])[:, None], flow.MISFIT_TIME
    errors = velocity(t * PIXELS + (1 - t) * noise, t) - (PIXELS - noise)
    return np.mean(errors**2, axis=(0, 2, 3, 4))


def test_misfits_of_a_flow_are_errors_of_its_velocity():
    found = misfits(flow.FlowDecoder, lambda x, t, *_: 2 * x + t[:, None, None, None])
    np.testing.assert_allclose(found, of_velocity(lambda x, t: 2 * x + t), rtol=1e-5)


def test_misfits_of_a_mean_flow_are_errors_of_its_velocity_without_an_interval():
    def network(x, zero, latents, waves):
        given = mean_flow._with_times((latents, None), *[jnp.full(3, flow.MISFIT_TIME)] * 2)[1]
        return 2 * x + jnp.sum(abs(waves - given)) + zero[:, None, None, None]

    found = misfits(mean_flow.MeanFlowDecoder, network)
    np.testing.assert_allclose(found, of_velocity(lambda x, t: 2 * x), rtol=1e-5)


def test_misfits_of_one_pass_are_errors_of_the_image():
    def network(latents, beside):
        return jnp.broadcast_to(latents[:, :, None, None], (3, *SHAPE))

    expected = np.mean((np.asarray(LATENTS)[:, :, None, None] - PIXELS) ** 2, axis=(1, 2, 3))
    np.testing.assert_allclose(misfits(one_pass.DirectDecoder, network), expected, rtol=1e-5)


@pytest.mark.parametrize(("time", "step"), [(1.0, 3), (0.5, 2), (0.6, 2), (0.1, 0)])
def test_probabilities_are_read_at_a_time_of_the_flow(time, step):
    anchors = jnp.asarray([[-2.0, 0.0], [2.0, 0.0], [0.0, 3.0]])
    latents = jnp.asarray([[0.1, 0.2], [-0.3, 0.4], [0.2, 0.9]])

    class OfTable(Classifier):
        num_classes = 3
        probability_time = time

        def classes(self, model):
            return anchors, jnp.arange(3)

    model = Model({}, {})
    found = OfTable().predict(model, latents, FLOW)
    expected = np.exp(zoning.log_assignments(latents, anchors, solver=FLOW))
    own = np.asarray(zoning.classify(latents, anchors, solver=FLOW))
    np.testing.assert_array_equal(found["classes"], own)
    np.testing.assert_allclose(found["probabilities"], expected[step][range(3), own], rtol=1e-5)
    of_all = OfTable().class_probabilities(model, latents, FLOW)
    np.testing.assert_allclose(of_all, expected[step], rtol=1e-5)
