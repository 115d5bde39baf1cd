"""NCSN++ against numbers of the PyTorch original and hand calculations."""

import collections
import functools
import math
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small
from flax import linen as nn
from flax.traverse_util import unflatten_dict
from torch_layout import (
    GOLDEN,
    hyperparameters,
    seeded_weights,
    shapes_in_execution_order,
    to_variables,
)

from lzn_jax.data_types.label import LabelAnchors
from lzn_jax.models import build
from lzn_jax.models import ncsnpp as layers
from lzn_jax.models.dropout import Dropout
from lzn_jax.models.mlp import MLPGenerator
from lzn_jax.models.ncsnpp import NCSNppDecoder, NCSNppEncoder
from lzn_jax.models.norm import GroupNorm

SMALL = {
    "features": 8,
    "channel_multipliers": (1, 2),
    "num_res_blocks": 1,
    "attention_resolutions": (4,),
    "dropout": 0.0,
    "fir": False,
    "progressive_input": "none",
}
SMALL_DECODER = {**SMALL, "progressive": "none", "time_embedding": "positional"}
ONE_LEVEL = {"channel_multipliers": (1,), "attention_resolutions": ()}

ENCODERS = ["cifar_encoder", "afhq_encoder", "cap_encoder"]
DECODERS = ["cifar_decoder", "cifar_decoder_cond10", "afhq_decoder", "cap_decoder"]


def nhwc(array):
    return array.transpose(0, 2, 3, 1)


@functools.cache
def golden(name):
    with np.load(GOLDEN / f"{name}.npz") as file:
        return dict(file)


def shared_fields(model):
    return {
        "features": model["nf"],
        "channel_multipliers": tuple(model["ch_mult"]),
        "num_res_blocks": model["num_res_blocks"],
        "attention_resolutions": tuple(model["attn_resolutions"]),
        "dropout": model["dropout"],
        "fir": model["fir"],
        "progressive_input": model["progressive_input"],
    }


def tiny_encoder(name, dtype):
    params = hyperparameters(name)
    taps = params["latent_transformation_resolutions"]
    return NCSNppEncoder(
        **shared_fields(params["config"]["model"]),
        latent_dim=params["latent_dim"],
        tap_channels=params["num_base_channels"],
        tap_units=params["num_base_units"],
        tap_layers=params["num_latent_transformation_layers"],
        tap_resolutions=taps and tuple(taps),
        dtype=dtype,
    )


def tiny_decoder(name, dtype):
    model = hyperparameters(name)["config"]["model"]
    return NCSNppDecoder(
        **shared_fields(model),
        progressive=model["progressive"],
        time_embedding=model["embedding_type"],
        fourier_scale=float(model["fourier_scale"]),
        scale_by_sigma=model["scale_by_sigma"],
        dtype=dtype,
    )


@functools.cache
def weights_and_inputs(name):
    """The original's weights as variables of a tiny network, and its inputs."""
    numbers = golden(name)
    if "encoder" in name:
        module, inputs = tiny_encoder(name, jnp.float32), [nhwc(numbers["x"])]
    else:
        module = tiny_decoder(name, jnp.float32)
        inputs = [nhwc(numbers["xt"]), numbers["t"], numbers["latent"], numbers.get("label_onehot")]
    return to_variables(module, seeded_weights(name), *inputs), *inputs


def run_tiny(name, dtype):
    """Output of a tiny network with the original's weights, inputs and weights at `dtype`."""
    module = (tiny_encoder if "encoder" in name else tiny_decoder)(name, dtype)
    inputs_at = jnp.promote_types(dtype, jnp.float32)
    arguments = jax.tree.map(lambda x: np.asarray(x, inputs_at), weights_and_inputs(name))
    return evaluation(module, train=False)(*arguments)


def evaluation(module, **options):
    return jax.jit(functools.partial(module.apply, **options))


def expected(name):
    out = golden(name)["out_f64"]
    return out if "encoder" in name else nhwc(out)


def without_noise_level(name, output):
    """Undoes scale_by_sigma, which leaves outputs a thousand times smaller at t = 1."""
    if "afhq_decoder" not in name:
        return output
    return output * 999 * np.clip(golden(name)["t"], 0, 1)[:, None, None, None]


