"""Latent computation: from anchors to latents and back (paper §2.2.1)."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from lzn_jax.zoning.flow import Points
from lzn_jax.zoning.integrate import Way, integrate, make_mixture
from lzn_jax.zoning.rows import on_auto_axes
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
      solver: `Euler` or `DPMSolver`.
      log_weights: (n,) unnormalised log mixture weights, -inf removes an anchor; None is uniform.
        The own anchor of a latent must not be removed.

    Returns:
      (m, q) latents, in float64 if an input is float64, else in float32.

    Raises:
      ValueError: shapes do not fit each other.
    """
    anchors, noise, log_weights = _promote(anchors, noise, log_weights)
    _check_shapes(anchors, noise, log_weights, "noise")
    if own is None:
        if noise.shape[0] != anchors.shape[0]:
            raise ValueError(
                f"own=None needs one row of noise an anchor, got {noise.shape[0]} rows for "
                f"{anchors.shape[0]} anchors"
            )
        own = jnp.arange(anchors.shape[0])
    own = _checked_indices(own, anchors, noise, "own")
    mixture = make_mixture(anchors, log_weights)
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
) -> Float[Array, "m q"]:
    """Latents of single samples among fixed context anchors; row i depends on row i alone.

    Each query's anchor joins the context (log weight 0) for itself and is unseen by the others,
    so the answer is the same for one sample and for any number of them.

    Args:
      queries: (m, q) anchors of the samples.
      context: (n, q) context anchors.
      noise: (m, q), N(0, I) times the noise scale α.
      solver: `Euler` or `DPMSolver`.
      log_weights: (n,) unnormalised log weights of the context; None is 0 for each anchor.

    Returns:
      (m, q) latents, in float64 if an input is float64, else in float32.

    Raises:
      ValueError: shapes do not fit each other.
    """
    queries, context, noise, log_weights = _promote(queries, context, noise, log_weights)
    _check_shapes(context, noise, log_weights, "noise")
    if queries.shape != noise.shape:
        raise ValueError(f"queries {queries.shape} and noise {noise.shape} differ in shape")
    mixture = make_mixture(context, log_weights)
    return integrate(mixture, Points(noise, centers_MxQ=queries), Way(solver, "prior")).end_MxQ


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
      anchors: (n, q).
      solver: `Euler` or `DPMSolver`.
      log_weights: (n,) unnormalised log mixture weights, -inf removes an anchor; None is uniform.

    Returns:
      (m, q) end points, in float64 if an input is float64, else in float32.

    Raises:
      ValueError: shapes do not fit each other.
    """
    latents, anchors, log_weights = _promote(latents, anchors, log_weights)
    _check_shapes(anchors, latents, log_weights, "latents")
    mixture = make_mixture(anchors, log_weights)
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
    return on_auto_axes(_nearest, (anchors, log_weights), points)


def _nearest(mixture: tuple[Array, Array | None], points: Array) -> Array:
    """Index of the anchor that is nearest to each point and not removed."""
    anchors, log_weights = mixture
    distances = jnp.sum((points[:, None] - anchors[None]) ** 2, axis=-1)
    if log_weights is not None:
        distances = jnp.where(jnp.isneginf(log_weights), jnp.inf, distances)
    return jnp.argmin(distances, axis=1).astype(jnp.int32)


def _promote(*arrays: Array | None) -> list:
    """Arrays in the common compute dtype: float64 if one of them is, else float32."""
    dtype = jnp.result_type(jnp.float32, *(a for a in arrays if a is not None))
    return [None if a is None else jnp.asarray(a, dtype) for a in arrays]


def _check_shapes(anchors: Array, points: Array, log_weights: Array | None, name: str) -> None:
    """Raises ValueError unless anchors (n, q), points (m, q) and log_weights (n,) agree."""
    if anchors.ndim != 2 or points.ndim != 2 or anchors.shape[1] != points.shape[1]:
        raise ValueError(
            f"anchors (n, q) and {name} (m, q) must share q, got {anchors.shape}, {points.shape}"
        )
    if anchors.shape[0] == 0:
        raise ValueError(f"at least one anchor is needed, got {anchors.shape}")
    if log_weights is not None and log_weights.shape != anchors.shape[:1]:
        raise ValueError(
            f"log_weights must be ({anchors.shape[0]},), one an anchor, got {log_weights.shape}"
        )


def _checked_indices(indices: Array, anchors: Array, points: Array, name: str) -> Array:
    """An anchor's index for each point, none negative: indexing wraps these, comparing does not.

    Raises ValueError unless there is one index a point.
    """
    if indices.shape != points.shape[:1]:
        raise ValueError(f"{name} must be ({points.shape[0]},), got {indices.shape}")
    indices = indices.astype(jnp.int32)  # short integers may not reach the number of anchors
    return jnp.where(indices < 0, indices + anchors.shape[0], indices)
