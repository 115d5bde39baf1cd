"""Latent computation: from anchors to latents and back (paper §2.2.1)."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from lzn_jax.zoning.devices import over_devices, spread
from lzn_jax.zoning.flow import Joined, Mixture, Points
from lzn_jax.zoning.integrate import Way, integrate
from lzn_jax.zoning.solvers import Solver


@functools.partial(jax.jit, static_argnames="solver")
@jax.named_scope("zoning")
def compute_latents(
    anchors: Float[Array, "n q"],
    noise: Float[Array, "m q"],
    own: Int[Array, " m"] | None = None,
    *,
    solver: Solver,
    log_weights: Float[Array, " n"] | None = None,
) -> Float[Array, "m q"]:
    """Latents of samples whose anchors cut the latent space into zones (paper §2.2.1, eq. 2).

    Args:
      anchors: (n, q), all anchors of the mixture.
      noise: (m, q), N(0, I) times the noise scale α: 1 samples the zone, 0 takes its centre.
      own: (m,) index of each latent's own anchor, from the end if negative; None means arange(n),
        m = n.
      solver: `AdamsBashforth`, which converges; or the paper's, `Euler` and `DPMSolver`.
      log_weights: (n,) unnormalised log mixture weights, -inf removes an anchor; None is uniform.
        The own anchor of a latent must not be removed.

    Returns:
      (m, q) latents, in float64 if an input is float64, else in float32.

    Raises:
      ValueError: shapes do not fit each other.
    """
    mixture, noise = mixture_and_points(anchors, log_weights, noise=noise)
    if own is None:
        if noise.shape[0] != anchors.shape[0]:
            got = f"{noise.shape[0]} rows for {anchors.shape[0]} anchors"
            raise ValueError(f"own=None needs one row of noise an anchor, got {got}")
        own = jnp.arange(anchors.shape[0])
    own = checked_indices("own", own, mixture, noise)
    return integrate(mixture, Points(noise, own_M=own), Way(solver, "prior")).end_MxQ


@functools.partial(jax.jit, static_argnames="solver")
@jax.named_scope("zoning")
def latents_in_context(
    queries: Float[Array, "m q"],
    context: Float[Array, "n q"],
    noise: Float[Array, "m q"],
    *,
    solver: Solver,
    log_weights: Float[Array, " n"] | None = None,
    query_log_weights: Float[Array, " m"] | None = None,
) -> Float[Array, "m q"]:
    """Latents of single samples among fixed context anchors; row i depends on row i alone.

    Each query's anchor joins the context for itself and is unseen by the others.

    Args:
      queries: (m, q) anchors of the samples.
      context: (n, q) context anchors.
      noise, solver, returns, raises: as for `compute_latents`.
      log_weights: (n,) unnormalised log weights of the context; None is 0 for each anchor.
      query_log_weights: (m,) log weights of the queries on the same scale, such as the log of how
        often a caption occurs; None is 0 for each.
    """
    mixture, noise, queries = mixture_and_points(context, log_weights, noise=noise, queries=queries)
    if query_log_weights is None:
        query_log_weights = jnp.zeros(len(queries), queries.dtype)
    if query_log_weights.shape != queries.shape[:1]:
        got = query_log_weights.shape
        raise ValueError(f"query_log_weights must be ({len(queries)},), got {got}")
    joined = Joined(queries, query_log_weights.astype(queries.dtype))
    return integrate(mixture, Points(noise, joined=joined), Way(solver, "prior")).end_MxQ


@functools.partial(jax.jit, static_argnames="solver")
@jax.named_scope("zoning")
def decode(
    latents: Float[Array, "m q"],
    anchors: Float[Array, "n q"],
    *,
    solver: Solver,
    log_weights: Float[Array, " n"] | None = None,
) -> Float[Array, "m q"]:
    """Follows latents down the flow; the end lies close to the anchor of the zone (paper §2.2.1).

    Args:
      latents: (m, q).
      anchors, solver, log_weights, returns, raises: as for `compute_latents`.
    """
    mixture, latents = mixture_and_points(anchors, log_weights, latents=latents)
    return integrate(mixture, Points(latents), Way(solver, "anchors")).end_MxQ


@functools.partial(jax.jit, static_argnames="solver")
@jax.named_scope("zoning")
def classify(
    latents: Float[Array, "m q"],
    anchors: Float[Array, "n q"],
    *,
    solver: Solver,
    log_weights: Float[Array, " n"] | None = None,
) -> Int[Array, " m"]:
    """Index of the anchor nearest to the end of each latent's flow (paper §5, E.2).

    Arguments as for `decode`; an anchor removed by its weight is never the answer.

    Returns:
      (m,) int32.
    """
    points = decode(latents, anchors, solver=solver, log_weights=log_weights)
    mixture, _ = mixture_and_points(anchors, log_weights, points=points)
    mixture, rows, _ = spread(mixture, points)
    nearest, _ = over_devices(_nearest, lambda mixture: ())(mixture, rows, ())
    return nearest[: len(points)]


def _nearest(mixture: Mixture, points: Array, linear: tuple[()], sums: Any) -> tuple[Array, Any]:
    """A row function: index of the anchor that is nearest to each point and not removed."""
    del linear
    distances = jnp.sum((points[:, None] - mixture.anchors_NxQ) ** 2, axis=-1)
    distances = jnp.where(jnp.isneginf(mixture.log_weights_N), jnp.inf, distances)
    return jnp.argmin(distances, axis=1).astype(jnp.int32), sums


def mixture_and_points(anchors: Array, log_weights: Array | None, **points: Array) -> list[Any]:
    """The mixture of anchors (n, q), uniform without log weights (n,), and points (m, q) beside it.

    In float64 if one of them is, else in float32. Raises ValueError where shapes do not fit.
    """
    for name, array in points.items():
        if anchors.ndim != 2 or array.shape[1:] != anchors.shape[1:]:
            raise ValueError(
                f"anchors (n, q) and {name} (m, q) must share q, got {anchors.shape}, {array.shape}"
            )
    if len({array.shape for array in points.values()}) > 1:
        raise ValueError(f"{' and '.join(points)} differ in shape")
    if len(anchors) == 0:
        raise ValueError(f"at least one anchor is needed, got {anchors.shape}")
    if log_weights is None:
        log_weights = jnp.zeros(len(anchors), jnp.float32)
    if log_weights.shape != anchors.shape[:1]:
        raise ValueError(f"log_weights must be ({len(anchors)},), got {log_weights.shape}")
    arrays = (anchors, log_weights, *points.values())
    dtype = jnp.result_type(jnp.float32, *arrays)
    anchors, log_weights, *placed = (jnp.asarray(array, dtype) for array in arrays)
    return [Mixture(anchors, log_weights), *placed]


def checked_indices(name: str, indices: Array, mixture: Mixture, points: Array) -> Array:
    """An anchor's index for each point, none negative: indexing wraps these, comparing does not.

    Raises ValueError unless there is one index a point.
    """
    if indices.shape != points.shape[:1]:
        raise ValueError(f"{name} must be ({points.shape[0]},), got {indices.shape}")
    indices = indices.astype(jnp.int32)  # short integers may not reach the number of anchors
    return jnp.where(indices < 0, indices + len(mixture.anchors_NxQ), indices)
