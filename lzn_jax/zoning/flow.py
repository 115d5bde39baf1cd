"""The flow of `plain.py` and its derivative for one block of points (paper §2.2.1, A.2).

The result equals the result of `plain.py`. Three measures keep the digits of float32 and bound
memory:

1. Zone coordinates. Relative to a reference point c, its centre, a point x at noise level t has

       u = (x - (1-t) c) / t,     r = (1-t)/t,     du/dr = ā - c,
       logit_j = r u·(a_j - c) - ½ r² |a_j - c|² + log p_j,     ā = Σ_j softmax(logit)_j a_j.

   If c is the point's own anchor a_i, its logit is log p_i for all u and r, the drift is
   ā - a_i = Σ_{j≠i} w_j (a_j - a_i), and u is constant while the assignment is certain. No large
   numbers are subtracted, whereas the form in x loses all of float32 to factors of 1/t² = 1e8.
   Without an own anchor, c is the origin.
2. Differences. If an anchor nearly equals c, a matrix product loses all digits of a_j - c.
   Distances are therefore computed from differences, once per call, and so are the offsets of the K
   anchors nearest to c, its *neighbours*, which stay out of the matrix products.
3. A written-out derivative. `flow_vjp` needs only the states u_k and the log normalisers of the
   forward pass, not all that automatic differentiation would store. A step back is five matrix
   products.

The file reads downwards: inputs and outputs, preparation, flow, derivative.

Names end in axis sizes: M points, N anchors, Q latent dimensions, S solver steps, K neighbours, D
drifts that enter a state, and P, which is M, or 1 if all points share the steps.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

# In groups of four or more anchors 1e-4 apart, latents are off by 2e-4, as in the plain form. Four
# neighbours would correct that, but all gradients would take 4 to 7 % longer.
NUM_NEIGHBOURS = 2
SMALL_SIDE = 64  # matrices with a shorter side are slow to multiply
# Weights below e^-60 of other anchors change nothing, even times r = 1e4 and 1e5 anchors.
_NEGLIGIBLE_LOGIT = -60.0


matmul = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)
_dot = functools.partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)


# Inputs and outputs


class Mixture(NamedTuple):
    """Anchors and their weights, shared by all points."""

    anchors_NxQ: jax.Array
    log_weights_N: jax.Array  # unnormalised


class Joined(NamedTuple):
    """One additional anchor per point: the point's centre, which does not act on other points."""

    centres_MxQ: jax.Array
    log_weights_M: jax.Array


class Points(NamedTuple):
    """Starts of the flow, and centres of zone coordinates. Without centres, the origin is used."""

    start_MxQ: jax.Array  # noise towards the prior, latents towards the anchors
    own_M: jax.Array | None = None  # index of the anchor that is the centre
    joined: Joined | None = None


class Table(NamedTuple):
    """The S steps of a solver in one direction of the flow.

    Attributes:
      r_SxP: coordinate r = (1-t)/t of each evaluation.
      weights_SxDxP: factors of the newest drift and of older drifts in the next state. 0 in the
        last row, which no evaluation follows.
      end_weights_SxP: factor of each drift in the end point.
      prior_weight_P: factor of the drift at the prior (r = 0) in the end point, or None if unused.
      start_weight: factor of the start in the first state. 1 - start_weight is the factor of the
        centre.
      t_end: noise level of the end point. Like start_weight, it is a Python number, because 1 -
        0.999 keeps only 5 digits in float32.
    """

    r_SxP: jax.Array
    weights_SxDxP: jax.Array
    end_weights_SxP: jax.Array
    prior_weight_P: jax.Array | None
    start_weight: float
    t_end: float


class Trajectory(NamedTuple):
    """Result of the flow."""

    end_MxQ: jax.Array
    log_own_MxS: jax.Array  # log probability of the centre at each evaluation
    log_other_M: jax.Array  # largest log probability of another anchor at the last evaluation


class Record(NamedTuple):
    """Residuals of each step for `flow_vjp`."""

    u_MxSxQ: jax.Array  # states
    log_total_MxS: jax.Array  # log normalisers
    others_MxS: jax.Array  # probability of all anchors except the own anchor and the neighbours


# Preparation


