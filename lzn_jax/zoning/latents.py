"""Latent computation: from anchors to latents and back (paper §2.2.1)."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from lzn_jax.zoning.arguments import checked_indices, mixture_and_points, public
from lzn_jax.zoning.flow import Joined, Mixture, Points
from lzn_jax.zoning.integrate import Direction, integrate
from lzn_jax.zoning.rows import over_devices, place_rows
from lzn_jax.zoning.solvers import Solver


@public
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
      ValueError: shapes do not fit, an index is out of range (found where its value is known, as
        outside of `jit`), or `solver` is no solver.
    """
    mixture, noise = mixture_and_points(log_weights, anchors=anchors, noise=noise)
    if own is None:
        if noise.shape[0] != anchors.shape[0]:
            got = f"{noise.shape[0]} rows for {anchors.shape[0]} anchors"
            raise ValueError(f"own=None needs one row of noise an anchor, got {got}")
        own = jnp.arange(anchors.shape[0])
    own = checked_indices("own", own, mixture, noise)
    return integrate(mixture, Points(noise, own_M=own), Direction(solver, "prior")).end_MxQ


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
    mixture, queries, noise = mixture_and_points(
        log_weights, context=context, queries=queries, noise=noise
    )
    if query_log_weights is None:
        query_log_weights = jnp.zeros(len(queries), queries.dtype)
    if query_log_weights.shape != queries.shape[:1]:
        got = query_log_weights.shape
        raise ValueError(f"query_log_weights must be ({len(queries)},), got {got}")
    joined = Joined(queries, query_log_weights.astype(queries.dtype))
    return integrate(mixture, Points(noise, joined=joined), Direction(solver, "prior")).end_MxQ


@public
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
    mixture, latents = mixture_and_points(log_weights, anchors=anchors, latents=latents)
    return integrate(mixture, Points(latents), Direction(solver, "anchors")).end_MxQ


@public
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
    mixture, _ = mixture_and_points(log_weights, anchors=anchors, points=points)
    mixture, rows, _ = place_rows(mixture, points)
    nearest, _ = over_devices(_nearest, lambda mixture: ())(mixture, rows, ())
    return nearest[: len(points)]


def _nearest(mixture: Mixture, points: Array, linear: tuple[()], sums: Any) -> tuple[Array, Any]:
    """A row function: index of the anchor that is nearest to each point and not removed."""
    del linear
    distances = jnp.sum((points[:, None] - mixture.anchors_NxQ) ** 2, axis=-1)
    distances = jnp.where(jnp.isneginf(mixture.log_weights_N), jnp.inf, distances)
    return jnp.argmin(distances, axis=1).astype(jnp.int32), sums


class Distinct(NamedTuple):
    """Which rows of a batch of b samples are equal; for zoning with one anchor a row.

    Attributes:
      first: (b,) int32, for each row the first that is equal to it: `own`, or `targets`.
      log_counts: (b,) `log_weights`: at a first row the log of how many are equal to it, else -inf.
    """

    first: Int[Array, " b"]
    log_counts: Float[Array, " b"]


@jax.jit
def distinct(samples: Int[Array, "b ..."], is_present: Bool[Array, " b"] | None = None) -> Distinct:
    """The distinct samples of a batch, b > 0, such as labels (b,) or tokens (b, l).

    Rows that are not present count for nothing, whatever they hold; their `first` is a row that is
    present. Where none is, row 0 stands for all, so that there is an anchor.
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
