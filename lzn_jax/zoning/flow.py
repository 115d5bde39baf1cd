"""The posterior over anchors and the latent flow in zone coordinates (paper §2.2.1, A.2).

A point x at noise level t, seen from a reference point c, has the zone coordinates

    u = (x - (1-t) c) / t,     r = (1-t)/t,     du/dr = ā - c,
    logit_j = r u·(a_j - c) - ½ r² |a_j - c|² + log p_j,     ā = Σ_j softmax(logit)_j a_j.

With c = a_i, the point's own anchor, its own logit is log p_i whatever u and r are, and while the
assignment is certain u does not move: nothing large is ever subtracted, where the form in x loses
all of float32 to factors of 1/t² = 1e8. The own anchor never enters the weighted mean either:
ā - a_i = Σ_{j≠i} w_j (a_j - a_i). With c the mean anchor the same equations decode a latent.

Where an anchor is nearly equal to c, a_j - c must not come out of a matrix product: the distances
are taken from the differences, and the few anchors nearest to c, its *rivals*, from theirs
throughout.

This file is the mathematics for one block of points: `flow` and its derivative `flow_vjp`, which
is written out because it needs none of what automatic differentiation would keep: with the
states u_k and the normalisers known, a step back is five matrix products.

The result is that of plain.py; what follows keeps float32's digits and bounds memory.

Axis sizes in names: M points, N anchors, Q latent dimensions, S solver steps, K rivals.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

# In groups of four or more anchors that are 1e-4 apart latents are off by 2e-4, as in the plain
# form. Four rivals would mend that, and take 4 to 7 % more time of all gradients.
NUM_RIVALS = 2
SMALL_SIDE = 64  # matrices with a shorter side are slow to multiply
# Off-own weights below e^-60 change nothing: not even times r = 1e4 and 1e5 anchors.
_NEGLIGIBLE_LOGIT = -60.0


matmul = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)
_dot = functools.partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)


class Mixture(NamedTuple):
    """The anchors; every point sees all of them."""

    anchors_NxQ: jax.Array
    log_weights_N: jax.Array  # unnormalised


class Joined(NamedTuple):
    """Centres that are no anchors but join the mixture, each for its own point alone."""

    centres_MxQ: jax.Array
    log_weights_M: jax.Array


class Points(NamedTuple):
    """Where points start, and the centres from which they see the mixture.

    Attributes:
      start_MxQ: noise, or latents: what the solver's table says.
      own_M: indices of anchors that are the centres, or None.
      joined: centres that are no anchors, or None. With neither, the centre is the origin.
    """

    start_MxQ: jax.Array
    own_M: jax.Array | None = None
    joined: Joined | None = None


class Table(NamedTuple):
    """A solver in one direction of the flow, S steps; P is 1 where all points share them, or M.

    Attributes:
      r_SxP: coordinate r = (1-t)/t of each evaluation.
      weights_SxKxP: factors of the newest drift, the one before it, ... in the next state; in the
        last row, after which nothing is evaluated, 0.
      end_weights_SxP: factor of each drift in the end point.
      prior_weight_P: factor of the drift at the prior (r = 0) in the end point; None: it has none.
      start_weight, start_centre_weight: factors of start and centre in the first state.
      t_end: noise level of the end point.
      end_centre_weight: 1 - t_end, formed here because float32 knows 1 - 0.999 to 5 digits.
    """

    r_SxP: jax.Array
    weights_SxKxP: jax.Array
    end_weights_SxP: jax.Array
    prior_weight_P: jax.Array | None
    start_weight: jax.Array
    start_centre_weight: jax.Array
    t_end: jax.Array
    end_centre_weight: jax.Array


class Trajectory(NamedTuple):
    """The end of the flow and what was seen on the way.

    Attributes:
      end_MxQ: end points.
      log_own_MxS: log probability of the centre at each evaluation.
      log_other_M: log probability of the likeliest other anchor at the last evaluation.
    """

    end_MxQ: jax.Array
    log_own_MxS: jax.Array
    log_other_M: jax.Array


class Record(NamedTuple):
    """What `flow_vjp` needs to know of each step of a flow.

    Attributes:
      u_MxSxQ: states.
      log_total_MxS: log normalisers.
      others_MxS: probability of all anchors but the own one and the rivals.
    """

    u_MxSxQ: jax.Array
    log_total_MxS: jax.Array
    others_MxS: jax.Array


class View(NamedTuple):
    """A mixture as a block of points sees it; does not change along the flow."""

    centres_MxQ: jax.Array
    shifted_centres_MxQ: jax.Array  # relative to the origin
    shifted_anchors_NxQ: jax.Array
    log_weights_N: jax.Array
    own_log_weight_M: jax.Array
    log_joined_M: jax.Array  # of centres that join the mixture the log weight, else -inf
    squared_MxN: jax.Array  # |a_j - c_i|², inf for removed anchors, the own one and the rivals
    rivals_MxK: jax.Array
    rival_offsets_MxKxQ: jax.Array  # a_j - c_i
    rival_squared_MxK: jax.Array
    rival_log_weights_MxK: jax.Array
    nearest_M: jax.Array  # distance to the nearest other anchor


class MixtureSums(NamedTuple):
    """Cotangents of a mixture, added up over points."""

    anchors_QxN: jax.Array  # this way round the matrix products are faster
    log_weights_N: jax.Array


class _Logits(NamedTuple):
    anchors_MxN: jax.Array  # -inf for removed anchors, the own one and the rivals
    rivals_MxK: jax.Array


class _Sums(NamedTuple):
    """Cotangents added up over steps: of the mixture, and of the view's fields."""

    mixture: MixtureSums  # without shrinkage
    shrinkage_N: jax.Array  # what to subtract from the anchors' cotangents, in shifted anchors
    centres_MxQ: jax.Array
    own_log_weight_M: jax.Array
    rival_offsets_MxKxQ: jax.Array
    rival_log_weights_MxK: jax.Array


