"""Floating-point operations of a traced function, including loops, and speeds of chips."""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
from jax.extend import core


class Cost(NamedTuple):
    """Operations of matrix products and convolutions. A multiply-add counts as two."""

    total: float
    inside: float  # of the requested scope


class Chip(NamedTuple):
    """Rates of a chip per second, from data sheets."""

    operations: float  # dense, in bfloat16
    bandwidth: float  # bytes read from or written to its memory
    cycles: float | None = None  # frequency of the clock in which its compiler estimates time


# By the beginning of the device kind.
_CHIPS = {
    "TPU v4": Chip(275e12, 1228e9, 1.05e9),
    "TPU v5 lite": Chip(197e12, 819e9, 1.5e9),
    "TPU v5": Chip(459e12, 2765e9, 1.75e9),
    "TPU v6 lite": Chip(918e12, 1640e9, 1.75e9),
    "NVIDIA A100": Chip(312e12, 2039e9),
    "NVIDIA H100": Chip(989e12, 3352e9),
    "NVIDIA H200": Chip(989e12, 4800e9),
}


def chip(device_kind: str) -> Chip | None:
    """Rates of a device, or None if they are not known here."""
    known = [kind for kind in _CHIPS if device_kind.startswith(kind)]
    return _CHIPS[max(known, key=len)] if known else None


def count_operations(jaxpr: core.ClosedJaxpr, scope: str = "zoning") -> Cost:
    """Cost of one call of a traced function. `scope` is the name of a `jax.named_scope`.

    Counts every step of a scan, the most expensive branch of a conditional and one iteration of a
    while loop. Elementwise operations, a small part of networks and zoning, are not counted.
    """
    return _cost(jaxpr.jaxpr, scope, is_inside=False)


def _cost(jaxpr: core.Jaxpr, scope: str, is_inside: bool) -> Cost:
    total = inside = 0.0
    for equation in jaxpr.eqns:
        here = is_inside or scope in str(equation.source_info.name_stack)
        own = _operations(equation)
        parts = [_cost(inner, scope, here) for inner in _inner(equation)]
        repeats = 1
        if equation.primitive.name == "cond":
            parts = [max(parts)]
        elif equation.primitive.name == "scan":
            repeats = equation.params["length"]
        elif equation.primitive.name == "shard_map":
            repeats = equation.params["mesh"].size
        total += own + repeats * sum(part.total for part in parts)
        inside += here * own + repeats * sum(part.inside for part in parts)
    return Cost(total, inside)


def _operations(equation: core.JaxprEqn) -> float:
    name = equation.primitive.name
    if name == "dot_general":
        (contracted, _), _ = equation.params["dimension_numbers"]
        terms = math.prod(_shape(equation.invars[0])[axis] for axis in contracted)
    elif name == "conv_general_dilated":
        kernel = _shape(equation.invars[1])
        outputs = kernel[equation.params["dimension_numbers"].rhs_spec[0]]
        # The gradient of a strided convolution reads zeros between the pixels of its input.
        terms = math.prod(kernel) / outputs / math.prod(equation.params["lhs_dilation"])
    else:
        return 0.0
    return 2.0 * terms * math.prod(_shape(equation.outvars[0]))


def _shape(operand: core.Var | core.Literal) -> tuple[int, ...]:
    aval: Any = operand.aval
    return aval.shape


def _inner(equation: core.JaxprEqn) -> Iterator[core.Jaxpr]:
    kinds = (core.ClosedJaxpr, core.Jaxpr)
    values = tuple(equation.params.values())
    for value in jax.tree.leaves(values, is_leaf=lambda leaf: isinstance(leaf, kinds)):
        if isinstance(value, kinds):
            yield value.jaxpr if isinstance(value, core.ClosedJaxpr) else value
