"""Networks of one pass, from latents to images, and the encoder of dense layers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small

from lzn_jax.models.mlp import MLPEncoder, MLPGenerator
from lzn_jax.models.ncsnpp import NCSNppGenerator

NCSNPP = {
    "features": 4,
    "channel_multipliers": (1, 2),
    "num_res_blocks": 1,
    "attention_resolutions": (4,),
    "dropout": 0.5,
    "fir": False,
}
GENERATORS = {
    "NCSN++": NCSNppGenerator(image_shape=(8, 8, 3), **NCSNPP),
    "NCSN++ of patches": NCSNppGenerator(image_shape=(8, 8, 3), patch_size=2, **NCSNPP),
    "MLP": MLPGenerator(image_shape=(8, 8, 3), features=8, num_blocks=2, dropout=0.5),
}
LATENTS = np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32)


def variables_of(network, *arrays):
    init = functools.partial(network.init, train=False)
    return small.drawn(jax.eval_shape(init, jax.random.key(0), *arrays))


@pytest.mark.parametrize("name", GENERATORS)
def test_an_image_is_of_its_own_latent_and_of_what_is_told(name):
    network, told = GENERATORS[name], np.eye(3, 4, dtype=np.float32)
    variables = variables_of(network, LATENTS, told)

    @jax.jit
    def images(latents, told):
        return network.apply(variables, latents, told, train=False)

    made = images(LATENTS, told)
    assert made.shape == (3, 8, 8, 3)
    assert made.dtype == jnp.float32
    made = np.asarray(made)
    for i in range(5):  # each part of a latent counts, of its own image alone
        latents = LATENTS.copy()
        latents[0, i] += 1
        moved = np.asarray(images(latents, told))
        assert np.abs(moved[0] - made[0]).max() > 1e-3
        np.testing.assert_allclose(moved[1:], made[1:], atol=1e-6)
    other = np.asarray(images(LATENTS, told[::-1]))
    assert np.abs(other[0] - made[0]).max() > 1e-3


@pytest.mark.parametrize("name", ["MLP", *small.slow(*(n for n in GENERATORS if n != "MLP"))])
def test_dropout_is_of_training_alone(name):
    network = GENERATORS[name]
    variables = variables_of(network, LATENTS, None)

    @jax.jit
    def images(latents, key):
        return network.apply(variables, latents, None, train=True, rngs={"dropout": key})

    made = [np.asarray(images(LATENTS, jax.random.key(i))) for i in range(2)]
    assert np.abs(made[0] - made[1]).max() > 1e-3


def test_an_anchor_of_dense_layers_is_of_its_own_image():
    network = MLPEncoder(features=8, num_blocks=1, latent_dim=5)
    images = np.random.default_rng(1).normal(size=(3, 4, 4, 2)).astype(np.float32)
    apply = jax.jit(functools.partial(network.apply, variables_of(network, images), train=True))
    anchors = np.asarray(apply(images))
    assert anchors.shape == (3, 5)
    images[0] += 1
    moved = np.asarray(apply(images))
    assert np.abs(moved[0] - anchors[0]).max() > 1e-3
    np.testing.assert_allclose(moved[1:], anchors[1:], atol=1e-6)