def flow(view: View, table: Table, points: Points) -> tuple[Trajectory, Record]:
    """Runs points through every row of a solver's table, its numbers in the points' dtype."""
    own_log_weight_M = view.own_log_weight_M
    zeros_M, zeros_MxQ = jnp.zeros_like(own_log_weight_M), jnp.zeros_like(points.start_MxQ)
    unmoved = (zeros_MxQ, own_log_weight_M, zeros_M, zeros_M - jnp.inf)
    start_MxQ = table.start_weight * points.start_MxQ - table.start_centre_weight * view.centres_MxQ

    def step(state, row):
        u, past, end = state
        r, weights, end_weight = row
        drift, log_total, others, log_other = jax.lax.cond(
            _is_certain(view, u, r), lambda: unmoved, lambda: _evaluate(view, u, r)
        )
        drifts = (drift, *past)
        state = (u + _combine(weights, drifts), drifts[:-1], end + end_weight[:, None] * drift)
        return state, (u, log_total, others, log_other)

    past = (zeros_MxQ,) * (table.weights_SxKxP.shape[1] - 1)
    end_MxQ = table.t_end * start_MxQ
    if table.prior_weight_P is not None:
        end_MxQ += table.prior_weight_P[:, None] * _prior_drift(*_at_prior(view))
    state = (start_MxQ, past, end_MxQ)
    (_, _, offset_MxQ), (u_SxMxQ, log_total_SxM, others_SxM, log_other_SxM) = jax.lax.scan(
        step, state, _rows(table, table.weights_SxKxP)
    )
    end_MxQ = offset_MxQ + table.end_centre_weight * view.centres_MxQ
    log_own_MxS = own_log_weight_M[:, None] - log_total_SxM.T
    trajectory = Trajectory(end_MxQ, log_own_MxS, log_other_SxM[-1])
    return trajectory, Record(u_SxMxQ.swapaxes(0, 1), log_total_SxM.T, others_SxM.T)


