"""Solvers of the latent flow as tables of numbers (paper §2.2.1, A.2).

In zone coordinates the flow is du/dr = ā - c with r = (1-t)/t, and all solvers are linear in the
start and in the drifts d = ā - c that they have seen. A solver is therefore a table, a row a step:

    u_0 = start_weight start - start_centre_weight c,
    evaluate d_k at (u_k, r_k),   u_{k+1} = u_k + Σ_l weights_{k,l} d_{k-l},
    end point x = end_centre_weight c + t_end u_0 + Σ_k end_weights_k d_k,

where the start is noise ε at c (u_0 = ε) towards the prior, and a latent, x at t_start, towards
the anchors.

The end point has a row of its own because u = (x - (1-t) c)/t has no finite value at t = 0.

The paper's two solvers are here: one table for all points, whatever the anchors.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Literal, Protocol, runtime_checkable

import jax.numpy as jnp
import numpy as np

from lzn_jax.zoning.flow import Mixture, Points, Table, View

SMALLEST_R = 1e-18  # for 0, at the prior: its square times an infinite distance is infinite

Tables = Callable[[View, Points], Table]  # the table for a block of points


@runtime_checkable
class Solver(Protocol):
    """What zoning asks of a solver: a frozen, hashable setting that makes tables for a mixture."""

    @property
    def num_steps(self) -> int:
        """S, the number of evaluations."""

    def towards_prior(self, mixture: Mixture) -> Tables:
        """Tables that take an anchor's neighbourhood to its latent."""

    def towards_anchors(self, mixture: Mixture) -> Tables:
        """Tables that take a latent to the anchor in whose zone it lies."""


class _Uniform:
    """A solver with the same steps for all points, uniform in t."""

    num_steps: int

    def _ends(self) -> dict[str, tuple[float, float]]:
        raise NotImplementedError

    @property
    def orders(self) -> list[int]:
        """Of each step."""
        return [1] * self.num_steps

    def times(self, towards: Literal["prior", "anchors"]) -> np.ndarray:
        """Noise levels t (S+1,) from start to end."""
        return np.linspace(*self._ends()[towards], self.num_steps + 1)

    def towards_prior(self, mixture: Mixture) -> Tables:
        """One table, whatever the mixture."""
        return _tables(self.times("prior"), self.orders, mixture)

    def towards_anchors(self, mixture: Mixture) -> Tables:
        """One table, whatever the mixture."""
        return _tables(self.times("anchors"), self.orders, mixture)


@dataclasses.dataclass(frozen=True)
class Euler(_Uniform):
    """Euler's method: order 1, one evaluation a step, uniform in t (paper §4; exact in r).

    Towards the prior t runs from t_min to 1; towards the anchors from 1 to 0, where the last
    evaluation is at t = 1/num_steps and the end point is the posterior mean ā found there.
    """

    num_steps: int
    t_min: float = 1e-4

    def __post_init__(self):
        if self.num_steps < 1:
            raise ValueError(f"Euler needs num_steps >= 1, got {self.num_steps}")
        if not 0 < self.t_min < 1:
            raise ValueError(f"Euler needs 0 < t_min < 1, got {self.t_min}")

    def _ends(self) -> dict[str, tuple[float, float]]:
        return {"prior": (self.t_min, 1.0), "anchors": (1.0, 0.0)}


