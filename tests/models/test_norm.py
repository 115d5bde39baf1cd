"""Group normalisation against its definition in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from lzn_jax.models.norm import GroupNorm, group_norm

GROUPS, EPSILON = 8, 1e-6


def defined(x, scale, bias):
    """The definition, in the dtype of x."""
    groups = x.reshape(len(x), -1, GROUPS, x.shape[-1] // GROUPS)
    centred = groups - groups.mean((1, 3), keepdims=True)
    variance = (centred**2).mean((1, 3), keepdims=True)
    return (centred / jnp.sqrt(variance + EPSILON)).reshape(x.shape) * scale + bias


@pytest.mark.parametrize("ratio", [0, 10, 1000])
@pytest.mark.parametrize("shape", [(3, 32), (2, 25, 16), (2, 17, 9, 24)])
def test_values_and_gradients_are_those_of_float64_at_any_mean(shape, ratio):
    rng = np.random.default_rng(0)
    x, weights = ratio + rng.normal(size=shape), rng.normal(size=shape).astype(np.float32)
    arrays = [each.astype(np.float32) for each in (x, *rng.normal(size=(2, shape[-1])))]

    def found(x, scale, bias):
        y = group_norm(x, scale, bias, GROUPS, EPSILON)
        return jnp.sum(y * weights), y

    def expected(x, scale, bias):
        y = defined(x, scale, bias)
        return jnp.sum(y * weights), y

    (_, y), gradients = jax.value_and_grad(found, (0, 1, 2), has_aux=True)(*arrays)
    with jax.enable_x64(True):
        in_float64 = [each.astype(np.float64) for each in arrays]
        (_, exact), exact_gradients = jax.value_and_grad(expected, (0, 1, 2), has_aux=True)(
            *in_float64
        )
    for a, b in zip((y, *gradients), (exact, *exact_gradients), strict=True):
        assert np.max(np.abs(np.asarray(a) - np.asarray(b))) < 1e-5 * np.max(np.abs(b))


@pytest.mark.parametrize(("ratio", "most"), [(0, 1e-6), (10, 2e-5), (100, 2**-9)])
def test_bfloat16_loses_less_than_its_own_rounding(ratio, most):
    rng = np.random.default_rng(0)
    x = jnp.asarray(ratio + rng.normal(size=(2, 17, 9, 24)), jnp.bfloat16)
    scale, bias = jnp.asarray(rng.normal(size=(2, 24)), jnp.float32)
    y = group_norm(x, scale, bias, GROUPS, EPSILON)
    with jax.enable_x64(True):
        exact = np.asarray(defined(np.asarray(x, np.float64), scale, bias))
    assert y.dtype == jnp.float32
    assert np.max(np.abs(np.asarray(y) - exact)) < most * np.max(np.abs(exact))


def test_equal_values_give_the_bias():
    x = jnp.full((2, 3, 3, 16), 7.3)
    y = group_norm(x, jnp.full(16, 2.0), jnp.arange(16.0), GROUPS, EPSILON)
    np.testing.assert_array_equal(y, jnp.broadcast_to(jnp.arange(16.0), x.shape))


def test_parameters_are_flaxs_and_the_result_has_the_compute_dtype():
    x = jax.random.normal(jax.random.key(0), (2, 4, 4, 16), jnp.bfloat16)
    ours, theirs = GroupNorm(GROUPS, EPSILON, jnp.bfloat16), nn.GroupNorm(GROUPS, epsilon=EPSILON)
    variables = theirs.init(jax.random.key(0), x)
    assert jax.tree.all(jax.tree.map(jnp.array_equal, ours.init(jax.random.key(0), x), variables))
    y = ours.apply(variables, x)
    assert y.dtype == jnp.bfloat16
    # Statistics are in float32: one rounding, at the end.
    exact = group_norm(x.astype(jnp.float32), *variables["params"].values(), GROUPS, EPSILON)
    np.testing.assert_array_equal(y, exact.astype(jnp.bfloat16))
