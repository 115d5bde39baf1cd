"""Micro-batches change memory and nothing else."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import small

from lzn_jax import data, train
from lzn_jax.latent_space import LatentSpace
from lzn_jax.models import by_example, with_own_keys
from lzn_jax.modes import compile
from lzn_jax.run import devices as devices_module


class Network(nn.Module):
    """Two layers with dropout between them."""

    @nn.compact
    def __call__(self, x):
        return nn.Dense(3)(nn.Dropout(0.5, deterministic=False)(nn.tanh(nn.Dense(32)(x))))


def _apply(variables, key, x):
    return Network().apply(variables, x, rngs={"dropout": key})


@pytest.fixture(scope="module")
def problem():
    x = jax.random.normal(jax.random.key(2), (12, 5))
    keys = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    return Network().init(keys, x), x


@pytest.mark.parametrize("size", [None, 4, 12])
def test_each_example_has_its_own_key(problem, size):
    variables, x = problem
    key = jax.random.key(7)
    outputs = by_example(with_own_keys(_apply), size)(variables, key, x)
    for i in range(12):
        alone = _apply(variables, jax.random.fold_in(key, i), x[i : i + 1])[0]
        np.testing.assert_allclose(outputs[i], alone, rtol=1e-5, atol=1e-6)


def test_the_gradient_is_that_of_the_whole_batch(problem):
    variables, x = problem

    def loss(variables, size):
        outputs = by_example(with_own_keys(_apply), size)(variables, jax.random.key(7), x)
        return jnp.sum(jnp.tanh(jnp.mean(outputs, axis=0)))  # not a mean over examples

    whole = jax.grad(loss)(variables, None)
    split = jax.grad(loss)(variables, 4)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-7), split, whole)


def test_a_size_that_does_not_divide_the_batch_raises(problem):
    variables, x = problem
    with pytest.raises(ValueError, match="micro-batches of 5 do not divide 12"):
        by_example(with_own_keys(_apply), 5)(variables, jax.random.key(7), x)


def _update(devices, **changes):
    """State and metrics after a step of the joint study, and the memory it takes."""
    config = small.config(training__batch_size=32, decoder__dropout=0.5, **changes)
    mesh = devices_module.make_mesh(8, jax.devices()[:devices])
    space = LatentSpace(config, mesh)
    # Plain gradient descent: Adam would turn rounding noise of tiny gradients into signs.
    optimizer = optax.sgd(0.1)
    state = jax.jit(functools.partial(train.init_state, space, optimizer, 0))()
    state = state.replace(params=small.shaken(state.params, 0.1))
    examples, _ = data.load_data(config)
    batch = {"images": examples.images[:32], "labels": examples.labels[:32]}
    update = functools.partial(
        train.update_state, space=space, optimizer=optimizer, training=config.training, seed=0
    )
    jitted = jax.jit(
        update,
        in_shardings=(devices_module.replicated(mesh), devices_module.split(mesh)),
        out_shardings=devices_module.replicated(mesh),
    )
    with jax.set_mesh(mesh):
        program = jitted.lower(state, batch).compile()
    batch = jax.device_put(batch, devices_module.split(mesh))
    state = jax.device_put(state, devices_module.replicated(mesh))
    return jax.device_get(program(state, batch)), program.memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize("size", [None, 4])
def test_a_network_sees_micro_batches_whole(problem, size):
    _, x = problem
    seen = []

    def network(variables, keys, x):
        seen.append((len(keys), len(x)))
        return variables * x

    outputs = by_example(network, size)(2.0, jax.random.key(7), x)
    np.testing.assert_array_equal(outputs, 2 * x)
    assert set(seen) == {(size or 12, size or 12)}


@pytest.mark.parametrize("devices", [1, 8])
def test_a_step_in_micro_batches_is_the_unsplit_step(devices):
    (whole, whole_metrics), memory = _update(1)
    (split, split_metrics), split_memory = _update(devices, training__microbatch_size=8)
    for name, value in whole_metrics.items():
        assert split_metrics[name] == pytest.approx(value, rel=1e-5, abs=1e-6), name
    for a, b in zip(jax.tree.leaves(split.params), jax.tree.leaves(whole.params), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    assert split_memory < memory


@pytest.mark.parametrize("name", ["digits_joint", "digits_repr", "digits_text"])
def test_rematerialisation_of_blocks_does_not_change_the_gradient(name):
    def gradient(remat):
        config = small.config(f"configs/{name}.py", training__batch_size=16, training__remat=remat)
        space = LatentSpace(config, devices_module.make_mesh(1))
        variables = small.shaken(space.init(jax.random.key(0)))
        shapes = compile.batch_shapes(space, config)
        rng = np.random.default_rng(0)
        batch = {
            name: jnp.asarray(rng.integers(0, 10, a.shape), a.dtype) for name, a in shapes.items()
        }
        loss = jax.jit(jax.value_and_grad(lambda v: space.loss(v, batch, jax.random.key(1))[0]))
        return loss(variables), "remat" in str(jax.make_jaxpr(loss)(variables))

    (kept, is_kept_again), (again, is_again) = gradient(False), gradient(True)
    assert (is_kept_again, is_again) == (False, True)
    largest = max(float(jnp.abs(a).max()) for a in jax.tree.leaves(kept))
    for a, b in zip(jax.tree.leaves(again), jax.tree.leaves(kept), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5 * largest)
