"""Forms of one layer by the compiler of TPUs: cycles that it expects on a v5e chip.

    python benchmarks/compiled_forms.py [--only=NAME]

Each row compiles two residual blocks of NCSN++ or an attention, forward and backward, with one part
in a different form: the group normalisation, random bits of dropout, activation or attention.
"""

import argparse
from functools import partial
from unittest import mock

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.sharding import SingleDeviceSharding

from lzn_jax.models import ncsnpp, norm
from lzn_jax.models.dropout import Dropout
from lzn_jax.modes import compile as compiling
from lzn_jax.run import compiled_time, costs

OURS = norm.group_norm
PIXELS = jax.ShapeDtypeStruct((25, 32, 32, 128), jnp.float32)
ATTENDED = jax.ShapeDtypeStruct((25, 16, 16, 256), jnp.float32)


def by_flax(x, scale, bias, num_groups, epsilon):
    """Flax's group normalisation."""
    module = nn.GroupNorm(num_groups, epsilon=epsilon)
    with jax.named_scope("norm"):
        return module.apply({"params": {"scale": scale, "bias": bias}}, x)


def over(x, scale, bias, num_groups, epsilon, two_passes):
    """Group normalisation by plain sums, in one pass or in two."""
    b, *_, c = x.shape
    x = x.astype(jnp.float32)
    pixels, size = tuple(range(1, x.ndim - 1)), c // num_groups

    def spread(values):
        return jnp.expand_dims(jnp.repeat(values, size, axis=1), pixels)

    def mean(values):
        return values.mean(pixels).reshape(b, num_groups, size).mean(-1)

    first = mean(x)
    centred = x - spread(first)
    variance = mean(jnp.square(centred)) if two_passes else mean(jnp.square(x)) - first**2
    return centred * spread(jax.lax.rsqrt(variance + epsilon)) * scale + bias


@partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def written_out(x, scale, bias, num_groups, epsilon):
    """The package's form, with a written-out derivative."""
    return OURS(x, scale, bias, num_groups, epsilon)


def _forward(x, scale, bias, num_groups, epsilon):
    unit = over(x, 1.0, 0.0, num_groups, epsilon, two_passes=False)
    return unit * scale + bias, (x, scale)


def _backward(num_groups, epsilon, kept, cotangent):
    x, scale = kept
    b, *_, c = x.shape
    pixels, size = tuple(range(1, x.ndim - 1)), c // num_groups

    def mean(values):
        groups = values.mean(pixels).reshape(b, num_groups, size).mean(-1)
        return jnp.expand_dims(jnp.repeat(groups, size, axis=1), pixels)

    x = x.astype(jnp.float32)
    first, second = mean(x), mean(jnp.square(x))
    factor = jax.lax.rsqrt(second - first**2 + epsilon)
    unit, scaled = (x - first) * factor, cotangent * scale
    gradient = factor * (scaled - mean(scaled) - unit * mean(scaled * unit))
    every = (0, *pixels)
    return gradient.astype(kept[0].dtype), (cotangent * unit).sum(every), cotangent.sum(every)


written_out.defvjp(_forward, _backward)


class Blocks(nn.Module):
    """Two residual blocks of the CIFAR-10 decoder's first level."""

    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x):
        for _ in range(2):
            x = ncsnpp.ResidualBlock(x.shape[-1], 0.1, fir=False, dtype=self.dtype)(x, None, True)
        return x


def plain_attention(dtype):
    """Attention of NCSN++ with queries, keys and values of one product."""

    class Attention(nn.Module):
        @nn.compact
        def __call__(self, x):
            b, h, w, c = x.shape
            y = ncsnpp.group_norm(c, dtype, "norm")(x).reshape(b, h * w, 1, c)
            query, key, value = jnp.split(nn.Dense(3 * c, dtype=dtype)(y), 3, axis=-1)
            y = jax.nn.dot_product_attention(query, key, value).reshape(x.shape)
            return (x + nn.Dense(c, dtype=dtype)(y)) / 2**0.5

    return Attention()


def cycles(module, x, bits="threefry2x32"):
    """Expected cycles of one evaluation and its gradient, and the estimate by kind."""
    target = compiling.find("v5e:1")
    here = SingleDeviceSharding(target.devices[0])
    key = jax.eval_shape(lambda: jax.random.key(0, impl=bits))
    variables = jax.eval_shape(module.init, {"params": key, "dropout": key}, x)

    def loss(variables, x, key):
        y = module.apply(variables, x, rngs={"dropout": key})
        return jnp.sum(jnp.square(y.astype(jnp.float32)))

    arguments = jax.tree.map(
        lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=here), (variables, x, key)
    )
    program = jax.jit(jax.grad(loss, (0, 1))).trace(*arguments)
    text = program.lower(lowering_platforms=("tpu",)).compile().as_text()
    chip = costs.chip(target.devices[0].device_kind)
    return compiled_time.estimate(compiled_time.parse(text), chip).cycles


class FlaxDropout(nn.Module):
    """Dropout of flax, with 32 random bits for each value."""

    rate: float

    @nn.compact
    def __call__(self, x, train):
        return nn.Dropout(self.rate, deterministic=not train)(x)


BEFORE = {"dropout": FlaxDropout}
FORMS = {
    "as it is": {},
    "flax's dropout": BEFORE,
    "flax's dropout, random bits by rbg": {**BEFORE, "bits": "rbg"},
    "flax's normalisation": {**BEFORE, "norm": by_flax},
    "sums in one pass without a shift": {**BEFORE, "norm": partial(over, two_passes=False)},
    "deviations in a second pass": {**BEFORE, "norm": partial(over, two_passes=True)},
    "written-out derivative": {**BEFORE, "norm": written_out},
    "relu for silu": {**BEFORE, "silu": nn.relu},
    "flax's dropout, at low effort": {**BEFORE, "effort": -1.0},
}


def main():
    """Prints a row for each form."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="rows that contain this text")
    only = parser.parse_args().only
    print("| form | float32: million cycles | bfloat16: million cycles |")
    print("|---|---|---|")
    dtypes = jnp.float32, jnp.bfloat16
    for name, form in FORMS.items():
        if only in name:
            with (
                mock.patch.object(norm, "group_norm", form.get("norm", OURS)),
                mock.patch.object(nn, "silu", form.get("silu", nn.silu)),
                mock.patch.object(ncsnpp, "Dropout", form.get("dropout", Dropout)),
            ):
                bits = form.get("bits", "threefry2x32")
                jax.config.update("jax_exec_time_optimization_effort", form.get("effort", 0.0))
                found = [cycles(Blocks(t), PIXELS.update(dtype=t), bits) / 1e6 for t in dtypes]
            print(f"| {name} | {found[0]:.3f} | {found[1]:.3f} |", flush=True)
    jax.config.update("jax_exec_time_optimization_effort", 0.0)
    attentions = {"attention as it is": ncsnpp.SelfAttention, "in one product": plain_attention}
    for name, attention in attentions.items():
        if only in name:
            found = [cycles(attention(dtype=t), ATTENDED.update(dtype=t)) / 1e6 for t in dtypes]
            print(f"| {name} | {found[0]:.3f} | {found[1]:.3f} |", flush=True)


if __name__ == "__main__":
    main()