def flow_vjp(
    view: View,
    table: Table,
    points: Points,
    record: Record,
    d_end_MxQ: jax.Array,
    d_log_own_MxS: jax.Array,
    mixture_sums: MixtureSums,
) -> tuple[Points, MixtureSums]:
    """Cotangents of points, and of the mixture added to `mixture_sums`, from those of a flow."""
    # Drift k moved the states after k by weights[k], weights[k+1], ...: one column an age.
    order = table.weights_SxKxP.shape[1]
    columns = [jnp.pad(table.weights_SxKxP[age:, age], [(0, age), (0, 0)]) for age in range(order)]

    def step(state, row):
        d_u, d_later, sums = state  # d_u: of the state after this step; d_later: of those after
        (r, weights, end_weight), (u, log_total, others), d_log_own = row
        d_states = (d_u, *d_later)
        d_drift = _combine(weights, d_states) + end_weight[:, None] * d_end_MxQ
        d_here, sums = jax.lax.cond(
            _is_certain(view, u, r),
            lambda: (jnp.zeros_like(d_u), sums),
            lambda: _evaluate_vjp(view, u, r, log_total, others, d_drift, d_log_own, sums),
        )
        return (d_u + d_here, d_states[:-1], sums), None

    zeros = jnp.zeros_like(d_end_MxQ)
    sums = _Sums(
        mixture_sums,
        jnp.zeros_like(view.log_weights_N),
        zeros,
        jnp.zeros_like(view.own_log_weight_M),
        jnp.zeros_like(view.rival_offsets_MxKxQ),
        jnp.zeros_like(view.rival_squared_MxK),
    )
    rows = (
        _rows(table, jnp.stack(columns, axis=1)),
        jax.tree.map(lambda a: a.swapaxes(0, 1), record),
        d_log_own_MxS.T,
    )
    state = (zeros, (zeros,) * (order - 1), sums)
    (d_start_MxQ, _, sums), _ = jax.lax.scan(step, state, rows, reverse=True)
    if table.prior_weight_P is not None:
        sums = _add_prior_drift(view, table.prior_weight_P[:, None] * d_end_MxQ, sums)
    return _collect(view, table, points, sums, d_start_MxQ + table.t_end * d_end_MxQ, d_end_MxQ)


def log_assignments(
    view: View, own_M: jax.Array, u_MxQ: jax.Array, r: jax.Array, log_total_M: jax.Array
) -> jax.Array:
    """Log soft assignments (M, N) at a state and its normaliser, seen from the anchors `own_M`."""
    logits, rows_M = _logits(view, u_MxQ, r), jnp.arange(len(own_M))
    # Where anchors are too few, a rival is another one again, at an infinite distance.
    logits_MxN = logits.anchors_MxN.at[rows_M[:, None], view.rivals_MxK].max(logits.rivals_MxK)
    logits_MxN = logits_MxN.at[rows_M, own_M].set(view.own_log_weight_M)
    return logits_MxN - log_total_M[:, None]


def _collect(
    view: View,
    table: Table,
    points: Points,
    sums: _Sums,
    d_start_MxQ: jax.Array,
    d_end_MxQ: jax.Array,
) -> tuple[Points, MixtureSums]:
    """Passes cotangents of a view on to what it was made of: points and mixture."""
    d_centres_MxQ = (
        sums.centres_MxQ
        - jnp.sum(sums.rival_offsets_MxKxQ, axis=1)
        + table.end_centre_weight * d_end_MxQ
        - table.start_centre_weight * d_start_MxQ
    )
    anchors_QxN, log_weights_N = sums.mixture
    anchors_QxN -= sums.shrinkage_N * view.shifted_anchors_NxQ.T
    anchors_QxN = anchors_QxN.at[:, view.rivals_MxK].add(
        jnp.moveaxis(sums.rival_offsets_MxKxQ, -1, 0)
    )
    log_weights_N = log_weights_N.at[view.rivals_MxK].add(sums.rival_log_weights_MxK)
    d_points = Points(table.start_weight * d_start_MxQ)
    if points.own_M is not None:
        anchors_QxN = anchors_QxN.at[:, points.own_M].add(d_centres_MxQ.T)
        log_weights_N = log_weights_N.at[points.own_M].add(sums.own_log_weight_M)
    elif points.joined is not None:
        d_points = d_points._replace(joined=Joined(d_centres_MxQ, sums.own_log_weight_M))
    return d_points, MixtureSums(anchors_QxN, log_weights_N)


