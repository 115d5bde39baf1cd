"""No two random draws of an update share bits, in any shipped config."""

import jax
import numpy as np
import pytest
import small
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal
from test_configs import NAMES, ROOT

from lzn_jax.latent_space import LatentSpace
from lzn_jax.modes.compile import batch_shapes
from lzn_jax.run import devices

CALLS = ("jit", "checkpoint", "custom_jvp_call", "custom_vjp_call", "shard_map")
UNKNOWN = object()  # depends on weights, data or the bits of a draw


class Draws:
    """Keys of the draws of a traced function, and keys that others derive from."""

    def __init__(self):
        self.drawn, self.parents = [], []

    def run(self, jaxpr, consts, inputs):
        """Outputs of a jaxpr, as far as they follow from keys alone."""
        values = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*consts, *inputs), strict=True))

        def value(operand):
            return operand.val if isinstance(operand, Literal) else values[operand]

        for equation in jaxpr.eqns:
            outputs = self._equation(equation, [value(each) for each in equation.invars])
            values |= zip(equation.outvars, outputs, strict=True)
        return [value(each) for each in jaxpr.outvars]

    def _equation(self, equation, inputs):
        name, unknown = equation.primitive.name, [UNKNOWN] * len(equation.outvars)
        if name in ("random_bits", "random_split", "random_fold_in"):
            keys = np.asarray(jax.random.key_data(inputs[0])).reshape(-1, 2).tolist()
            (self.drawn if name == "random_bits" else self.parents).extend(map(tuple, keys))
        if name == "random_bits":
            return unknown
        if name == "scan":
            return self._scan(equation, inputs)
        inner = [each for each in map(_closed, jax.tree.leaves(equation.params)) if each]
        if name in CALLS:
            return self.run(inner[0].jaxpr, inner[0].consts, inputs)
        if any(each is UNKNOWN for each in inputs):
            for each in inner:  # draws there would need a key
                self.run(each.jaxpr, each.consts, [UNKNOWN] * len(each.jaxpr.invars))
            return unknown
        outputs = equation.primitive.bind(*inputs, **equation.params)
        return outputs if equation.primitive.multiple_results else [outputs]

    def _scan(self, equation, inputs):
        closed, consts = equation.params["jaxpr"], equation.params["num_consts"]
        split = consts + equation.params["num_carry"]
        fixed, carry, xs = inputs[:consts], inputs[consts:split], inputs[split:]
        for step in range(equation.params["length"]):
            rows = [each if each is UNKNOWN else each[step] for each in xs]
            outputs = self.run(closed.jaxpr, closed.consts, [*fixed, *carry, *rows])
            carry = outputs[: len(carry)]
        return [*carry, *[UNKNOWN] * (len(equation.outvars) - len(carry))]


def _closed(value):
    """A parameter of an equation as a closed jaxpr, or None if it is none."""
    if isinstance(value, Jaxpr):
        return ClosedJaxpr(value, ())
    return value if isinstance(value, ClosedJaxpr) else None


@pytest.mark.parametrize("name", NAMES)
def test_no_two_draws_of_an_update_share_bits(name):
    config = small.config(f"{ROOT}/configs/{name}.py", training__batch_size=16)
    space = LatentSpace(config, devices.make_mesh(16, jax.devices()[:1]))
    arguments = jax.eval_shape(space.init, jax.random.key(0)), batch_shapes(space, config)
    traced = jax.make_jaxpr(space.loss)(*arguments, jax.random.key(1))
    draws, count = Draws(), len(jax.tree.leaves(arguments))
    draws.run(traced.jaxpr, traced.consts, [*[UNKNOWN] * count, jax.random.key(1)])
    assert len(draws.drawn) > 1
    assert len(set(draws.drawn)) == len(draws.drawn)
    assert not set(draws.drawn) & set(draws.parents)
