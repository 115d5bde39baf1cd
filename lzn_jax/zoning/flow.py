"""The posterior over anchors and the latent flow in zone coordinates (paper §2.2.1, A.2).

A point x at noise level t, seen from a reference point c, has the zone coordinates

    u = (x - (1-t) c) / t,     r = (1-t)/t,     du/dr = ā - c,
    logit_j = r u·(a_j - c) - ½ r² |a_j - c|² + log p_j,     ā = Σ_j softmax(logit)_j a_j.

With c = a_i, the point's own anchor, its own logit is log p_i whatever u and r are, and while the
assignment is certain u does not move: nothing large is ever subtracted, where the form in x loses
all of float32 to factors of 1/t² = 1e8. The own anchor never enters the weighted mean either:
ā - a_i = Σ_{j≠i} w_j (a_j - a_i). With c the mean anchor the same equations decode a latent.

Axis sizes in names: M points, N anchors, Q latent dimensions.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from lzn_jax.zoning.solvers import Table

_PRECISION = jax.lax.Precision.HIGHEST  # accelerators would round the products to bf16 or TF32


class Zones(NamedTuple):
    """A mixture of anchors and the reference points from which M points see it.

    The leading axis of the last three may be 1 instead of M: all points then share them.
    """

    anchors_NxQ: jax.Array
    log_weights_N: jax.Array
    origin_Q: jax.Array  # mean anchor; inner products are taken relative to it
    centers_MxQ: jax.Array
    own_M: jax.Array  # index of the anchor that is the center, -1 where there is none
    own_log_weight_M: jax.Array  # log weight of the center in the mixture, -inf for none


class Trajectory(NamedTuple):
    """The end of the flow and what was seen on the way.

    Attributes:
      offset_MxQ: end point minus (1 - t_end) times the center.
      log_own_SxM: log probability of the own anchor at each evaluation.
      log_other_SxM: log probability of the likeliest other anchor.
    """

    offset_MxQ: jax.Array
    log_own_SxM: jax.Array
    log_other_SxM: jax.Array


def make_zones(
    anchors: jax.Array,
    log_weights: jax.Array | None,
    centers: jax.Array | None,
    own: jax.Array | None,
    own_log_weight: jax.Array | None = None,
) -> Zones:
    """Collects a mixture and its reference points.

    Args:
      anchors: (n, q).
      log_weights: (n,) unnormalised, or None for uniform weights.
      centers: (m, q) reference points; None takes `anchors[own]`, and the mean anchor where there
        is no own anchor either.
      own: (m,) index of each point's own anchor, or None.
      own_log_weight: () log weight of centers that are no anchors themselves but join the mixture.
    """
    if log_weights is None:
        log_weights = jnp.zeros(anchors.shape[0], anchors.dtype)
    # The flow does not depend on the origin, so no gradient passes through it.
    origin_Q = jax.lax.stop_gradient(
        jnp.einsum("n,nq->q", jax.nn.softmax(log_weights), anchors, precision=_PRECISION)
    )
    if own is not None:
        centers, own_log_weights = anchors[own], log_weights[own]
    else:
        own = jnp.array([-1])
        absent = jnp.asarray(-jnp.inf, anchors.dtype)
        own_log_weights = (absent if own_log_weight is None else own_log_weight)[None]
        centers = origin_Q[None] if centers is None else centers
    return Zones(anchors, log_weights, origin_Q, centers, own, own_log_weights)


def integrate(zones: Zones, table: Table, start_MxQ: jax.Array) -> Trajectory:
    """Runs the flow from zone coordinates `start` through every row of a solver's table.

    The state is the displacement s = u - start, which is 0 while the assignment is certain.
    Reverse-mode memory is one state a step: the backward pass recomputes each evaluation.
    """
    dtype = start_MxQ.dtype
    rows = tuple(jnp.asarray(a, dtype) for a in (table.r, table.weights, table.end_weights))
    pairs = jax.checkpoint(_pairs)(zones, start_MxQ)

    def step(state, row):
        s, past, end = state
        r, weights, end_weight = row
        drift, *log_probs = jax.checkpoint(_evaluate)(zones, pairs, s, r)
        drifts = jnp.concatenate([drift[None], past])
        s = s + jnp.tensordot(weights, drifts, 1, precision=_PRECISION)
        return (s, drifts[:-1], end + end_weight * drift), log_probs

    zeros = jnp.zeros((table.weights.shape[1], *start_MxQ.shape), dtype)
    state = (zeros[0], zeros[1:], table.t_end * start_MxQ)
    (_, _, offset_MxQ), (log_own, log_other) = jax.lax.scan(step, state, rows)
    return Trajectory(offset_MxQ, log_own, log_other)


class _Pairs(NamedTuple):
    """What a point and an anchor have to do with each other before the flow starts."""

    squared_MxN: jax.Array  # |a_j - c_i|²
    inner_MxN: jax.Array  # start_i·(a_j - c_i)


def _pairs(zones: Zones, start_MxQ: jax.Array) -> _Pairs:
    """Distances and inner products from the differences themselves, once for all steps.

    Between nearly equal anchors |a|² + |c|² - 2 a·c has no correct digit, and r (u·a - u·c) has
    few at r = 1e4, where the flow towards the prior starts.
    """
    differences_MxNxQ = zones.anchors_NxQ[None] - zones.centers_MxQ[:, None]
    return _Pairs(
        squared_MxN=jnp.sum(differences_MxNxQ**2, axis=-1),
        inner_MxN=jnp.sum(start_MxQ[:, None] * differences_MxNxQ, axis=-1),
    )


def _evaluate(
    zones: Zones, pairs: _Pairs, s_MxQ: jax.Array, r: ArrayLike
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Drift ā - c at displacement s, and log probabilities of the own and likeliest other anchor.

    Two matrix products. The likeliest other anchor, like the own one, is left out of the second:
    where it is nearly equal to the own one, w a - w c would lose the small difference, and with it
    the gradient, to rounding.
    """
    anchors_NxQ = zones.anchors_NxQ - zones.origin_Q
    centers_MxQ = zones.centers_MxQ - zones.origin_Q
    inner_MxN = pairs.inner_MxN + jnp.matmul(s_MxQ, anchors_NxQ.T, precision=_PRECISION)
    inner_MxN -= jnp.sum(s_MxQ * centers_MxQ, axis=1, keepdims=True)

    is_own_MxN = zones.own_M[:, None] == jnp.arange(anchors_NxQ.shape[0])
    logits_MxN = r * inner_MxN - 0.5 * r**2 * pairs.squared_MxN + zones.log_weights_N
    w_MxN, log_total_M = _softmax(jnp.where(is_own_MxN, -jnp.inf, logits_MxN), zones)

    rival_M = jnp.argmax(w_MxN, axis=1)
    is_rival_MxN = rival_M[:, None] == jnp.arange(anchors_NxQ.shape[0])
    w_rival_Mx1 = jnp.sum(jnp.where(is_rival_MxN, w_MxN, 0), axis=1, keepdims=True)
    w_rest_MxN = jnp.where(is_rival_MxN, 0, w_MxN)
    drift_MxQ = jnp.matmul(w_rest_MxN, anchors_NxQ, precision=_PRECISION)
    drift_MxQ -= jnp.sum(w_rest_MxN, axis=1, keepdims=True) * centers_MxQ
    drift_MxQ += w_rival_Mx1 * (zones.anchors_NxQ[rival_M] - zones.centers_MxQ)
    return drift_MxQ, zones.own_log_weight_M - log_total_M, jnp.log(w_rival_Mx1[:, 0])


def _softmax(logits_MxN: jax.Array, zones: Zones) -> tuple[jax.Array, jax.Array]:
    """Probabilities of the other anchors, and the log of the sum over all with the own one's."""
    shift_M = jnp.maximum(jnp.max(logits_MxN, axis=1), zones.own_log_weight_M)
    shift_M = jax.lax.stop_gradient(shift_M)
    unnormalised_MxN = jnp.exp(logits_MxN - shift_M[:, None])
    total_M = jnp.sum(unnormalised_MxN, axis=1) + jnp.exp(zones.own_log_weight_M - shift_M)
    return unnormalised_MxN / total_M[:, None], shift_M + jnp.log(total_M)
