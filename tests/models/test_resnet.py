"""ResNet against numbers of the PyTorch original and hand calculations."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small
from flax import linen as nn
from flax.traverse_util import flatten_dict
from torch_layout import GOLDEN, hyperparameters, seeded_weights, to_variables

from lzn_jax.models.resnet import ResNet, conv

RESNET50 = {
    "stage_sizes": (3, 4, 6, 3),
    "stage_widths": (64, 128, 256, 512),
    "stem": "imagenet",
    "stem_width": 64,
    "norm_groups": 32,
    "head_dim": 256,
    "head_layers": 2,
}


def fast_key():
    """Of a generator that compiles faster than the default one."""
    return jax.random.key(1, impl="rbg")


def tiny(name, dtype):
    params = hyperparameters(name)
    sizes = {
        "stage_sizes": tuple(params["layers"]),
        "head_dim": params["head_out_dim"],
        "head_layers": params["head_num_layers"],
    }
    return ResNet(**RESNET50 | sizes, dtype=dtype)


@functools.cache
def golden_and_variables(name):
    with np.load(GOLDEN / f"{name}.npz") as file:
        golden = dict(file)
    module, images = tiny(name, np.float32), jnp.zeros((1, 64, 64, 3))
    return golden, to_variables(module, seeded_weights(name), images)


def run_tiny(name, dtype):
    """Head and backbone outputs of a golden network with its weights, all at `dtype`."""
    module, (golden, variables) = tiny(name, dtype), golden_and_variables(name)
    inputs = variables, golden["x"].transpose(0, 2, 3, 1)
    inputs_at = jnp.promote_types(dtype, jnp.float32)

    @jax.jit
    def both(variables, images):  # traced once
        heads = []

        def record(call, args, kwargs, context):
            out = call(*args, **kwargs)
            if context.method_name == "_head":
                heads.append(out)
            return out

        with nn.intercept_methods(record):
            backbone = module.apply(variables, images, train=False, features="backbone")
        return {"head": heads[0], "backbone": backbone}

    outputs = both(*jax.tree.map(lambda x: np.asarray(x, inputs_at), inputs))
    return jax.device_get(outputs), golden


@pytest.mark.parametrize("name", ["resnet_tiny", "resnet_tiny_identity"])
@pytest.mark.parametrize(
    ("dtype", "head", "backbone"), [("float64", 1e-9, 1e-9), *small.slow(("float32", 5e-4, 1e-4))]
)
def test_network_is_the_original(name, dtype, head, backbone):
    with jax.enable_x64(dtype == "float64"):
        outputs, golden = run_tiny(name, jnp.dtype(dtype))
    for features, array, tolerance in (("head", "head", head), ("backbone", "nohead", backbone)):
        assert outputs[features].dtype == dtype
        wanted = golden[f"out_{array}_f64"]
        np.testing.assert_allclose(outputs[features], wanted, rtol=0, atol=tolerance)


def test_bfloat16_network_returns_float32_near_float32_network():
    outputs, golden = run_tiny("resnet_tiny_identity", jnp.bfloat16)
    assert outputs["head"].dtype == outputs["backbone"].dtype == np.float32
    wanted = golden["out_head_f64"]
    error = np.linalg.norm(outputs["head"] - wanted) / np.linalg.norm(wanted)
    assert 1e-4 < error < 0.05


@pytest.mark.parametrize("stride", [1, 2])
def test_pointwise_convolution_is_a_product_of_matrices_except_on_tpus(stride, monkeypatch):
    module = conv(5, 1, stride, jnp.float32, "conv")
    images = np.random.default_rng(0).normal(size=(2, 5, 8, 3)).astype(np.float32)
    variables = small.drawn(jax.eval_shape(module.init, jax.random.key(1), images))
    kernel = np.asarray(variables["params"]["kernel"], np.float64)[0, 0]
    expected = np.asarray(images, np.float64)[:, ::stride, ::stride] @ kernel
    gradient = jax.jit(jax.grad(lambda variables: jnp.sum(module.apply(variables, images) ** 2)))
    for platform, absent in {"cpu": "convolution", "tpu": "dot_general"}.items():
        program = gradient.trace(variables).lower(lowering_platforms=(platform,))
        assert absent not in program.as_text()
    np.testing.assert_allclose(jax.jit(module.apply)(variables, images), expected, atol=1e-6)
    monkeypatch.setattr(jax.lax, "platform_dependent", lambda *inputs, tpu, default: tpu(*inputs))
    on_tpu = jax.jit(lambda variables: module.apply(variables, images))  # compiled anew
    np.testing.assert_allclose(on_tpu(variables), expected, atol=1e-6)


def test_a_fresh_block_is_its_shortcut_and_starts_like_the_original():
    module = ResNet(**RESNET50 | {"stage_sizes": (2, 1), "stage_widths": (64, 128)})
    init = jax.jit(functools.partial(module.init, train=False))
    variables = init(fast_key(), np.zeros((1, 32, 32, 3), np.float32))
    params = flatten_dict(jax.device_get(variables["params"]))
    for path, value in params.items():
        if path[-1] == "kernel":
            bound = 1 / math.sqrt(math.prod(value.shape[:-1]))
            assert 0.95 * bound < np.max(np.abs(value)) <= bound
            assert abs(np.std(value) * math.sqrt(3) / bound - 1) < 0.05
        elif path[-1] == "scale":
            assert (value == (0 if path[-2] == "norm_2" else 1)).all()
        else:
            assert (value == 0).all()


@pytest.mark.parametrize("size", [8, 28])
def test_small_stem_keeps_small_images(size):
    sizes = {"stage_sizes": (1, 2), "stage_widths": (4, 8), "stem_width": 8}
    module = ResNet(**sizes, stem="small", norm_groups=4, head_dim=16)
    images = jax.ShapeDtypeStruct((2, size, size, 1), np.float32)

    def feature_maps(images):
        variables = module.init(jax.random.key(1), images, train=False)
        options = {"capture_intermediates": True, "mutable": "intermediates"}
        return module.apply(variables, images, train=False, **options)[1]["intermediates"]

    maps = jax.eval_shape(feature_maps, images)
    assert maps["stem_norm_0"]["__call__"][0].shape == (2, size, size, 8)
    assert maps["stage_0_block_0"]["__call__"][0].shape == (2, size, size, 16)
    assert maps["stage_1_block_1"]["__call__"][0].shape == (2, size // 2, size // 2, 32)