@dataclasses.dataclass(frozen=True)
class DPMSolver(_Uniform):
    """DPM-Solver++ multistep with data prediction ā, uniform in t (paper C.2; arXiv:2211.01095).

    One evaluation a step. Orders 1 and 2 converge as named; order 3 follows the formula behind the
    paper's numbers, which halves the third-order term: its error is smaller but falls with order 2.
    The first steps have lower order; with fewer than 10 steps so do the last ones. Both directions
    stay within [t_min, t_max]: a latent is the state at t_max, a decoded point that at t_min.
    """

    num_steps: int
    order: int = 3
    t_min: float = 1e-3
    t_max: float = 1 - 1e-3

    def __post_init__(self):
        if self.order not in (1, 2, 3):
            raise ValueError(f"DPMSolver has order 1, 2 or 3, got {self.order}")
        if self.num_steps < self.order:
            raise ValueError(
                f"DPMSolver of order {self.order} needs num_steps >= {self.order}, "
                f"got {self.num_steps}"
            )
        if not 0 < self.t_min < self.t_max < 1:
            raise ValueError(
                f"DPMSolver needs 0 < t_min < t_max < 1, got {self.t_min}, {self.t_max}"
            )

    def _ends(self) -> dict[str, tuple[float, float]]:
        return {"prior": (self.t_min, self.t_max), "anchors": (self.t_max, self.t_min)}

    @property
    def orders(self) -> list[int]:
        """Of each step."""
        orders = [min(self.order, k + 1) for k in range(self.num_steps)]
        if self.num_steps < 10:
            orders = [min(order, self.num_steps - k) for k, order in enumerate(orders)]
        return orders


def mean_weights(times: np.ndarray, orders: Sequence[int]) -> np.ndarray:
    """Factors (S, K) of the newest mean ā, the one before it, ... in the state after each step.

    That is t'/t x + Σ_l weights[k, l] ā_{k-l}; a step of order 1 is Euler's.
    """
    weights = np.zeros((len(orders), max(orders)))
    weights[:, 0] = 1 - times[1:] / times[:-1]
    for k, order in enumerate(orders):
        if order > 1:
            weights[k, :order] += _higher_order(times[k + 1 - order : k + 2], order)
    return weights


def _tables(times: np.ndarray, orders: Sequence[int], mixture: Mixture) -> Tables:
    """The rows for the grid `times` (S+1,), row k of order `orders[k]`; the same for all points."""
    t_end, after = times[-1], times[1:-1]
    states = mean_weights(times, orders)  # of the state t u, which is finite where u is not
    weights = np.append(states[:-1] / after[:, None], np.zeros_like(states[:1]), axis=0)
    ends = np.append(t_end / after, 1.0)[:, None] * states
    end_weights = np.sum([np.pad(end[age:], (0, age)) for age, end in enumerate(ends.T)], axis=0)
    return shared_table(times, weights, end_weights, mixture)


def shared_table(
    times: np.ndarray, weights: np.ndarray, end_weights: np.ndarray, mixture: Mixture
) -> Tables:
    """One table for all points, of evaluations at `times[:-1]` and an end at `times[-1]` (S+1,).

    `weights` (S, K) are factors of the newest drift, the one before it, ... in the next state, 0 in
    the last row; `end_weights` (S,) those of each drift in the end point.
    """
    t_end = times[-1]
    r = np.maximum((1 - times[:-1]) / times[:-1], SMALLEST_R)
    start_weight = 1.0 if t_end > times[0] else 1 / times[0]
    numbers = (start_weight, start_weight - 1, t_end, 1 - t_end)
    cast = functools.partial(jnp.asarray, dtype=mixture.anchors_NxQ.dtype)
    table = Table(
        cast(r[:, None]),
        cast(weights[..., None]),
        cast(end_weights[:, None]),
        None,
        *map(cast, numbers),
    )
    return lambda view, points: table


def _higher_order(times: np.ndarray, order: int) -> np.ndarray:
    """What orders 2, 3 add to Euler's weight at the last of the times (arXiv:2211.01095, B.2)."""
    lam = np.log((1 - times) / times)
    h = lam[-1] - lam[-2]
    phi1 = np.expm1(-h)
    ratio0 = (lam[-2] - lam[-3]) / h
    if order == 2:
        return -0.5 * (1 - times[-1]) * phi1 * np.array([1.0, -1.0]) / ratio0
    ratio1 = (lam[-3] - lam[-4]) / h
    difference0 = np.array([1.0, -1.0, 0.0]) / ratio0
    difference1 = np.array([0.0, 1.0, -1.0]) / ratio1
    second = (difference0 - difference1) / (ratio0 + ratio1)
    first = difference0 + ratio0 * second
    phi2 = phi1 / h + 1
    phi3 = phi2 / h - 0.5
    return (1 - times[-1]) * (phi2 * first - phi3 * second)