# Relative to the largest output; in float32 ten times the error of the original's worst network.
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [("float64", 1e-9), *small.slow(("float32", 1e-4))]
)
@pytest.mark.parametrize("name", ENCODERS + DECODERS)
def test_network_is_the_original(name, dtype, tolerance):
    name = f"ncsnpp_tiny_{name}"
    with jax.enable_x64(dtype == "float64"):
        out = run_tiny(name, jnp.dtype(dtype))
        assert out.dtype == dtype
        out, wanted = (without_noise_level(name, x) for x in (np.asarray(out), expected(name)))
    np.testing.assert_allclose(out, wanted, rtol=0, atol=tolerance * np.abs(wanted).max())


@pytest.mark.parametrize("name", ["afhq_encoder", "cifar_decoder"])
def test_bfloat16_network_returns_float32_near_the_original(name):
    name = f"ncsnpp_tiny_{name}"
    out, wanted = run_tiny(name, jnp.bfloat16), expected(name)
    assert out.dtype == jnp.float32
    # bfloat16 keeps 8 bits: rounding is there (the compute dtype is used) and stays small.
    assert 1e-4 < np.linalg.norm(out - wanted) / np.linalg.norm(wanted) < 0.05


def test_compute_dtype_reaches_every_layer_and_spares_statistics_and_softmax():
    dtypes = collections.defaultdict(set)

    def record(call, args, kwargs, context):
        out = call(*args, **kwargs)
        if context.method_name == "__call__":
            dtypes[type(context.module)].add(out.dtype.name)
        return out

    module = NCSNppDecoder(**SMALL_DECODER, dtype=jnp.bfloat16)
    inputs = (jnp.ones((1, 8, 8, 1)), jnp.ones(1), jnp.ones((1, 3)), None)
    with nn.intercept_methods(record):
        init = jax.make_jaxpr(functools.partial(module.init, train=False))
        jaxpr = init(jax.random.key(0), *inputs)
    assert dtypes[nn.Conv] == dtypes[nn.Dense] == dtypes[GroupNorm] == {"bfloat16"}
    assert dtypes[layers.OutputHead] == {"float32"}
    for operation in ("rsqrt", "exp"):  # of statistics, of softmax
        found = re.findall(rf":(\w+)\[[\d,]*\] = {operation} ", str(jaxpr))
        assert set(found) == {"f32"}


@pytest.mark.parametrize(
    ("channels", "groups"), [(4, 1), (12, 3), (128, 32), (512, 32), (144, 24), (148, 4)]
)
def test_groups_of_a_normalisation_divide_its_channels(channels, groups):
    assert layers.group_norm(channels, jnp.float32, "norm").num_groups == groups


def random_variables(module, *inputs):
    """Variables of N(0, 0.1^2), away from the initial values that silence half of the layers."""
    rng = np.random.default_rng(0)
    shapes = shapes_in_execution_order(module, *inputs)
    leaves = {path: 0.1 * rng.standard_normal(shape) for path, shape in shapes.items()}
    return jax.tree.map(lambda a: a.astype(module.dtype), unflatten_dict(leaves))