def _centres(
    mixture: Mixture, origin_Q: jax.Array, points: Points
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Centres (M, Q) relative to the origin, their log weights, and these where they join."""
    no_weight_M = jnp.full_like(points.start_MxQ[:, 0], -jnp.inf)
    if points.own_M is not None:
        own_M = points.own_M
        return mixture.anchors_NxQ[own_M], mixture.log_weights_N[own_M], no_weight_M
    if points.joined is not None:
        centres_MxQ, log_weights_M = points.joined
        return centres_MxQ - origin_Q, log_weights_M, log_weights_M
    return jnp.zeros_like(points.start_MxQ), no_weight_M, no_weight_M


def _rows(table: Table, weights: Any) -> tuple[Any, ...]:
    return table.r_SxP, weights, table.end_weights_SxP


def _combine(weights: jax.Array, arrays: tuple[jax.Array, ...]) -> jax.Array:
    terms = [weight[:, None] * array for weight, array in zip(weights, arrays, strict=True)]
    return functools.reduce(jnp.add, terms)


def centred(mixture: Mixture) -> tuple[Mixture, jax.Array]:
    """The mixture seen from an origin (Q,) among its anchors, and the origin; nothing is rounded.

    Removed anchors, which may be NaN, become copies of the one of the largest weight.

    A number minus another one of half to twice its size is exact (Sterbenz). So the origin is the
    middle of the anchors where all of them are within a quarter of it, and 0 in other dimensions,
    where they are not large compared to what sets them apart.
    """
    anchors_NxQ, log_weights_N = mixture
    likeliest_Q = anchors_NxQ[jnp.argmax(log_weights_N)]
    anchors_NxQ = jnp.where(jnp.isneginf(log_weights_N)[:, None], likeliest_Q, anchors_NxQ)
    low_Q, high_Q = jnp.min(anchors_NxQ, axis=0), jnp.max(anchors_NxQ, axis=0)
    middle_Q = (low_Q + high_Q) / 2
    is_exact_Q = high_Q - low_Q <= jnp.abs(middle_Q) / 2
    origin_Q = jnp.where(is_exact_Q, middle_Q, 0)
    return mixture._replace(anchors_NxQ=anchors_NxQ - origin_Q), origin_Q


def make_view(mixture: Mixture, origin_Q: jax.Array, points: Points) -> View:
    """What does not change along the flow, for a mixture that is `centred` at the origin.

    Distances come from the differences themselves, once for all steps: between nearly equal
    anchors |a|² + |c|² - 2 a·c has no correct digit.
    """
    shifted_centres_MxQ, own_log_weight_M, log_joined_M = _centres(mixture, origin_Q, points)
    squared_MxN = squared_distances(shifted_centres_MxQ, mixture.anchors_NxQ)
    squared_MxN = jnp.where(jnp.isneginf(mixture.log_weights_N), jnp.inf, squared_MxN)
    index_N = jnp.arange(len(mixture.anchors_NxQ))
    if points.own_M is not None:
        squared_MxN = jnp.where(points.own_M[:, None] == index_N, jnp.inf, squared_MxN)
    rivals, distances = [], []
    for _ in range(NUM_RIVALS):
        rival_M = jnp.argmin(squared_MxN, axis=1)
        rivals.append(rival_M)
        distances.append(jnp.min(squared_MxN, axis=1))
        squared_MxN = jnp.where(rival_M[:, None] == index_N, jnp.inf, squared_MxN)
    rivals_MxK = jnp.stack(rivals, axis=1)
    return View(
        centres_MxQ=shifted_centres_MxQ + origin_Q,
        shifted_anchors_NxQ=mixture.anchors_NxQ,
        shifted_centres_MxQ=shifted_centres_MxQ,
        log_weights_N=mixture.log_weights_N,
        own_log_weight_M=own_log_weight_M,
        log_joined_M=log_joined_M,
        squared_MxN=squared_MxN,
        rivals_MxK=rivals_MxK,
        rival_offsets_MxKxQ=mixture.anchors_NxQ[rivals_MxK] - shifted_centres_MxQ[:, None],
        rival_squared_MxK=jnp.stack(distances, axis=1),
        rival_log_weights_MxK=mixture.log_weights_N[rivals_MxK],
        nearest_M=jnp.sqrt(distances[0]),
    )


def squared_distances(a_MxQ: jax.Array, b_NxQ: jax.Array) -> jax.Array:
    """|a_i - b_j|² from the differences, vectorised along j.

    Sums of 16 dimensions are added up in pairs: one sum from the first dimension to the last
    would lose a digit, and r² times as much of a logit.
    """
    chunk = 16
    padding = [(0, -a_MxQ.shape[1] % chunk), (0, 0)]
    num_chunks = -(-a_MxQ.shape[1] // chunk)
    a, b = (jnp.pad(x.T, padding).reshape(num_chunks, chunk, len(x)) for x in (a_MxQ, b_NxQ))

    def add(total_MxN, dimensions):
        terms = [(a_M[:, None] - b_N) ** 2 for a_M, b_N in zip(*dimensions, strict=True)]
        while len(terms) > 1:
            terms = [x + y for x, y in zip(terms[::2], terms[1::2], strict=True)]
        return total_MxN + terms[0], None

    zeros = jnp.zeros_like(a_MxQ, shape=(len(a_MxQ), len(b_NxQ)))
    return jax.lax.scan(add, zeros, (a, b))[0]


def _is_certain(view: View, u_MxQ: jax.Array, r: jax.Array) -> jax.Array:
    """Whether every point's off-own weights are provably nil, so that nothing moves.

    An anchor at distance d has logit <= r |u| d - ½ r² d² + log p, which falls from d = |u| / r on.
    """
    norm_M = jnp.linalg.norm(u_MxQ, axis=1)
    reach_M = jnp.maximum(r * view.nearest_M, norm_M)
    logit_M = norm_M * reach_M - 0.5 * reach_M**2 + jnp.max(view.log_weights_N)
    return jnp.all(logit_M - view.own_log_weight_M < _NEGLIGIBLE_LOGIT)


def _logits(view: View, u_MxQ: jax.Array, r: jax.Array) -> _Logits:
    inner_MxN = matmul(u_MxQ, view.shifted_anchors_NxQ.T)
    inner_MxN -= _pairwise_sum(u_MxQ * view.shifted_centres_MxQ)[:, None]
    inner_MxK = _dot("mq,mkq->mk", u_MxQ, view.rival_offsets_MxKxQ)
    r = r[:, None]
    return _Logits(
        r * inner_MxN - 0.5 * r**2 * view.squared_MxN + view.log_weights_N,
        r * inner_MxK - 0.5 * r**2 * view.rival_squared_MxK + view.rival_log_weights_MxK,
    )


def _evaluate(
    view: View, u_MxQ: jax.Array, r: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Drift ā - c, log normaliser, and two probabilities.

    They are that of all anchors but the own one and the rivals, and the log of the likeliest other
    anchor's.
    """
    logits = _logits(view, u_MxQ, r)
    largest_M = jnp.maximum(jnp.max(logits.anchors_MxN, axis=1), jnp.max(logits.rivals_MxK, axis=1))
    shift_M = jnp.maximum(largest_M, view.own_log_weight_M)
    w_MxN = jnp.exp(logits.anchors_MxN - shift_M[:, None])
    w_MxK = jnp.exp(logits.rivals_MxK - shift_M[:, None])
    w_sum_M = jnp.sum(w_MxN, axis=1)
    total_M = w_sum_M + jnp.sum(w_MxK, axis=1) + jnp.exp(view.own_log_weight_M - shift_M)
    drift_MxQ = matmul(w_MxN, view.shifted_anchors_NxQ)
    drift_MxQ -= w_sum_M[:, None] * view.shifted_centres_MxQ
    drift_MxQ += _dot("mk,mkq->mq", w_MxK, view.rival_offsets_MxKxQ)
    log_total_M = shift_M + jnp.log(total_M)
    drift_MxQ /= total_M[:, None]
    return drift_MxQ, log_total_M, w_sum_M / total_M, largest_M - log_total_M


def _evaluate_vjp(
    view: View,
    u_MxQ: jax.Array,
    r: jax.Array,
    log_total_M: jax.Array,
    others_M: jax.Array,
    d_drift_MxQ: jax.Array,
    d_log_own_M: jax.Array,
    sums: _Sums,
) -> tuple[jax.Array, _Sums]:
    """Cotangent of u from those of drift and log own probability; adds the rest to `sums`.

    With h_j = d_drift·(a_j - c) and its mean h, d_logit_j = w_j (h_j - h - d_log_own), and

        d_u = r Σ_j d_logit_j (a_j - c),    d_a_j = d_logit_j (r u - r² (a_j - c)) + w_j d_drift.
    """
    logits = _logits(view, u_MxQ, r)
    w_MxN = jnp.exp(logits.anchors_MxN - log_total_M[:, None])
    w_MxK = jnp.exp(logits.rivals_MxK - log_total_M[:, None])
    w_own_M = jnp.exp(view.own_log_weight_M - log_total_M)

    h_MxN = matmul(d_drift_MxQ, view.shifted_anchors_NxQ.T)
    h_MxN -= _dot("mq,mq->m", d_drift_MxQ, view.shifted_centres_MxQ)[:, None]
    h_MxK = _dot("mq,mkq->mk", d_drift_MxQ, view.rival_offsets_MxKxQ)
    h_N_M = jnp.sum(w_MxN * h_MxN, axis=1)
    h_M = h_N_M + jnp.sum(w_MxK * h_MxK, axis=1) + d_log_own_M
    d_logit_MxN = w_MxN * (h_MxN - h_M[:, None])
    d_logit_MxK = w_MxK * (h_MxK - h_M[:, None])

    # Of the offsets a_j - c: d_logit_j r (u + r c - r a_j) + w_j d_drift, c and a_j by matmul.
    d_logit_sum_M = h_N_M - others_M * h_M
    d_logit_sum_N = jnp.sum(d_logit_MxN, axis=0)
    shrinkage_N = r**2 * d_logit_sum_N if len(r) == 1 else _dot("m,mn->n", r**2, d_logit_MxN)
    r = r[:, None]
    pull_MxQ = matmul(d_logit_MxN, view.shifted_anchors_NxQ)
    pull_MxQ -= d_logit_sum_M[:, None] * view.shifted_centres_MxQ
    push_MxQ = r * (u_MxQ + r * view.shifted_centres_MxQ)
    d_centres_MxQ = (
        d_logit_sum_M[:, None] * (r * u_MxQ) - r**2 * pull_MxQ + others_M[:, None] * d_drift_MxQ
    )
    d_rival_MxKxQ = w_MxK[:, :, None] * d_drift_MxQ[:, None] + d_logit_MxK[:, :, None] * r[
        :, None
    ] * (u_MxQ[:, None] - r[:, None] * view.rival_offsets_MxKxQ)
    d_u_MxQ = r * (pull_MxQ + _dot("mk,mkq->mq", d_logit_MxK, view.rival_offsets_MxKxQ))
    anchors_QxN = _add_product(sums.mixture.anchors_QxN, d_drift_MxQ, w_MxN)
    anchors_QxN = _add_product(anchors_QxN, push_MxQ, d_logit_MxN)
    return d_u_MxQ, _Sums(
        MixtureSums(anchors_QxN, sums.mixture.log_weights_N + d_logit_sum_N),
        sums.shrinkage_N + shrinkage_N,
        sums.centres_MxQ - d_centres_MxQ,
        sums.own_log_weight_M + d_log_own_M - w_own_M * h_M,
        sums.rival_offsets_MxKxQ + d_rival_MxKxQ,
        sums.rival_log_weights_MxK + d_logit_MxK,
    )


def _at_prior(view: View) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    centres_MxQ = view.shifted_centres_MxQ
    return view.shifted_anchors_NxQ, view.log_weights_N, centres_MxQ, view.log_joined_M


def _prior_drift(
    anchors_NxQ: jax.Array,
    log_weights_N: jax.Array,
    centres_MxQ: jax.Array,
    log_joined_M: jax.Array,
) -> jax.Array:
    """The drift at r = 0, where everything weighs what it weighs in the mixture, whatever u is."""
    mean_Q = _dot("n,nq->q", jax.nn.softmax(log_weights_N), anchors_NxQ)
    share_M = jax.nn.sigmoid(jax.nn.logsumexp(log_weights_N) - log_joined_M)
    return share_M[:, None] * (mean_Q - centres_MxQ)


def _add_prior_drift(view: View, d_drift_MxQ: jax.Array, sums: _Sums) -> _Sums:
    _, pull = jax.vjp(_prior_drift, *_at_prior(view))
    anchors_NxQ, log_weights_N, centres_MxQ, log_joined_M = pull(d_drift_MxQ)
    return sums._replace(
        mixture=MixtureSums(
            sums.mixture.anchors_QxN + anchors_NxQ.T, sums.mixture.log_weights_N + log_weights_N
        ),
        centres_MxQ=sums.centres_MxQ + centres_MxQ,
        own_log_weight_M=sums.own_log_weight_M + log_joined_M,
    )


def _add_product(sum_QxN: jax.Array, a_MxQ: jax.Array, b_MxN: jax.Array) -> jax.Array:
    """`sum_QxN + a_MxQ.T @ b_MxN`, in place, for as many dimensions at a time as there are rows.

    So the product needs no more memory than `b_MxN`, however few rows a block has.
    """
    num_dims = a_MxQ.shape[1]
    size = min(num_dims, max(SMALL_SIDE, len(a_MxQ)))

    def add(start, size, sum_QxN):
        part = functools.partial(jax.lax.dynamic_slice_in_dim, start_index=start, slice_size=size)
        product = matmul(part(a_MxQ, axis=1).T, b_MxN)
        return jax.lax.dynamic_update_slice_in_dim(sum_QxN, part(sum_QxN) + product, start, 0)

    num_parts, rest = divmod(num_dims, size)
    sum_QxN = jax.lax.fori_loop(0, num_parts, lambda k, total: add(k * size, size, total), sum_QxN)
    return add(num_dims - rest, rest, sum_QxN) if rest else sum_QxN


def _pairwise_sum(x_MxQ: jax.Array) -> jax.Array:
    """Sums of rows. Where it is used the error is common to all logits but the own one."""
    while x_MxQ.shape[1] > 1:
        x_MxQ = jnp.pad(x_MxQ, [(0, 0), (0, x_MxQ.shape[1] % 2)])
        half = x_MxQ.shape[1] // 2
        x_MxQ = x_MxQ[:, :half] + x_MxQ[:, half:]
    return x_MxQ[:, 0]
