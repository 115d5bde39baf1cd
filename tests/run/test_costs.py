"""Counted operations against counts by hand."""

import functools

import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn

from lzn_jax import zoning
from lzn_jax.models.resnet import ResNet
from lzn_jax.run import costs


def count(function, *arguments, **options):
    return costs.count_operations(jax.make_jaxpr(function)(*arguments), **options)


def test_matrix_products_count_two_for_a_multiply_add():
    a, b = jnp.zeros((7, 3, 5)), jnp.zeros((7, 5, 2))
    assert count(jnp.matmul, a, b).total == 2 * 7 * 3 * 5 * 2


@pytest.mark.parametrize(
    ("kernel", "stride", "groups"), [(3, 1, 1), (3, 2, 1), (1, 2, 1), (5, 4, 2)]
)
def test_a_convolution_and_each_of_its_gradients_take_the_same_operations(kernel, stride, groups):
    conv = nn.Conv(8, (kernel, kernel), strides=stride, feature_group_count=groups)
    image = jax.ShapeDtypeStruct((2, 16, 8, 6), jnp.float32)
    variables = jax.eval_shape(conv.init, jax.random.key(0), image)

    def loss(variables, image):
        return jnp.sum(conv.apply(variables, image) ** 2)

    forward = count(loss, variables, image).total
    assert forward == 2 * (2 * (16 // stride) * (8 // stride) * 8) * (kernel**2 * 6 / groups)
    assert count(jax.grad(loss, (0, 1)), variables, image).total == 3 * forward


def test_a_function_of_shards_counts_all_of_them():
    mesh = jax.sharding.Mesh(jax.devices()[:4], ("data",))
    rows, matrix = jnp.zeros((8, 5)), jnp.zeros((5, 3))
    spec = (jax.P("data"), jax.P())
    sharded = jax.shard_map(jnp.matmul, mesh=mesh, in_specs=spec, out_specs=spec[0])
    assert count(sharded, rows, matrix) == count(jnp.matmul, rows, matrix) == (2 * 8 * 5 * 3, 0)


def test_loops_count_in_full_and_branches_by_the_dearest():
    x = jnp.zeros((4, 4))

    def loop(x):
        return jax.lax.scan(lambda x, _: (x @ x, None), x, None, length=5)[0]

    def branch(x):
        return jax.lax.cond(x[0, 0] > 0, lambda x: x @ x, lambda x: x @ x @ x, x)

    assert count(loop, x).total == 5 * 2 * 4**3
    assert count(branch, x).total == 2 * 2 * 4**3
    assert count(jax.vmap(jax.jit(loop)), jnp.zeros((3, 4, 4))).total == 3 * 5 * 2 * 4**3


def test_a_scope_is_counted_with_its_loops_and_gradients():
    x = jnp.zeros((4, 4))

    def function(x):
        with jax.named_scope("inner"):
            y = jax.lax.scan(lambda x, _: (x @ x, None), x, None, length=3)[0]
        return jnp.sum(y @ x)

    product = 2 * 4**3
    assert count(function, x, scope="inner") == (4 * product, 3 * product)
    # The gradient of a product is two more.
    assert count(jax.value_and_grad(function), x, scope="inner") == (12 * product, 9 * product)
    assert count(function, x, scope="other").inside == 0


def test_resnet50_takes_its_published_operations():
    module = ResNet(
        stage_sizes=(3, 4, 6, 3),
        stage_widths=(64, 128, 256, 512),
        stem="imagenet",
        stem_width=64,
        norm_groups=32,
        head_dim=1024,
        head_layers=1,
    )
    image = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    # Drawing parameters takes no products.
    apply = functools.partial(module.init_with_output, train=False)
    # 4.09e9 multiply-adds with strides in the 3x3 convolutions (He et al. have 3.8e9, with strides
    # in the 1x1), of which the classifier of a thousand classes is 2e6.
    assert count(apply, jax.random.key(0), image).total == pytest.approx(2 * 4.09e9, rel=0.005)


def test_zoning_takes_fourteen_n_m_q_a_step_and_direction():
    n, q, steps = 128, 32, 4
    anchors = jnp.zeros((n, q))

    def loss(first, second, noise):
        solver = zoning.Euler(steps)
        latents = zoning.compute_latents(first, noise, solver=solver)
        return zoning.alignment_loss(latents, second, jnp.arange(n), solver=solver)[0]

    cost = count(jax.value_and_grad(loss, (0, 1)), anchors, anchors, anchors)
    assert cost.total == pytest.approx(14 * n * n * q * 2 * steps, rel=0.02)
    assert cost.inside == cost.total


@pytest.mark.parametrize(
    ("kind", "speeds"),
    [
        ("TPU v5 lite", (197e12, 819e9, 1.5e9)),
        ("TPU v5p", (459e12, 2765e9, 1.75e9)),
        ("NVIDIA H100 80GB HBM3", (989e12, 3352e9, None)),
        ("cpu", None),
    ],
)
def test_the_speeds_of_a_device_are_those_of_its_kind(kind, speeds):
    assert costs.chip(kind) == speeds