def centred(mixture: Mixture) -> tuple[Mixture, jax.Array]:
    """The mixture relative to an origin (Q,) without rounding, and the origin.

    Removed anchors, which may be NaN, become copies of the anchor with the largest weight.

    The difference of two numbers is exact if one is half to twice the other (Sterbenz). In
    dimensions where all anchors are within a quarter of their middle, the origin is the middle. In
    the other dimensions it is 0, since anchors are not large compared to their differences there.
    """
    anchors_NxQ, log_weights_N = mixture
    likeliest_Q = anchors_NxQ[jnp.argmax(log_weights_N)]
    anchors_NxQ = jnp.where(jnp.isneginf(log_weights_N)[:, None], likeliest_Q, anchors_NxQ)
    low_Q, high_Q = jnp.min(anchors_NxQ, axis=0), jnp.max(anchors_NxQ, axis=0)
    middle_Q = (low_Q + high_Q) / 2
    is_exact_Q = high_Q - low_Q <= jnp.abs(middle_Q) / 2
    origin_Q = jnp.where(is_exact_Q, middle_Q, 0)
    return mixture._replace(anchors_NxQ=anchors_NxQ - origin_Q), origin_Q


class View(NamedTuple):
    """A mixture relative to the centres of a block of points, constant along the flow."""

    centres_MxQ: jax.Array
    shifted_centres_MxQ: jax.Array  # relative to the origin
    shifted_anchors_NxQ: jax.Array
    log_weights_N: jax.Array
    own_log_weight_M: jax.Array
    log_joined_M: jax.Array  # log weight of centres that are additional anchors, else -inf
    squared_MxN: jax.Array  # |a_j - c_i|²; inf for the own anchor, neighbours and removed anchors
    neighbours_MxK: jax.Array  # indices
    neighbour_offsets_MxKxQ: jax.Array  # a_j - c_i
    neighbour_squared_MxK: jax.Array
    neighbour_log_weights_MxK: jax.Array
    nearest_M: jax.Array  # distance to the nearest other anchor


def make_view(mixture: Mixture, origin_Q: jax.Array, points: Points) -> View:
    """View of a mixture that is `centred` at the origin.

    Distances are computed from differences, because |a|² + |c|² - 2 a·c loses all digits for nearly
    equal anchors.
    """
    shifted_centres_MxQ, own_log_weight_M, log_joined_M = _centres(mixture, origin_Q, points)
    squared_MxN = squared_distances(shifted_centres_MxQ, mixture.anchors_NxQ)
    squared_MxN = jnp.where(jnp.isneginf(mixture.log_weights_N), jnp.inf, squared_MxN)
    index_N = jnp.arange(len(mixture.anchors_NxQ))
    if points.own_M is not None:
        squared_MxN = jnp.where(points.own_M[:, None] == index_N, jnp.inf, squared_MxN)
    neighbours, distances = [], []
    for _ in range(NUM_NEIGHBOURS):
        neighbour_M = jnp.argmin(squared_MxN, axis=1)
        neighbours.append(neighbour_M)
        distances.append(jnp.min(squared_MxN, axis=1))
        squared_MxN = jnp.where(neighbour_M[:, None] == index_N, jnp.inf, squared_MxN)
    neighbours_MxK = jnp.stack(neighbours, axis=1)
    return View(
        centres_MxQ=shifted_centres_MxQ + origin_Q,
        shifted_anchors_NxQ=mixture.anchors_NxQ,
        shifted_centres_MxQ=shifted_centres_MxQ,
        log_weights_N=mixture.log_weights_N,
        own_log_weight_M=own_log_weight_M,
        log_joined_M=log_joined_M,
        squared_MxN=squared_MxN,
        neighbours_MxK=neighbours_MxK,
        neighbour_offsets_MxKxQ=mixture.anchors_NxQ[neighbours_MxK] - shifted_centres_MxQ[:, None],
        neighbour_squared_MxK=jnp.stack(distances, axis=1),
        neighbour_log_weights_MxK=mixture.log_weights_N[neighbours_MxK],
        nearest_M=jnp.sqrt(distances[0]),
    )


