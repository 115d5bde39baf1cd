"""Group normalisation against its definition in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from lzn_jax.models.norm import GroupNorm, group_norm

GROUPS, EPSILON = 8, 1e-6


def defined(x, scale, bias):
    """The definition, in the dtype of x, of NumPy's arrays or JAX's."""
    groups = x.reshape(len(x), -1, GROUPS, x.shape[-1] // GROUPS)
    centred = groups - groups.mean((1, 3), keepdims=True)
    variance = (centred**2).mean((1, 3), keepdims=True)
    return (centred / (variance + EPSILON) ** 0.5).reshape(x.shape) * scale + bias


def with_gradients(norm):
    """A function of (weights, x, scale, bias): the weighted sum and the values; its gradients."""

    def weighted(weights, *arrays):
        y = norm(*arrays)
        return jnp.sum(y * weights), y

    return jax.jit(jax.value_and_grad(weighted, (1, 2, 3), has_aux=True))


norm = jax.jit(functools.partial(group_norm, num_groups=GROUPS, epsilon=EPSILON))
found, expected = with_gradients(norm), with_gradients(defined)


@pytest.mark.parametrize("ratio", [0, 10, 1000])
@pytest.mark.parametrize("shape", [(3, 32), (2, 25, 16), (2, 17, 9, 24)])
def test_values_and_gradients_are_those_of_float64_at_any_mean(shape, ratio):
    rng = np.random.default_rng(0)
    x, weights = ratio + rng.normal(size=shape), rng.normal(size=shape).astype(np.float32)
    arrays = [each.astype(np.float32) for each in (x, *rng.normal(size=(2, shape[-1])))]
    (_, y), gradients = found(weights, *arrays)
    with jax.enable_x64(True):
        in_float64 = [each.astype(np.float64) for each in (weights, *arrays)]
        (_, exact), exact_gradients = expected(*in_float64)
    for a, b in zip((y, *gradients), (exact, *exact_gradients), strict=True):
        assert np.max(np.abs(np.asarray(a) - np.asarray(b))) < 1e-5 * np.max(np.abs(b))


@pytest.mark.parametrize(("ratio", "most"), [(0, 1e-6), (10, 2e-5), (100, 2**-9)])
def test_bfloat16_loses_less_than_its_own_rounding(ratio, most):
    rng = np.random.default_rng(0)
    x = (ratio + rng.normal(size=(2, 17, 9, 24))).astype(jnp.bfloat16)
    scale, bias = rng.normal(size=(2, 24)).astype(np.float32)
    y = norm(x, scale, bias)
    exact = defined(x.astype(np.float64), scale, bias)
    assert y.dtype == jnp.float32
    assert np.max(np.abs(np.asarray(y) - exact)) < most * np.max(np.abs(exact))


def test_equal_values_give_the_bias():
    x, scale = np.full((2, 3, 3, 16), 7.3, np.float32), np.full(16, 2, np.float32)
    y = norm(x, scale, np.arange(16, dtype=np.float32))
    np.testing.assert_array_equal(y, np.broadcast_to(np.arange(16), x.shape))


def test_parameters_are_flaxs_and_the_result_has_the_compute_dtype():
    x = np.random.default_rng(0).normal(size=(2, 4, 4, 16)).astype(jnp.bfloat16)
    ours, theirs = GroupNorm(GROUPS, EPSILON, jnp.bfloat16), nn.GroupNorm(GROUPS, epsilon=EPSILON)
    variables, others = (jax.jit(each.init)(jax.random.key(0), x) for each in (theirs, ours))
    assert jax.tree.all(jax.tree.map(np.array_equal, others, variables))
    y = jax.jit(ours.apply)(variables, x)
    assert y.dtype == jnp.bfloat16
    # Statistics are in float32: one rounding, at the end.
    exact = norm(x.astype(np.float32), variables["params"]["scale"], variables["params"]["bias"])
    np.testing.assert_array_equal(y, np.asarray(exact).astype(jnp.bfloat16))
