"""Random numbers by key, name and example; no two draws of an update share bits."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal
from test_configs import NAMES, ROOT

from lzn_jax import plan
from lzn_jax.latent_space import LatentSpace
from lzn_jax.models import named, normal_by_index
from lzn_jax.modes.compile import batch_shapes
from lzn_jax.run import devices


def _draw(index, seed=0, name="image_noise", shape=(2, 3)):
    return np.asarray(normal_by_index(jax.random.key(seed), name, jnp.array(index), shape))


def test_a_row_is_the_same_alone_in_a_batch_and_in_any_order():
    batch = _draw(list(range(7)))
    np.testing.assert_array_equal(_draw([4]), batch[4:5])
    np.testing.assert_array_equal(_draw([6, 1, 4, 1]), batch[[6, 1, 4, 1]])


def test_rows_names_and_seeds_differ():
    draws = [*_draw([0, 1, 2])]
    draws += [_draw([0], name=name)[0] for name in ("init", "training", "image_latents", "")]
    draws += [_draw([0], seed=seed)[0] for seed in (1, 2, 2**31)]
    for a, b in itertools.combinations(draws, 2):
        assert not np.any(a == b)


def test_rows_are_standard_normal_and_uncorrelated():
    rows = _draw(list(range(4000)), shape=(5,)).astype(np.float64)
    error = 1 / np.sqrt(len(rows))
    np.testing.assert_allclose(rows.mean(axis=0), 0, atol=4 * error)
    np.testing.assert_allclose(np.cov(rows.T), np.eye(5), atol=5 * np.sqrt(2) * error)
    assert abs((rows[1:] * rows[:-1]).mean()) < 4 * error  # neighbours


def test_the_key_of_a_name_stays():
    """A saved run goes on with the noise that it began with, in any process."""
    key = jax.random.key(3)
    expected = jax.random.fold_in(key, 3941339776)  # the CRC-32 of the name
    assert named(key, "image_noise") == expected


CALLS = ("jit", "checkpoint", "custom_jvp_call", "custom_vjp_call", "shard_map")
UNKNOWN = object()  # depends on weights, data or the bits of a draw


def _computed(value):
    return value() if callable(value) else value


class Draws:
    """Keys of the draws of a traced function, and keys that others derive from.

    Other values are functions, which compute them if a key needs them.
    """

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
        draws = ("random_bits", "random_unwrap")  # the latter in models/dropout.py
        if name in (*draws, "random_split", "random_fold_in"):
            keys = np.asarray(jax.random.key_data(_computed(inputs[0]))).reshape(-1, 2).tolist()
            (self.drawn if name in draws else self.parents).extend(map(tuple, keys))
        if name in draws:
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

        @functools.cache
        def outputs():
            found = equation.primitive.bind(*map(_computed, inputs), **equation.params)
            return found if equation.primitive.multiple_results else [found]

        return [lambda i=i: outputs()[i] for i in range(len(equation.outvars))]

    def _scan(self, equation, inputs):
        closed = _closed(equation.params["jaxpr"])
        # What is stacked over the steps has one dimension less within a step.
        ends = zip(closed.jaxpr.outvars, equation.outvars, strict=True)
        starts = zip(closed.jaxpr.invars, equation.invars, strict=True)
        num_carry = sum(inner.aval.shape == outer.aval.shape for inner, outer in ends)
        num_xs = sum(inner.aval.shape != outer.aval.shape for inner, outer in starts)
        last = len(inputs) - num_xs
        first = last - num_carry
        fixed, carry, xs = inputs[:first], inputs[first:last], inputs[last:]
        for step in range(equation.params["length"]):
            rows = [
                each if each is UNKNOWN else (lambda each=each, step=step: _computed(each)[step])
                for each in xs
            ]
            outputs = self.run(closed.jaxpr, closed.consts, [*fixed, *carry, *rows])
            carry = outputs[: len(carry)]
        return [*carry, *[UNKNOWN] * (len(equation.outvars) - len(carry))]


def _closed(value):
    """A parameter of an equation as a closed jaxpr, or None if it is none."""
    if not isinstance(value, Jaxpr | ClosedJaxpr):
        return None
    return value if hasattr(value, "consts") else ClosedJaxpr(value, ())


# One of each study, and one with dropout.
FIRST = ("digits_joint", "digits_repr", "digits_alone", "digits_text", "cifar10_joint")


@pytest.mark.parametrize("name", [*FIRST, *small.slow(*(n for n in NAMES if n not in FIRST))])
def test_no_two_draws_of_an_update_share_bits(name):
    check_draws(small.config(f"{ROOT}/configs/{name}.py", training__batch_size=16))


def test_no_two_draws_of_mean_flow_share_bits():
    path = f"{ROOT}/configs/digits_joint.py"
    check_draws(small.config(path, training__batch_size=16, decoder__name="mean_mlp"))


def check_draws(config):
    """The keys of all draws of an update differ."""
    space = LatentSpace(config, devices.make_mesh(16, jax.devices()[:1]))
    arguments = jax.eval_shape(space.init, jax.random.key(0)), batch_shapes(space)
    traced = jax.make_jaxpr(functools.partial(plan.loss, space.plan))(*arguments, jax.random.key(1))
    draws, count = Draws(), len(jax.tree.leaves(arguments))
    draws.run(traced.jaxpr, traced.consts, [*[UNKNOWN] * count, jax.random.key(1)])
    assert len(draws.drawn) > 1
    assert len(set(draws.drawn)) == len(draws.drawn)
    assert not set(draws.drawn) & set(draws.parents)
