"""The text networks: kept keys and values, the dtype inside, memory, sizes, names of parameters."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small

from lzn_jax import models
from lzn_jax.models import transformer

SIZES = {"features": 16, "num_layers": 2, "num_heads": 4}
TOKENS = np.array([[1, 2, 3, 1, 2, 0, 0], [4, 4, 1, 3, 2, 1, 1]], np.int32)
LATENTS = jnp.asarray(np.random.default_rng(0).normal(size=(2, 5)), jnp.float32)


def decoder(**fields):
    module = transformer.Decoder(5, 7, **SIZES, **fields)
    init = functools.partial(module.init, train=False)
    shapes = jax.eval_shape(init, jax.random.key(0), TOKENS, LATENTS)
    return module, jax.device_put(small.drawn(shapes))


def shapes_of(changes, network):
    config = small.config("configs/digits_text.py", **changes)
    module = models.build(config)[network]
    tokens, latents = jnp.zeros((1, config.text.max_length), int), jnp.zeros((1, 4))
    arguments = (tokens,) if network == "text_encoder" else (tokens, latents)
    return (
        module,
        arguments,
        jax.eval_shape(lambda: module.init(jax.random.key(0), *arguments, train=False)),
    )


@pytest.mark.parametrize("remat", [False, *small.slow(True)])
def test_one_place_after_another_has_the_logits_of_all_at_once(remat):
    module, variables = decoder(remat=remat)
    all_at_once = jax.jit(functools.partial(module.apply, train=False))
    whole = all_at_once(variables, TOKENS, LATENTS)

    @jax.jit
    def next_logits(cache, before, positions):
        own = {**variables, **cache}
        kwargs = {"cached": True, "method": "next_logits", "mutable": ["cache"]}
        return module.apply(own, before, positions, LATENTS, **kwargs)

    _, cache = next_logits({}, np.zeros_like(TOKENS), np.arange(7))
    before = np.zeros(2, TOKENS.dtype)
    for place in range(7):
        logits, cache = next_logits(cache, before[:, None], np.array([place]))
        np.testing.assert_allclose(logits[:, 0], whole[:, place], atol=1e-5)
        before = TOKENS[:, place]
    alike = all_at_once(variables, np.zeros_like(TOKENS), LATENTS)
    assert np.abs(np.diff(alike, axis=1)).max(axis=2).min() > 1e-3  # a place tells itself


@pytest.mark.parametrize("network", ["text_encoder", "text_decoder"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_products_inside_are_of_the_compute_dtype_and_results_float32(network, dtype):
    module, arguments, shapes = shapes_of({"training__compute_dtype": dtype}, network)
    program = jax.make_jaxpr(lambda v: module.apply(v, *arguments, train=False))(shapes)
    products = [line for line in str(program).splitlines() if "dot_general" in line]
    inside = [line for line in products if ("bf16[" in line) == (dtype == "bfloat16")]
    assert len(inside) == len(products) - (dtype == "bfloat16")  # the last one is of float32
    assert len(products) > 6
    assert program.out_avals[0].dtype == jnp.float32


def test_sizes_go_up_to_base():
    base = {"features": 768, "num_layers": 12, "num_heads": 12}
    for network in ("text_encoder", "text_decoder"):
        changes = {f"{network}__{name}": size for name, size in base.items()}
        _, _, shapes = shapes_of(changes, network)
        block = shapes["params"]["Block_11"]
        assert sum(a.size for a in jax.tree.leaves(block)) == 7_087_872  # that of BERT-base
        assert block["MultiHeadDotProductAttention_0"]["query"]["kernel"].shape == (768, 12, 64)


@pytest.mark.parametrize("network", ["text_encoder", "text_decoder"])
def test_blocks_that_compute_twice_have_the_same_parameters_and_draws(network):
    found = []
    for remat in (False, True):
        changes = {"training__remat": remat, f"{network}__dropout": 0.5}
        module, arguments, shapes = shapes_of(changes, network)

        def train(variables, module=module, arguments=arguments):
            rngs = {"dropout": jax.random.key(1)}
            return module.apply(variables, *arguments, train=True, rngs=rngs)

        assert ("remat" in str(jax.make_jaxpr(train)(shapes))) == remat
        found.append((shapes, jax.jit(train)(small.drawn(shapes))))
    (shapes, plain), (other_shapes, again) = found
    assert shapes == other_shapes
    np.testing.assert_allclose(plain, again, rtol=1e-5)


def test_kept_keys_are_not_among_the_parameters():
    _, _, shapes = shapes_of({}, "text_decoder")
    assert set(shapes) == {"params"}
    names = {"Block_0", "Dense_0", "Dense_1", "Embed_0", "LayerNorm_0", "places"}
    assert set(shapes["params"]) == names
