"""Micro-batches, devices and rematerialisation change memory and nothing else."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small

from lzn_jax import plan
from lzn_jax.data.batches import TrainingBatches
from lzn_jax.models import by_example, with_own_keys
from lzn_jax.run import devices


class Network(nn.Module):
    """Two layers with dropout between them."""

    @nn.compact
    def __call__(self, x):
        return nn.Dense(3)(nn.Dropout(0.5, deterministic=False)(nn.tanh(nn.Dense(32)(x))))


def _apply(variables, key, x):
    return Network().apply(variables, x, rngs={"dropout": key})


@pytest.fixture(scope="module")
def problem():
    x = np.random.default_rng(2).normal(size=(12, 5)).astype(np.float32)
    keys = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    return jax.jit(Network().init)(keys, x), x


@pytest.mark.parametrize("size", [None, 4, 12])
def test_each_example_has_its_own_key(problem, size):
    variables, x = problem
    key = jax.random.key(7)
    outputs = jax.jit(by_example(with_own_keys(_apply), size))(variables, key, x)
    for i in range(12):
        alone = jax.jit(_apply)(variables, jax.random.fold_in(key, i), x[i : i + 1])[0]
        np.testing.assert_allclose(outputs[i], alone, rtol=1e-5, atol=1e-6)


def test_the_gradient_is_that_of_the_whole_batch(problem):
    variables, x = problem

    def loss(variables, x, size):
        outputs = by_example(with_own_keys(_apply), size)(variables, jax.random.key(7), x)
        return jnp.sum(jnp.tanh(jnp.mean(outputs, axis=0)))  # not a mean over examples

    gradient = jax.jit(jax.grad(loss), static_argnums=2)
    whole, split = gradient(variables, x, None), gradient(variables, x, 4)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-7), split, whole)


def test_a_size_that_does_not_divide_the_batch_raises(problem):
    variables, x = problem
    with pytest.raises(ValueError, match="micro-batches of 5 do not divide 12"):
        by_example(with_own_keys(_apply), 5)(variables, jax.random.key(7), x)


@pytest.mark.parametrize("size", [None, 4])
def test_a_network_sees_micro_batches_whole(problem, size):
    _, x = problem
    seen = []

    def network(variables, keys, x):
        seen.append((len(keys), len(x)))
        return variables * x

    outputs = jax.jit(by_example(network, size))(2.0, jax.random.key(7), x)
    np.testing.assert_array_equal(outputs, 2 * x)
    assert set(seen) == {(size or 12, size or 12)}


def _batch(world):
    """The first batch of a run."""
    train, size = world.digits[0], world.config.training.batch_size
    columns, transform = world.space.columns(train), world.space.transform
    with TrainingBatches(train, size, 0, transform, columns=columns) as batches:
        return next(batches)


@functools.cache
def _gradient(name, num_devices=1, **changes):
    """((loss, metrics), gradient) of a study, and the memory that they take."""
    world = small.world(name, num_devices, **changes)
    variables, batch = small.random_variables(world.space), _batch(world)
    key = jax.random.key(1)
    call = jax.jit(jax.value_and_grad(functools.partial(plan.loss, world.space.plan), has_aux=True))
    whole, split = devices.replicated(world.mesh), devices.split(world.mesh)
    with jax.set_mesh(world.mesh):
        arguments = jax.device_put(variables, whole), jax.device_put(batch, split), key
        program = call.lower(*arguments).compile()
        found = jax.device_get(program(*arguments))
    return found, program.memory_analysis().temp_size_in_bytes


def _assert_close(found, expected):
    ((loss, metrics), gradient), ((other_loss, others), other) = expected, found
    assert float(other_loss) == pytest.approx(float(loss), rel=1e-5)
    for metric, value in metrics.items():
        assert others[metric] == pytest.approx(value, rel=1e-4, abs=1e-6), metric
    gradient, other = ({n: t["params"] for n, t in g.items()} for g in (gradient, other))
    scale = max(float(np.abs(a).max()) for a in jax.tree.leaves(gradient))
    for a, b in zip(jax.tree.leaves(gradient), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-4, atol=1e-5 * scale)


VIEWS = {"latent__dim": 8, "encoder__head_dim": 8, "alignment__num_steps": 5}
# Blur alone, whose strength each example's key draws, compiles faster than all changes.
VIEWS |= {"augmentation__jitter_probability": 0.0, "augmentation__blur_probability": 1.0}
BESIDE = {"alignments": "('image:label',)", "decoder__condition": "label"}
DROPPED = {"encoder__dropout": 0.5, "decoder__dropout": 0.5, "training__batch_size": 32}


@pytest.mark.parametrize(
    ("name", "changes", "num_devices", "size"),
    [
        ("digits_repr", VIEWS, 8, 8),
        *small.slow(
            ("digits_joint", DROPPED, 8, 8),
            ("digits_gen", {"latent__solver": "dpm"}, 1, 8),
            ("digits_gen", {"latent__solver": "dpm"}, 8, 8),
            ("digits_joint", DROPPED, 1, 8),
            ("digits_alone", {"training__queries": 8}, 1, 4),
            ("digits_alone", {"training__queries": 8}, 8, None),
            ("digits_alone", {"training__queries": 8, **BESIDE}, 8, 4),
            ("digits_text", {}, 8, 8),
            ("digits_repr", VIEWS, 1, 8),
            ("digits_repr", VIEWS, 8, None),
            ("digits_repr", {**VIEWS, "objective": "simclr", "simclr__temperature": 0.3}, 8, 8),
            ("digits_repr", {**VIEWS, "objective": "dcl", "dcl__temperature": 0.3}, 8, 8),
        ),
    ],
)
def test_micro_batches_and_devices_change_neither_loss_nor_gradient(
    name, changes, num_devices, size
):
    whole, memory = _gradient(name, **changes)
    split, split_memory = _gradient(name, num_devices, training__microbatch_size=size, **changes)
    _assert_close(split, whole)
    assert split_memory < memory


@pytest.mark.parametrize("name", small.slow("digits_gen", "digits_repr", "digits_text"))
def test_rematerialisation_of_blocks_does_not_change_the_gradient(name):
    for remat in (False, True):
        world = small.world(name, training__remat=remat)
        shapes = jax.eval_shape(world.space.init, jax.random.key(0)), _batch(world)
        traced = jax.make_jaxpr(jax.grad(lambda *a, w=world: plan.loss(w.space.plan, *a)[0]))(
            *shapes, jax.random.key(1)
        )
        assert ("remat" in str(traced)) == remat
    again, _ = _gradient(name, training__remat=True)
    _assert_close(again, _gradient(name, training__remat=False)[0])