def patches_of(images, size):
    """Each patch's pixels row by row, one after the other."""
    b, h, w, c = images.shape
    out = np.empty((b, h // size, w // size, size * size * c), images.dtype)
    for y, x in np.ndindex(h // size, w // size):
        block = images[:, y * size : (y + 1) * size, x * size : (x + 1) * size]
        out[:, y, x] = block.reshape(b, -1)
    return out


def test_networks_on_patches_are_those_on_pixels_of_more_channels():
    images = np.random.default_rng(1).standard_normal((2, 8, 12, 2))
    encoder = NCSNppEncoder(**SMALL | ONE_LEVEL, latent_dim=5, dtype=jnp.float64)
    decoder = NCSNppDecoder(**SMALL_DECODER | ONE_LEVEL, dtype=jnp.float64)
    for network, rest in ((encoder, ()), (decoder, (np.full(2, 0.3), np.ones((2, 5)), None))):
        with jax.enable_x64(True):
            arguments = patches_of(images, 2), *rest
            variables = random_variables(network, *arguments)
            wanted = evaluation(network, train=False)(variables, *arguments)
            of_pixels = evaluation(network.clone(patch_size=2), train=False)
            found = np.asarray(of_pixels(variables, images, *rest))
        if network is decoder:
            assert found.shape == images.shape
            found = patches_of(found, 2)
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("scale_by_sigma", [False, True])
def test_fourier_time_is_clipped_to_where_its_logarithm_is_finite(scale_by_sigma):
    fields = {"time_embedding": "fourier", "scale_by_sigma": scale_by_sigma}
    module = NCSNppDecoder(**SMALL_DECODER | ONE_LEVEL | fields)
    times = np.float32([[0.0, 1.0], [1e-5, 3.0]])
    x, latents = np.ones((2, 8, 8, 1), np.float32), np.ones((2, 3), np.float32)
    variables = random_variables(module, x, times[0], latents, None)
    velocity = evaluation(module, train=False)
    out, clipped = (np.asarray(velocity(variables, x, t, latents, None)) for t in times)
    assert np.isfinite(out).all()
    np.testing.assert_allclose(out, clipped, rtol=1e-6)
    # The embedding and, if asked for, the division by sigma tell the two times apart.
    assert np.abs(out[0] - out[1]).max() > 1e-3


def test_fourier_frequencies_are_constants_of_the_given_scale():
    module = layers.TimeEmbedding(512, "fourier", 3.0, jnp.float32)
    variables = initial(module, ONE, None, None)
    frequencies = variables["constants"]["frequencies"]
    assert frequencies.shape == (512,)
    assert 2.7 < np.std(frequencies) < 3.3
    assert set(variables["params"]) == {"dense_0", "dense_1"}


def test_dropout_zeroes_activations_before_the_second_convolution_and_scales_the_rest():
    rate, channels = 0.25, 16
    block = layers.ResidualBlock(channels, rate, False, jnp.float32)
    x = jnp.linspace(-1, 1, 4 * 8 * 8 * channels).reshape(4, 8, 8, channels)
    params = random_variables(block, x, None)["params"]
    # A second convolution that only rotates channels can be undone, to see what entered it.
    rotation = np.linalg.qr(np.random.default_rng(1).standard_normal((channels, channels))).Q
    kernel = np.zeros((3, 3, channels, channels), np.float32)
    kernel[1, 1] = rotation
    params["conv_1"] = {"kernel": kernel, "bias": np.zeros(channels, np.float32)}

    @functools.partial(jax.jit, static_argnames="train")
    def activations(params, train):
        rngs = {"dropout": jax.random.key(0)} if train else {}
        out = block.apply({"params": params}, x, None, train=train, rngs=rngs)
        return (out * math.sqrt(2) - x) @ rotation.T

    kept, dropped = (np.asarray(activations(params, train)) for train in (False, True))
    zeroed = np.abs(dropped) < 1e-5
    np.testing.assert_allclose(zeroed.mean(), rate, atol=0.03)
    scaled = np.where(zeroed, 0, kept / (1 - rate))
    np.testing.assert_allclose(dropped, scaled, rtol=0, atol=2e-5)


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize(
    ("network", "blocks"),
    [(NCSNppEncoder(**SMALL, latent_dim=5), 5), (NCSNppDecoder(**SMALL_DECODER), 10)],
    ids=["encoder", "decoder"],
)
def test_every_block_knows_whether_it_trains(network, blocks, train):
    found = []

    def record(call, args, kwargs, context):
        if isinstance(context.module, Dropout):
            found.append(args[1])
        return call(*args, **kwargs)

    x = jnp.ones((1, 8, 8, 1))
    inputs = (x,) if isinstance(network, NCSNppEncoder) else (x, jnp.ones(1), None, None)
    with nn.intercept_methods(record):
        jax.eval_shape(lambda: network.init(jax.random.key(0), *inputs, train=train))
    assert found == [train] * blocks


def initial(module, *inputs):
    # This generator compiles faster than the default one.
    key = jax.random.key(0, impl="rbg")
    return jax.device_get(jax.jit(lambda key: module.init(key, *inputs))(key))


def filled_share(kernel, scale):
    """Largest initial weight over the bound of a uniform fan-average initialiser."""
    fan = math.prod(kernel.shape[:-2]) * (kernel.shape[-2] + kernel.shape[-1]) / 2
    return np.abs(kernel).max() / math.sqrt(3 * scale / fan)


IMAGE, ONE = jnp.zeros((1, 4, 4, 32)), jnp.ones(1)


@pytest.mark.parametrize(
    ("module", "inputs", "scales"),
    [
        (
            layers.ResidualBlock(16, 0.0, False, jnp.float32),
            (IMAGE, jnp.zeros((1, 24)), False),
            {"conv_0": 1.0, "embedding_dense": 1.0, "conv_1": 1e-10, "shortcut": 1.0},
        ),
        (
            layers.SelfAttention(jnp.float32),
            (IMAGE,),
            {"query": 0.1, "key": 0.1, "value": 0.1, "out": 1e-10},
        ),
        (layers.OutputHead(3, jnp.float32), (IMAGE,), {"conv": 1e-10}),
        (
            layers.TimeEmbedding(16, "positional", 16.0, jnp.float32),
            (ONE, jnp.zeros((1, 8)), None),
            {"dense_0": 1.0, "dense_1": 1.0},
        ),
    ],
)
def test_initial_kernels_fill_the_bound_of_their_scale_and_biases_are_zero(module, inputs, scales):
    params = initial(module, *inputs)["params"]
    for name, scale in scales.items():
        assert 0.95 < filled_share(params[name]["kernel"], scale) <= 1 + 1e-6, name
        assert not params[name]["bias"].any(), name


def test_initial_tap_follows_each_layers_convention():
    tap = layers.LatentTap(40, 20, 200, 3, jnp.float32)
    params = initial(tap, IMAGE)["params"]
    assert 0.95 < filled_share(params["project"]["kernel"], 1.0) <= 1 + 1e-6
    assert not params["project"]["bias"].any()
    shapes = [params[f"dense_{i}"]["kernel"].shape for i in range(3)]
    assert shapes == [(20 * 16, 200), (200, 200), (200, 40)]
    for layer in (params[f"dense_{i}"] for i in range(3)):
        bound = 1 / math.sqrt(layer["kernel"].shape[0])
        for leaf in layer.values():
            assert 0.85 * bound < np.abs(leaf).max() <= bound


def test_build_passes_the_configs_fields_on():
    network = SMALL | {"fir": True, "dropout": 0.25}
    changes = {f"{of}__{name}": x for of in ("encoder", "decoder") for name, x in network.items()}
    changes |= {"latent__dim": 5, "encoder__tap_resolutions": (4,), "decoder__dropout": 0.5}
    changes |= {"training__compute_dtype": "bfloat16", "decoder__time_embedding": "fourier"}
    path = Path(__file__).parents[1] / "ncsnpp_joint.py"
    config = small.config(path, **small.own_networks(path) | changes)
    modules, dtype = build(config), jnp.dtype("bfloat16")
    assert modules["encoder"] == NCSNppEncoder(
        **network, latent_dim=5, tap_channels=2, tap_units=8, tap_resolutions=(4,), dtype=dtype
    )
    network |= {"dropout": 0.5, "progressive": "none", "time_embedding": "fourier"}
    assert modules["decoder"] == NCSNppDecoder(**network, dtype=dtype)
    assert modules["label_anchors"] == LabelAnchors(10, 5)


def test_a_decoder_in_one_pass_knows_the_shape_of_images():
    config = small.config("configs/digits_alone.py", decoder__features=8, decoder__dropout=0.1)
    expected = MLPGenerator(image_shape=(8, 8, 1), features=8, num_blocks=1, dropout=0.1)
    assert build(config)["decoder"] == expected


def test_label_anchors_are_standard_normal_and_trainable():
    module = LabelAnchors(50, 200)
    variables = initial(module)
    anchors = np.asarray(jax.jit(module.apply)(variables))
    assert anchors.shape == (50, 200)
    assert abs(float(anchors.mean())) < 0.05
    assert 0.95 < float(anchors.std()) < 1.05
    np.testing.assert_array_equal(anchors, variables["params"]["anchors"])
