"""Checks and conversions of the public functions' arguments."""

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from lzn_jax.zoning.flow import Mixture
from lzn_jax.zoning.solvers import Solver

R = TypeVar("R")
_SETTINGS = {"solver", "cutoff", "form", "sharpness", "weights"}


def public(function: Callable[..., R]) -> Callable[..., R]:
    """Jits a function of arrays and of static settings.

    The result raises ValueError if `solver` is not a solver, or if an index is out of range and its
    value is known, as outside of `jit`.
    """
    signature = inspect.signature(function)
    settings = sorted(_SETTINGS & signature.parameters.keys())
    jitted = jax.jit(jax.named_scope("zoning")(function), static_argnames=settings)

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> R:
        given = signature.bind(*args, **kwargs).arguments
        if "solver" in settings and not isinstance(given["solver"], Solver):
            expected = "a setting such as Euler(20), DPMSolver(20) or AdamsBashforth(10)"
            raise ValueError(f"solver must be {expected}, got {given['solver']!r}")
        for name in given.keys() & {"own", "targets"}:
            _check_range(name, given[name], given["anchors"])
        return jitted(*args, **kwargs)

    return call


def _check_range(name: str, indices: Any, anchors: Any) -> None:
    if indices is None or isinstance(indices, jax.core.Tracer) or np.ndim(anchors) != 2:
        return
    if not getattr(indices, "is_fully_addressable", True):  # divided over processes
        return
    values, count = np.asarray(indices), len(anchors)
    is_outside = (values < -count) | (values >= count)
    if np.any(is_outside):
        got = values[is_outside][0]
        raise ValueError(f"{name} must index the {count} anchors, from 0 to {count - 1}, got {got}")


def mixture_and_points(log_weights: jax.Array | None, **arrays: jax.Array) -> list[Any]:
    """The mixture of the first array, anchors (n, q), and the other arrays, points (m, q).

    All are float64 if one input is, else float32. Without log weights (n,) the mixture is uniform.
    Raises ValueError if shapes do not fit.
    """
    (name, anchors), *points = arrays.items()
    if anchors.ndim != 2 or len(anchors) == 0:
        raise ValueError(f"{name} must be (n, q) with at least one anchor, got {anchors.shape}")
    for point, array in points:
        if array.ndim != 2 or array.shape[1] != anchors.shape[1]:
            expected = f"(m, {anchors.shape[1]}), as wide as {name}"
            raise ValueError(f"{point} must be {expected}, got {array.shape}")
    if len({len(array) for _, array in points}) > 1:
        raise ValueError(f"{' and '.join(point for point, _ in points)} differ in length")
    if log_weights is None:
        log_weights = jnp.zeros(len(anchors), jnp.float32)
    if log_weights.shape != anchors.shape[:1]:
        raise ValueError(f"log_weights must be ({len(anchors)},), got {log_weights.shape}")
    dtype = jnp.result_type(jnp.float32, log_weights, *arrays.values())
    anchors, log_weights, *placed = (
        jnp.asarray(array, dtype) for array in (anchors, log_weights, *dict(points).values())
    )
    return [Mixture(anchors, log_weights), *placed]


def checked_indices(
    name: str, indices: jax.Array, mixture: Mixture, points: jax.Array
) -> jax.Array:
    """Indices of anchors, made non-negative so that they can be compared with positions.

    Raises ValueError unless there is one integer per point.
    """
    if indices.shape != points.shape[:1] or not jnp.issubdtype(indices.dtype, jnp.integer):
        got = f"{indices.dtype}{list(indices.shape)}"
        raise ValueError(f"{name} must be ({len(points)},) integers, got {got}")
    indices = indices.astype(jnp.int32)  # the number of anchors may overflow shorter integers
    return jnp.where(indices < 0, indices + len(mixture.anchors_NxQ), indices)
