"""Latent computation: from anchors to latents and back (paper §2.2.1)."""

import functools
import inspect
from collections.abc import Callable
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from lzn_jax.zoning.devices import Tree, integrate, over_devices, place_rows
from lzn_jax.zoning.flow import Joined, Mixture, Points
from lzn_jax.zoning.solvers import Solver

R = TypeVar("R")
_SETTINGS = {"solver", "cutoff", "form", "sharpness"}


def public(function: Callable[..., R]) -> Callable[..., R]:
    """Jits a function of arrays and of static settings.

    The result raises ValueError if `solver` is not a solver, or if an index is out of range and its
    value is known, as outside of `jit`.
    """
    signature = inspect.signature(function)
    settings = sorted(_SETTINGS & signature.parameters.keys())
    jitted = jax.jit(jax.named_scope("zoning")(function), static_argnames=settings)

    @functools.wraps(function)
    def call(*args: object, **kwargs: object) -> R:
        given = signature.bind(*args, **kwargs).arguments
        if "solver" in settings and not isinstance(given["solver"], Solver):
            expected = "a setting such as Euler(20), DPMSolver(20) or AdamsBashforth(10)"
            raise ValueError(f"solver must be {expected}, got {given['solver']!r}")
        for name in given.keys() & {"own", "targets"}:
            _check_range(name, given[name], given["anchors"])
        return jitted(*args, **kwargs)

    return call


def _check_range(name: str, indices: Tree, anchors: Tree) -> None:
    if indices is None or isinstance(indices, jax.core.Tracer) or np.ndim(anchors) != 2:
        return
    if not getattr(indices, "is_fully_addressable", True):  # divided over processes
        return
    values, count = np.asarray(indices), len(anchors)
    is_outside = (values < -count) | (values >= count)
    if np.any(is_outside):
        got = values[is_outside][0]
        raise ValueError(f"{name} must index the {count} anchors, from 0 to {count - 1}, got {got}")


