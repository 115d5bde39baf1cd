"""Networks of one pass, from latents to images, and the encoder of dense layers."""

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
LATENTS = jax.random.normal(jax.random.key(0), (3, 5))


def variables_of(network, *arrays):
    shapes = jax.eval_shape(lambda key: network.init(key, *arrays, train=False), jax.random.key(0))
    return small.drawn(shapes)


@pytest.mark.parametrize("name", GENERATORS)
def test_an_image_is_of_its_own_latent_and_of_what_is_told(name):
    network, told = GENERATORS[name], jax.nn.one_hot(jnp.arange(3), 4)
    variables = variables_of(network, LATENTS, told)

    @jax.jit
    def images(latents, told):
        return network.apply(variables, latents, told, train=False)

    made = images(LATENTS, told)
    assert made.shape == (3, 8, 8, 3)
    assert made.dtype == jnp.float32
    for i in range(5):  # each part of a latent counts, of its own image alone
        moved = images(LATENTS.at[0, i].add(1), told)
        assert float(jnp.abs(moved[0] - made[0]).max()) > 1e-3
        np.testing.assert_allclose(moved[1:], made[1:], atol=1e-6)
    other = images(LATENTS, told[::-1])
    assert float(jnp.abs(other[0] - made[0]).max()) > 1e-3


@pytest.mark.parametrize("name", ["MLP", *small.slow(*(n for n in GENERATORS if n != "MLP"))])
def test_dropout_is_of_training_alone(name):
    network = GENERATORS[name]
    variables = variables_of(network, LATENTS, None)
    made = [
        network.apply(variables, LATENTS, None, train=True, rngs={"dropout": jax.random.key(i)})
        for i in range(2)
    ]
    assert float(jnp.abs(made[0] - made[1]).max()) > 1e-3


def test_an_anchor_of_dense_layers_is_of_its_own_image():
    network = MLPEncoder(features=8, num_blocks=1, latent_dim=5)
    images = jax.random.normal(jax.random.key(1), (3, 4, 4, 2))
    variables = variables_of(network, images)
    anchors = network.apply(variables, images, train=True)
    assert anchors.shape == (3, 5)
    moved = network.apply(variables, images.at[0].add(1), train=True)
    assert float(jnp.abs(moved[0] - anchors[0]).max()) > 1e-3
    np.testing.assert_allclose(moved[1:], anchors[1:], atol=1e-6)
