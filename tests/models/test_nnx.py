"""Networks of Flax NNX as pure functions."""

import functools
import inspect
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small
from flax import linen as nn
from flax import nnx
from ml_collections import ConfigDict
from test_parts import registry  # noqa: F401

import lzn_jax
from lzn_jax import configuration, models, parts
from lzn_jax.errors import UserError
from lzn_jax.latent_space import LatentSpace
from lzn_jax.run import devices

TESTS = Path(__file__).parents[1]
KEYS = jax.random.split(jax.random.key(1), 2)
ONES = jnp.ones((4, 3))


class Network(nnx.Module):
    def __init__(self, features, rngs, rate=0.0):
        layers = [nnx.Linear(3, features, rngs=rngs), nnx.Linear(features, 8, rngs=rngs)]
        self.layers, self.scale = nnx.List(layers), nnx.Variable(jnp.full(8, 2.0))
        self.dropout = nnx.Dropout(rate, rngs=rngs) if rate else None

    def __call__(self, x):
        for layer in self.layers:
            x = layer(x)
        return self.scale * (x if self.dropout is None else self.dropout(x))


class Taught(Network):
    def __call__(self, x, train):
        return super().__call__(x) * (3 if train else 1)


def made(build, rate=0.0):
    """A network of eight units as `init` and `apply`, and its first variables."""
    module = models.functional(functools.partial(build, 8, rate=rate))
    return module, module.init(jax.random.key(0), ONES, train=False)


@pytest.mark.parametrize("build", [Network, Taught])
def test_outputs_are_those_of_the_network_with_these_parameters(build):
    module, variables = made(build)
    assert (type(module).__name__, variables.keys()) == (build.__name__, {"params"})
    expected = Network(8, nnx.Rngs(jax.random.key(0)))(ONES)
    np.testing.assert_array_equal(module.apply(variables, ONES, train=False), expected)
    taught = module.apply(variables, ONES, train=True)
    np.testing.assert_allclose(taught, (3 if build is Taught else 1) * expected)
    other = jax.tree.map(jnp.zeros_like, variables)
    assert not module.apply(other, ONES, train=False).any()


def test_dropout_is_that_of_training_and_its_key_and_differs_between_examples():
    module, variables = made(Network, rate=0.5)
    plain = module.apply(variables, ONES, train=False)
    np.testing.assert_array_equal(plain[0], plain[1])
    call = jax.jit(lambda key: models.in_training(module, 2)(variables, key, ONES))
    first, again, other = (call(KEYS[i]) for i in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    assert len(np.unique(np.asarray(first), axis=0)) > 1
    np.testing.assert_allclose(first, np.where(first == 0, 0, 2 * plain), rtol=1e-6)
    assert 0 < np.mean(np.asarray(first) == 0) < 1


def test_only_a_network_that_draws_gets_a_key_for_each_example():
    assert [made(Network, rate)[0].dropout for rate in (0.0, 0.5)] == [0, 1]
    linen = object()
    assert models.functional(linen) is linen


def test_arguments_are_those_of_the_config_and_the_sizes():
    class Sized(nnx.Module):
        def __init__(self, features, latent_dim, dtype, rngs):
            self.sizes = features, latent_dim, dtype

    training = {"compute_dtype": "bfloat16", "remat": True}
    config = ConfigDict({"training": training})
    group = ConfigDict({"name": "sized", "features": 5})
    module = models.module(Sized, group, config, latent_dim=3, image_shape=(8, 8, 1))
    assert module.build(rngs=nnx.Rngs(0)).sizes == (5, 3, jnp.bfloat16)


class Normal(nnx.Module):
    def __init__(self, latent_dim, image_shape, rngs):
        self.linear = nnx.Linear(math.prod(image_shape), latent_dim, rngs=rngs)
        self.norm = nnx.BatchNorm(latent_dim, rngs=rngs)

    def __call__(self, images):
        return self.norm(self.linear(images.reshape(len(images), -1)))


class LinenNormal(nn.Module):
    latent_dim: int

    @nn.compact
    def __call__(self, images, train):
        images = images.reshape(len(images), -1)
        return nn.BatchNorm(not train)(nn.Dense(self.latent_dim)(images))


@pytest.mark.parametrize("network", [Normal, LinenNormal])
@pytest.mark.usefixtures("registry")
def test_batch_statistics_are_refused_by_the_name_of_the_part(network):
    parts.add("encoder", "normal", network)
    config = configuration.load("digits_joint", ["encoder.name=normal"])
    space = LatentSpace(config, devices.make_mesh(1))
    with pytest.raises(UserError) as caught:
        jax.eval_shape(space.init, jax.random.key(0))
    line = inspect.getsourcelines(network)[1]
    expected = f"encoder 'normal' failed at {__file__}, line {line}: TypeError: {network.__name__}"
    assert str(caught.value) == f"{expected}() contains BatchNorm: use GroupNorm or LayerNorm"


@pytest.mark.usefixtures("registry")
def test_a_run_keeps_a_list_of_layers(tmp_path):
    text = (TESTS / "rows.py").read_text()
    own = "functools.partial(Network, config.latent.dim)"
    text = text.replace("Net(config.latent.dim)", own).replace("import dataclasses", IMPORTS)
    (tmp_path / "rows.py").write_text(text.replace("class Net(", f"{NETWORK}\n\nclass Net("))
    (tmp_path / "config.py").write_text((TESTS / "rows_config.py").read_text())
    config = configuration.load(str(tmp_path / "config.py"))
    model = lzn_jax.load(small.untrained_run(tmp_path / "run", config))
    assert model.encode(np.ones((2, 3), np.float32)).shape == (2, 4)
    kernel = model.model.variables["row_encoder"]["params"]["layers"]
    assert [np.shape(layer["kernel"]) for layer in kernel.values()] == [(3, 4), (4, 4)]


IMPORTS = "import dataclasses\nimport functools\n\nfrom flax import nnx"
NETWORK = """
class Network(nnx.Module):
    def __init__(self, dim, rngs):
        sizes = (3, dim), (dim, dim)
        self.layers = nnx.List([nnx.Linear(*size, rngs=rngs) for size in sizes])

    def __call__(self, x):
        return self.layers[1](self.layers[0](x))
"""