def mixture_and_points(log_weights: jax.Array | None, **arrays: jax.Array) -> list[Tree]:
    """Mixture of the first array, anchors (n, q), and the other arrays, points (m, q).

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


@public
def compute_latents(
    anchors: Float[Array, "n q"],
    noise: Float[Array, "m q"],
    own: Int[Array, " m"] | None = None,
    *,
    solver: Solver,
    log_weights: Float[Array, " n"] | None = None,
) -> Float[Array, "m q"]:
    """Latents in the zones of given anchors (paper §2.2.1, eq. 2).

    Args:
      anchors: (n, q), all anchors of the mixture.
      noise: (m, q), N(0, I) times the noise scale α: 1 samples the whole zone, 0 gives its centre.
      own: (m,) index of the anchor whose zone contains the latent, from the end if negative. None
        means arange(n), m = n.
      solver: `AdamsBashforth`, which converges, or a solver of the paper, `Euler` or `DPMSolver`.
      log_weights: (n,) unnormalised log mixture weights; -inf removes an anchor, which must not be
        a latent's own. None means uniform.

    Returns:
      (m, q) latents, in float64 if an input is float64, else in float32.

    Raises:
      ValueError: if shapes do not fit, `solver` is not a solver, or an index is out of range and
        its value is known, as outside of `jit`.
    """
    mixture, noise = mixture_and_points(log_weights, anchors=anchors, noise=noise)
    if own is None:
        if noise.shape[0] != anchors.shape[0]:
            got = f"{noise.shape[0]} rows for {anchors.shape[0]} anchors"
            raise ValueError(f"own=None needs one row of noise per anchor, got {got}")
        own = jnp.arange(anchors.shape[0])
    own = checked_indices("own", own, mixture, noise)
    return integrate(mixture, Points(noise, own_M=own), solver.towards_prior).end_MxQ


@public
def latents_in_context(
    queries: Float[Array, "m q"],
    context: Float[Array, "n q"],
    noise: Float[Array, "m q"],
    *,
    solver: Solver,
    log_weights: Float[Array, " n"] | None = None,
    query_log_weights: Float[Array, " m"] | None = None,
) -> Float[Array, "m q"]:
    """Latents (m, q) of single samples among fixed context anchors. Rows are independent.

    The mixture of a query consists of the context anchors and the query's own anchor.
    `compute_latents` explains dtypes and errors.

    Args:
      queries: (m, q) anchors of the samples.
      context: (n, q) context anchors.
      noise, solver: as for `compute_latents`.
      log_weights: (n,) unnormalised log weights of the context anchors; None means 0.
      query_log_weights: (m,) log weights of the queries on the same scale, for example the log of a
        caption's number of occurrences; None means 0.
    """
    mixture, queries, noise = mixture_and_points(
        log_weights, context=context, queries=queries, noise=noise
    )
    if query_log_weights is None:
        query_log_weights = jnp.zeros(len(queries), queries.dtype)
    if query_log_weights.shape != queries.shape[:1]:
        got = query_log_weights.shape
        raise ValueError(f"query_log_weights must be ({len(queries)},), got {got}")
    joined = Joined(queries, query_log_weights.astype(queries.dtype))
    return integrate(mixture, Points(noise, joined=joined), solver.towards_prior).end_MxQ


@public
def decode(
    latents: Float[Array, "m q"],
    anchors: Float[Array, "n q"],
    *,
    solver: Solver,
    log_weights: Float[Array, " n"] | None = None,
) -> Float[Array, "m q"]:
    """Ends (m, q) of the flow from latents (m, q), close to the anchors of their zones (§2.2.1).

    `compute_latents` explains the other arguments, dtypes and errors.
    """
    mixture, latents = mixture_and_points(log_weights, anchors=anchors, latents=latents)
    return integrate(mixture, Points(latents), solver.towards_anchors).end_MxQ


@public
def classify(
    latents: Float[Array, "m q"],
    anchors: Float[Array, "n q"],
    *,
    solver: Solver,
    log_weights: Float[Array, " n"] | None = None,
) -> Int[Array, " m"]:
    """Index (m,), int32, of the anchor nearest to the end of each latent's flow (paper §5, E.2).

    The arguments are the arguments of `decode`. A removed anchor is never returned.
    """
    points = decode(latents, anchors, solver=solver, log_weights=log_weights)
    mixture, _ = mixture_and_points(log_weights, anchors=anchors, points=points)
    mixture, rows, _ = place_rows(mixture, points)
    nearest, _ = over_devices(_nearest, lambda mixture: ())(mixture, rows, ())
    return nearest[: len(points)]


def _nearest(mixture: Mixture, points: Array, linear: tuple[()], sums: Tree) -> tuple[Array, Tree]:
    """Index of the nearest anchor that is not removed, as a row function."""
    del linear
    distances = jnp.sum((points[:, None] - mixture.anchors_NxQ) ** 2, axis=-1)
    distances = jnp.where(jnp.isneginf(mixture.log_weights_N), jnp.inf, distances)
    return jnp.argmin(distances, axis=1).astype(jnp.int32), sums


class Distinct(NamedTuple):
    """Groups of equal rows in a batch of b samples, as arguments of zoning with one anchor per row.

    Attributes:
      first: (b,) int32, index of the first row equal to each row; used as `own` or `targets`.
      log_counts: (b,) log size of the group at its first row, else -inf; used as `log_weights`.
    """

    first: Int[Array, " b"]
    log_counts: Float[Array, " b"]


@jax.jit
def distinct(samples: Int[Array, "b ..."], is_present: Bool[Array, " b"] | None = None) -> Distinct:
    """Groups of equal samples in a batch, b > 0, such as labels (b,) or tokens (b, l).

    Missing rows carry no weight, and their `first` is a present row. If all rows are missing, row 0
    counts as present, so that one anchor remains.
    """
    count = len(samples)
    if is_present is None:
        is_present = jnp.ones(count, bool)
    is_present = jnp.where(jnp.any(is_present), is_present, jnp.arange(count) == 0)
    rows = jnp.column_stack([is_present.astype(samples.dtype), samples.reshape(count, -1)])
    _, row, group = jnp.unique(rows, axis=0, return_index=True, return_inverse=True, size=count)
    first = jnp.where(is_present, row[group.reshape(-1)], jnp.argmax(is_present))
    counts = jnp.zeros(count).at[first].add(is_present)
    return Distinct(first.astype(jnp.int32), jnp.log(counts))