def _centres(
    mixture: Mixture, origin_Q: jax.Array, points: Points
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Centres (M, Q) relative to the origin, their log weights, and `View.log_joined_M`."""
    no_weight_M = jnp.full_like(points.start_MxQ[:, 0], -jnp.inf)
    if points.own_M is not None:
        own_M = points.own_M
        return mixture.anchors_NxQ[own_M], mixture.log_weights_N[own_M], no_weight_M
    if points.joined is not None:
        centres_MxQ, log_weights_M = points.joined
        return centres_MxQ - origin_Q, log_weights_M, log_weights_M
    return jnp.zeros_like(points.start_MxQ), no_weight_M, no_weight_M


def squared_distances(a_MxQ: jax.Array, b_NxQ: jax.Array) -> jax.Array:
    """|a_i - b_j|² (M, N) from the differences, vectorised along j.

    Blocks of 16 dimensions are summed in pairs. A running sum over all dimensions would lose a
    digit, and logits would lose r² times as much.
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


# Flow


def flow(view: View, table: Table, points: Points) -> tuple[Trajectory, Record]:
    """Integrates the flow by the steps of a solver's table, in the points' dtype."""
    own_log_weight_M = view.own_log_weight_M
    zeros_M, zeros_MxQ = jnp.zeros_like(own_log_weight_M), jnp.zeros_like(points.start_MxQ)
    unmoved = (zeros_MxQ, own_log_weight_M, zeros_M, zeros_M - jnp.inf)
    start_MxQ = table.start_weight * points.start_MxQ
    start_MxQ -= (table.start_weight - 1) * view.centres_MxQ

    def step(state, row):
        u, past, end = state
        r, weights, end_weight = row
        drift, log_total, others, log_other = jax.lax.cond(
            _is_certain(view, u, r), lambda: unmoved, lambda: _evaluate(view, u, r)
        )
        drifts = (drift, *past)
        state = (u + _combine(weights, drifts), drifts[:-1], end + end_weight[:, None] * drift)
        return state, (u, log_total, others, log_other)

    past = (zeros_MxQ,) * (table.weights_SxDxP.shape[1] - 1)
    end_MxQ = table.t_end * start_MxQ
    if table.prior_weight_P is not None:
        end_MxQ += table.prior_weight_P[:, None] * _prior_drift(view)
    state = (start_MxQ, past, end_MxQ)
    (_, _, offset_MxQ), (u_SxMxQ, log_total_SxM, others_SxM, log_other_SxM) = jax.lax.scan(
        step, state, (table.r_SxP, table.weights_SxDxP, table.end_weights_SxP)
    )
    end_MxQ = offset_MxQ + (1 - table.t_end) * view.centres_MxQ
    log_own_MxS = own_log_weight_M[:, None] - log_total_SxM.T
    trajectory = Trajectory(end_MxQ, log_own_MxS, log_other_SxM[-1])
    return trajectory, Record(u_SxMxQ.swapaxes(0, 1), log_total_SxM.T, others_SxM.T)


def _combine(weights: jax.Array, arrays: tuple[jax.Array, ...]) -> jax.Array:
    terms = [weight[:, None] * array for weight, array in zip(weights, arrays, strict=True)]
    return functools.reduce(jnp.add, terms)


def _is_certain(view: View, u_MxQ: jax.Array, r: jax.Array) -> jax.Array:
    """Whether the weights of other anchors are provably negligible for all points.

    The logit of an anchor at distance d is at most r |u| d - ½ r² d² + log p, which decreases in d
    from |u| / r on.
    """
    norm_M = jnp.linalg.norm(u_MxQ, axis=1)
    reach_M = jnp.maximum(r * view.nearest_M, norm_M)
    logit_M = norm_M * reach_M - 0.5 * reach_M**2 + jnp.max(view.log_weights_N)
    return jnp.all(logit_M - view.own_log_weight_M < _NEGLIGIBLE_LOGIT)


def _logits(view: View, u_MxQ: jax.Array, r: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Logits of anchors (-inf for own, neighbouring and removed anchors) and of neighbours."""
    inner_MxN = matmul(u_MxQ, view.shifted_anchors_NxQ.T)
    inner_MxN -= _pairwise_sum(u_MxQ * view.shifted_centres_MxQ)[:, None]
    inner_MxK = _dot("mq,mkq->mk", u_MxQ, view.neighbour_offsets_MxKxQ)
    r = r[:, None]
    logits_MxN = r * inner_MxN - 0.5 * r**2 * view.squared_MxN + view.log_weights_N
    squared_MxK, log_weights_MxK = view.neighbour_squared_MxK, view.neighbour_log_weights_MxK
    return logits_MxN, r * inner_MxK - 0.5 * r**2 * squared_MxK + log_weights_MxK


def _pairwise_sum(x_MxQ: jax.Array) -> jax.Array:
    """Sums of rows. Their rounding errors shift the logits of all anchors but the own anchor."""
    while x_MxQ.shape[1] > 1:
        x_MxQ = jnp.pad(x_MxQ, [(0, 0), (0, x_MxQ.shape[1] % 2)])
        half = x_MxQ.shape[1] // 2
        x_MxQ = x_MxQ[:, :half] + x_MxQ[:, half:]
    return x_MxQ[:, 0]


def _evaluate(
    view: View, u_MxQ: jax.Array, r: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Drift ā - c, log normaliser, `Record.others` and `Trajectory.log_other` of one evaluation."""
    logits_MxN, logits_MxK = _logits(view, u_MxQ, r)
    largest_M = jnp.maximum(jnp.max(logits_MxN, axis=1), jnp.max(logits_MxK, axis=1))
    shift_M = jnp.maximum(largest_M, view.own_log_weight_M)
    w_MxN = jnp.exp(logits_MxN - shift_M[:, None])
    w_MxK = jnp.exp(logits_MxK - shift_M[:, None])
    w_sum_M = jnp.sum(w_MxN, axis=1)
    total_M = w_sum_M + jnp.sum(w_MxK, axis=1) + jnp.exp(view.own_log_weight_M - shift_M)
    drift_MxQ = matmul(w_MxN, view.shifted_anchors_NxQ)
    drift_MxQ -= w_sum_M[:, None] * view.shifted_centres_MxQ
    drift_MxQ += _dot("mk,mkq->mq", w_MxK, view.neighbour_offsets_MxKxQ)
    log_total_M = shift_M + jnp.log(total_M)
    drift_MxQ /= total_M[:, None]
    return drift_MxQ, log_total_M, w_sum_M / total_M, largest_M - log_total_M


def _prior_drift(view: View) -> jax.Array:
    """The drift at r = 0, where the posterior is the mixture's weights for every u."""
    mean_Q = _dot("n,nq->q", jax.nn.softmax(view.log_weights_N), view.shifted_anchors_NxQ)
    share_M = jax.nn.sigmoid(jax.nn.logsumexp(view.log_weights_N) - view.log_joined_M)
    return share_M[:, None] * (mean_Q - view.shifted_centres_MxQ)


def all_log_assignments(
    view: View, own_M: jax.Array, u_MxQ: jax.Array, r: jax.Array, log_total_M: jax.Array
) -> jax.Array:
    """Log soft assignments (M, N) at states whose centres are the anchors `own_M`."""
    logits_MxN, logits_MxK = _logits(view, u_MxQ, r)
    rows_M = jnp.arange(len(own_M))
    # With fewer than K other anchors, some neighbours are copies at an infinite distance.
    logits_MxN = logits_MxN.at[rows_M[:, None], view.neighbours_MxK].max(logits_MxK)
    logits_MxN = logits_MxN.at[rows_M, own_M].set(view.own_log_weight_M)
    return logits_MxN - log_total_M[:, None]


# Derivative


class MixtureSums(NamedTuple):
    """Cotangents of a mixture, summed over points."""

    anchors_QxN: jax.Array  # transposed, which makes the matrix products faster
    log_weights_N: jax.Array


class _Sums(NamedTuple):
    """Cotangents of the mixture and of the view's fields, summed over steps."""

    mixture: MixtureSums  # to which -shrinkage_j (shifted a_j) is added at the end
    shrinkage_N: jax.Array
    centres_MxQ: jax.Array
    own_log_weight_M: jax.Array
    neighbour_offsets_MxKxQ: jax.Array
    neighbour_log_weights_MxK: jax.Array


def weights_by_drift(weights_SxDxP: jax.Array) -> list[jax.Array]:
    """D arrays (S, P): factors of each drift in the next state, the state after it, and so on."""
    ages = range(weights_SxDxP.shape[1])
    return [jnp.pad(weights_SxDxP[age:, age], [(0, age), (0, 0)]) for age in ages]


def flow_vjp(
    view: View,
    table: Table,
    points: Points,
    record: Record,
    d_end_MxQ: jax.Array,
    d_log_p: jax.Array,
    mixture_sums: MixtureSums,
) -> tuple[Points, MixtureSums]:
    """Cotangents of the points, and `mixture_sums` plus the cotangent of the mixture.

    `d_log_p` is the cotangent of `Trajectory.log_own_MxS`, or of `all_log_assignments` (M, S, N).
    """
    weights_SxDxP = jnp.stack(weights_by_drift(table.weights_SxDxP), axis=1)

    def step(state, row):
        d_u, d_later, sums = state  # of the state after this step, and of later states
        r, weights, end_weight, (u, log_total, others), d_log_p = row
        d_states = (d_u, *d_later)
        d_drift = _combine(weights, d_states) + end_weight[:, None] * d_end_MxQ
        d_log = _by_anchor(view, points.own_M, d_log_p)
        d_here, sums = jax.lax.cond(
            _is_certain(view, u, r) & (d_log_p.ndim == 1),
            lambda: (jnp.zeros_like(d_u), sums),
            lambda: _evaluate_vjp(view, u, r, log_total, others, d_drift, d_log, sums),
        )
        return (d_u + d_here, d_states[:-1], sums), None

    zeros = jnp.zeros_like(d_end_MxQ)
    summed = (
        view.log_weights_N,
        view.centres_MxQ,
        view.own_log_weight_M,
        view.neighbour_offsets_MxKxQ,
        view.neighbour_log_weights_MxK,
    )
    sums = _Sums(mixture_sums, *map(jnp.zeros_like, summed))
    rows = (
        table.r_SxP,
        weights_SxDxP,
        table.end_weights_SxP,
        *jax.tree.map(lambda a: a.swapaxes(0, 1), (record, d_log_p)),
    )
    state = (zeros, (zeros,) * (weights_SxDxP.shape[1] - 1), sums)
    (d_start_MxQ, _, sums), _ = jax.lax.scan(step, state, rows, reverse=True)
    if table.prior_weight_P is not None:
        sums = _add_prior_drift(view, table.prior_weight_P[:, None] * d_end_MxQ, sums)
    d_start_MxQ += table.t_end * d_end_MxQ

    # A view is a function of points and mixture, so its cotangents are passed on to them.
    d_centres_MxQ = (
        sums.centres_MxQ
        - jnp.sum(sums.neighbour_offsets_MxKxQ, axis=1)
        + (1 - table.t_end) * d_end_MxQ
        - (table.start_weight - 1) * d_start_MxQ
    )
    anchors_QxN, log_weights_N = sums.mixture
    anchors_QxN -= sums.shrinkage_N * view.shifted_anchors_NxQ.T
    anchors_QxN = anchors_QxN.at[:, view.neighbours_MxK].add(
        jnp.moveaxis(sums.neighbour_offsets_MxKxQ, -1, 0)
    )
    log_weights_N = log_weights_N.at[view.neighbours_MxK].add(sums.neighbour_log_weights_MxK)
    d_points = Points(table.start_weight * d_start_MxQ)
    if points.own_M is not None:
        anchors_QxN = anchors_QxN.at[:, points.own_M].add(d_centres_MxQ.T)
        log_weights_N = log_weights_N.at[points.own_M].add(sums.own_log_weight_M)
    elif points.joined is not None:
        d_points = d_points._replace(joined=Joined(d_centres_MxQ, sums.own_log_weight_M))
    return d_points, MixtureSums(anchors_QxN, log_weights_N)


def _by_anchor(
    view: View, own_M: jax.Array | None, d_log_p: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Cotangents of log probabilities: of the centre (M,), other anchors (M, N), neighbours (M, K).

    `d_log_p` is (M,) for the centre alone, else (M, N).
    """
    if d_log_p.ndim == 1:
        none = jnp.zeros_like(d_log_p, shape=(1, 1))
        return d_log_p, none, none
    rows_M = jnp.arange(len(d_log_p))
    d_log_MxK = d_log_p[rows_M[:, None], view.neighbours_MxK]
    d_log_MxN, d_log_MxK = (
        jnp.where(jnp.isinf(squared), 0, d_log)  # absent, or in another row
        for squared, d_log in (
            (view.squared_MxN, d_log_p),
            (view.neighbour_squared_MxK, d_log_MxK),
        )
    )
    return d_log_p[rows_M, own_M], d_log_MxN, d_log_MxK


def _evaluate_vjp(
    view: View,
    u_MxQ: jax.Array,
    r: jax.Array,
    log_total_M: jax.Array,
    others_M: jax.Array,
    d_drift_MxQ: jax.Array,
    d_log: tuple[jax.Array, jax.Array, jax.Array],
    sums: _Sums,
) -> tuple[jax.Array, _Sums]:
    """Cotangent of u from the cotangents of drift and log probabilities, and `sums` plus the rest.

    With h_j = d_drift·(a_j - c), its mean h and the sum d of all d_log_j, each anchor except the
    centre has d_logit_j = w_j (h_j - h - d) + d_log_j, and

        d_u = r Σ_j d_logit_j (a_j - c),    d_a_j = d_logit_j (r u - r² (a_j - c)) + w_j d_drift.
    """
    logits_MxN, logits_MxK = _logits(view, u_MxQ, r)
    w_MxN = jnp.exp(logits_MxN - log_total_M[:, None])
    w_MxK = jnp.exp(logits_MxK - log_total_M[:, None])
    w_own_M = jnp.exp(view.own_log_weight_M - log_total_M)

    h_MxN = matmul(d_drift_MxQ, view.shifted_anchors_NxQ.T)
    h_MxN -= _dot("mq,mq->m", d_drift_MxQ, view.shifted_centres_MxQ)[:, None]
    h_MxK = _dot("mq,mkq->mk", d_drift_MxQ, view.neighbour_offsets_MxKxQ)
    d_log_own_M, d_log_MxN, d_log_MxK = d_log
    d_log_N_M = jnp.sum(d_log_MxN, axis=1)
    h_N_M = jnp.sum(w_MxN * h_MxN, axis=1)
    h_M = h_N_M + jnp.sum(w_MxK * h_MxK, axis=1) + d_log_own_M
    h_M += d_log_N_M + jnp.sum(d_log_MxK, axis=1)
    d_logit_MxN = w_MxN * (h_MxN - h_M[:, None]) + d_log_MxN
    d_logit_MxK = w_MxK * (h_MxK - h_M[:, None]) + d_log_MxK

    # The cotangent of the offset a_j - c is d_logit_j r (u + r c - r a_j) + w_j d_drift. Matrix
    # products sum the terms in u + r c, and `shrinkage_N` sums the terms in a_j.
    d_logit_sum_M = h_N_M - others_M * h_M + d_log_N_M
    d_logit_sum_N = jnp.sum(d_logit_MxN, axis=0)
    shrinkage_N = r**2 * d_logit_sum_N if len(r) == 1 else _dot("m,mn->n", r**2, d_logit_MxN)
    r = r[:, None]
    pull_MxQ = matmul(d_logit_MxN, view.shifted_anchors_NxQ)
    pull_MxQ -= d_logit_sum_M[:, None] * view.shifted_centres_MxQ
    push_MxQ = r * (u_MxQ + r * view.shifted_centres_MxQ)
    d_centres_MxQ = (
        d_logit_sum_M[:, None] * (r * u_MxQ) - r**2 * pull_MxQ + others_M[:, None] * d_drift_MxQ
    )
    push_MxKxQ = u_MxQ[:, None] - r[:, None] * view.neighbour_offsets_MxKxQ
    push_MxKxQ = d_logit_MxK[:, :, None] * r[:, None] * push_MxKxQ
    d_neighbour_MxKxQ = w_MxK[:, :, None] * d_drift_MxQ[:, None] + push_MxKxQ
    d_u_MxQ = r * (pull_MxQ + _dot("mk,mkq->mq", d_logit_MxK, view.neighbour_offsets_MxKxQ))
    anchors_QxN = _add_product(sums.mixture.anchors_QxN, d_drift_MxQ, w_MxN)
    anchors_QxN = _add_product(anchors_QxN, push_MxQ, d_logit_MxN)
    return d_u_MxQ, _Sums(
        MixtureSums(anchors_QxN, sums.mixture.log_weights_N + d_logit_sum_N),
        sums.shrinkage_N + shrinkage_N,
        sums.centres_MxQ - d_centres_MxQ,
        sums.own_log_weight_M + d_log_own_M - w_own_M * h_M,
        sums.neighbour_offsets_MxKxQ + d_neighbour_MxKxQ,
        sums.neighbour_log_weights_MxK + d_logit_MxK,
    )


def _add_product(sum_QxN: jax.Array, a_MxQ: jax.Array, b_MxN: jax.Array) -> jax.Array:
    """`sum_QxN + a_MxQ.T @ b_MxN`, in place, in parts of M dimensions.

    The product therefore needs no more memory than `b_MxN`, however small the block.
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


def _add_prior_drift(view: View, d_drift_MxQ: jax.Array, sums: _Sums) -> _Sums:
    (d_view,) = jax.vjp(_prior_drift, view)[1](d_drift_MxQ)
    anchors_QxN, log_weights_N = sums.mixture
    return sums._replace(
        mixture=MixtureSums(
            anchors_QxN + d_view.shifted_anchors_NxQ.T, log_weights_N + d_view.log_weights_N
        ),
        centres_MxQ=sums.centres_MxQ + d_view.shifted_centres_MxQ,
        own_log_weight_M=sums.own_log_weight_M + d_view.log_joined_M,
    )
