"""Adams-Bashforth on a grid that the anchors choose: zones that converge, whatever their scale.

The flow depends on r a alone. On a grid uniform in t the steps are therefore too long or too many,
as the anchors are far apart or near; here the grid of a point follows from its anchor, its noise
and the other anchors. It has no gradient.

Towards the prior a point moves from the first r at which other anchors can weigh e^-6; from there

    r_k = r_0 sinh((1 - k/S) asinh(r_start / r_0)),     r_0 = 3 / rms distance of the anchors,

is geometric where single anchors matter and even where all do. The scheme is linear multistep in
r. Drifts before the start are 0, and the one at r = 0 is known without an evaluation.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from lzn_jax.zoning.flow import Mixture, Points, Table, View, matmul, squared_distances
from lzn_jax.zoning.solvers import SMALLEST_R, Tables

_BEND = 3.0  # r_0 times the rms distance: where the grid turns from even to geometric
_LOG_WEIGHT = 6.0  # where points start, other anchors together weigh at most e^-6
_EQUAL = 3e-6  # of the rms distance: a sample encoded twice has anchors as near as that
_SAMPLED = 256  # anchors whose nearest neighbours say where the flow towards the anchors ends
_ORDER_TOWARDS_ANCHORS = 2


@dataclasses.dataclass(frozen=True)
class AdamsBashforth:
    """Adams-Bashforth in r with variable steps, one evaluation a step (ours).

    Latents of 20 evaluations are within 0.05 % of the exact ones for anchors of any scale, within
    0.4 % for clusters. Towards the anchors the order is at most 2, by which fewest latents end at
    another anchor than their own; the end point is the posterior mean at the last evaluation.
    """

    num_steps: int
    order: int = 3

    def __post_init__(self):
        if self.num_steps < 1:
            raise ValueError(f"AdamsBashforth needs num_steps >= 1, got {self.num_steps}")
        if self.order not in (1, 2, 3):
            raise ValueError(f"AdamsBashforth has order 1, 2 or 3, got {self.order}")

    def towards_prior(self, mixture: Mixture) -> Tables:
        """A grid a point."""
        steps, before = self.num_steps, self.order - 1  # nodes at which nothing moves yet
        shares = 1 - np.arange(-before, steps + 1) / steps

        def table(view: View, points: Points) -> Table:
            nodes = _grid(*_bend_and_start(view, points), shares[:, None])
            # What the step from node k knows: the nodes k, k-1, ...; the last step the prior too.
            seen = [nodes[before - age : before - age + steps] for age in range(self.order)]
            steady = _integrals([node[:-1] for node in seen], nodes[before + 1 : -1])
            *last, prior_weight_M = _integrals([*(node[-1] for node in seen), nodes[-1]], nodes[-1])
            factors = jnp.concatenate([jnp.stack(steady, axis=1), jnp.stack(last)[None]])
            factors = factors[:, :steps]  # what is older has not moved
            return _table(
                jnp.maximum(nodes[before:-1], SMALLEST_R),
                factors.at[-1].set(0),
                _by_drift(factors),
                prior_weight_M,
            )

        return table

    def towards_anchors(self, mixture: Mixture) -> Tables:
        """One grid for all points, from r = 0 to where neighbouring anchors are told apart."""
        steps, order = self.num_steps, min(self.order, _ORDER_TOWARDS_ANCHORS, self.num_steps)
        r = _grid(*_scale(mixture), np.arange(steps) / max(1, steps - 1))[:, None]
        factors = jnp.zeros((steps, order, 1), r.dtype)
        for k in range(min(order, steps) - 1):  # the first steps know fewer nodes
            known = [r[k - age] for age in range(k + 1)]
            factors = factors.at[k, : len(known)].set(jnp.stack(_integrals(known, r[k + 1])))
        known = [r[order - 1 - age : steps - 1 - age] for age in range(order)]
        steady = jnp.stack(_integrals(known, r[order:]), axis=1)
        factors = factors.at[order - 1 : steps - 1].set(steady)
        end_weights = jnp.zeros_like(r).at[-1].set(1)  # the end point is the last mean
        table = _table(jnp.maximum(r, SMALLEST_R), factors, end_weights)
        return lambda view, points: table


def _grid(bend: jax.Array, last: jax.Array, shares: np.ndarray) -> jax.Array:
    """Nodes r of a grid that is even up to `bend` and geometric from there to `last`, share 1."""
    return bend * jnp.sinh(jnp.asarray(shares, bend.dtype) * jnp.arcsinh(last / bend))


def _by_drift(factors_SxKxP: jax.Array) -> jax.Array:
    """What each drift adds up to in all states after it."""
    ages = range(factors_SxKxP.shape[1])
    columns = [jnp.pad(factors_SxKxP[age:, age], [(0, age), (0, 0)]) for age in ages]
    return functools.reduce(jnp.add, columns)


def _integrals(nodes: Sequence[jax.Array], end: jax.Array) -> list[jax.Array]:
    """Weights of a function's values at up to 4 nodes in its integral from the first node to `end`.

    The function is the polynomial through its values, which two points of Gauss integrate exactly.
    """
    offsets = [node - nodes[0] for node in nodes]
    length = end - nodes[0]
    places = [length * (0.5 + sign * math.sqrt(1 / 12)) for sign in (-1, 1)]

    def basis(own: jax.Array, others: list[jax.Array], place: jax.Array) -> jax.Array:
        ratios = [(place - other) / (own - other) for other in others]
        return math.prod(ratios, start=jnp.ones_like(place))

    others = [offsets[:i] + offsets[i + 1 :] for i in range(len(offsets))]
    return [
        length / 2 * sum(basis(own, rest, place) for place in places)
        for own, rest in zip(offsets, others, strict=True)
    ]


def _table(
    r_SxP: jax.Array,
    weights_SxKxP: jax.Array,
    end_weights_SxP: jax.Array,
    prior_weight_P: jax.Array | None = None,
) -> Table:
    """From u = noise to u at the prior, or from a latent, u at r = 0, to the mean of anchors."""
    is_at_prior = prior_weight_P is not None
    start, end = jnp.ones((), r_SxP.dtype), jnp.asarray(is_at_prior, r_SxP.dtype)
    zero = jnp.zeros_like(start)
    return Table(r_SxP, weights_SxKxP, end_weights_SxP, prior_weight_P, start, zero, end, 1 - end)


def _bend_and_start(view: View, points: Points) -> tuple[jax.Array, jax.Array]:
    """Where the grid of each point bends, and the largest r at which it starts to move.

    An anchor at distance d, whose offset has the inner product g d with the noise, has the logit
    r d g - r² d² / 2 above those of equal weight; it is solved for the one that matters.
    """
    noise_MxQ = points.start_MxQ
    log_total_N = jax.nn.logsumexp(view.log_weights_N)
    log_total_M = jnp.logaddexp(log_total_N, view.log_joined_M)
    inner_MxN = matmul(noise_MxQ, view.shifted_anchors_NxQ.T)
    inner_MxN -= jnp.sum(noise_MxQ * view.shifted_centres_MxQ, axis=1, keepdims=True)
    inner_MxK = jnp.sum(noise_MxQ[:, None] * view.rival_offsets_MxKxQ, axis=2)
    groups = (
        (inner_MxN, view.squared_MxN, view.log_weights_N),
        (inner_MxK, view.rival_squared_MxK, view.rival_log_weights_MxK),
    )

    def squared_mean(squared: jax.Array, log_weights: jax.Array) -> jax.Array:
        weights = jnp.exp(log_weights - log_total_M[:, None])
        return jnp.sum(jnp.where(jnp.isinf(squared), 0, weights * squared), axis=1)

    rms_M = jnp.sqrt(sum(squared_mean(squared, weights) for _, squared, weights in groups))
    rms_M = jnp.where(rms_M > 0, rms_M, 1)
    count_M = jnp.sum(view.log_weights_N > -jnp.inf) + jnp.isfinite(view.log_joined_M)

    def start(inner: jax.Array, squared: jax.Array, log_weights: jax.Array) -> jax.Array:
        matters = jnp.isfinite(squared) & (squared > (_EQUAL * rms_M[:, None]) ** 2)
        distance = jnp.sqrt(jnp.where(matters, squared, 1))
        slope = inner / distance
        excess = _LOG_WEIGHT + log_weights + (jnp.log(count_M) - view.own_log_weight_M)[:, None]
        root = jnp.sqrt(slope**2 + 2 * jnp.maximum(excess, 0))
        return jnp.max(jnp.where(matters, (slope + root) / distance, 0), axis=1)

    bend_M = _BEND / rms_M
    start_M = functools.reduce(jnp.maximum, (start(*group) for group in groups))
    return bend_M, jnp.where(start_M > 0, start_M, bend_M)


def _scale(mixture: Mixture) -> tuple[jax.Array, jax.Array]:
    """Where the grid that all points share bends, and its last r, of anchors that are not removed.

    There nearest neighbours are told apart, the median of a sample. Those that are much nearer are
    not, and need not be.
    """
    anchors_NxQ, log_weights_N = mixture
    is_kept_N = log_weights_N > -jnp.inf
    weights_N = jax.nn.softmax(log_weights_N)
    mean_Q = jnp.sum(weights_N * anchors_NxQ.T, axis=1)
    squared_N = jnp.sum((anchors_NxQ - mean_Q) ** 2, axis=1)
    rms = jnp.sqrt(2 * jnp.sum(weights_N * squared_N))

    count = jnp.sum(is_kept_N)
    shares = np.linspace(0, 1, min(_SAMPLED, len(anchors_NxQ)))
    places = jnp.round(jnp.asarray(shares, rms.dtype) * (count - 1)).astype(jnp.int32)
    sample = jnp.argsort(~is_kept_N)[places]  # kept ones come first
    squared = squared_distances(anchors_NxQ[sample], anchors_NxQ)
    squared = jnp.where(is_kept_N & (squared > (_EQUAL * rms) ** 2), squared, jnp.inf)
    nearest = jnp.sqrt(jnp.min(squared, axis=1))
    median = jnp.nanmedian(jnp.where(jnp.isinf(nearest), jnp.nan, nearest))

    rms = jnp.where(rms > 0, rms, 1)
    last = 1.5 * (2 * jnp.sqrt(2 * jnp.log(count.astype(rms.dtype))) + 1) / median
    return _BEND / rms, jnp.where(jnp.isnan(last), _BEND / rms, last)
