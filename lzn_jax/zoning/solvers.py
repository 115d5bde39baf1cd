"""Solvers of the latent flow as tables of numbers, and the paper's two solvers (§2.2.1, A.2).

In zone coordinates the flow is du/dr = ā - c with r = (1-t)/t, and every solver is linear in the
start and in the drifts d = ā - c evaluated so far. A solver is therefore a table, one row per step:

    u_0 = start_weight start - start_centre_weight c,
    evaluate d_k at (u_k, r_k),   u_{k+1} = u_k + Σ_l weights_{k,l} d_{k-l},
    end point x = end_centre_weight c + t_end u_0 + Σ_k end_weights_k d_k,

where the start is the noise ε (u_0 = ε) towards the prior, and a latent, x at t_start, towards the
anchors. The end point has weights of its own because u = (x - (1-t) c)/t is not finite at t = 0.

The tables of the paper's solvers are the same for all points and anchors.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Literal, Protocol, runtime_checkable

import jax.numpy as jnp
import numpy as np

from lzn_jax.zoning.flow import Mixture, Points, Table, View

SMALLEST_R = 1e-18  # replaces r = 0 at the prior: r² times an infinite distance stays infinite

Tables = Callable[[View, Points], Table]  # the table of a block of points


@runtime_checkable
class Solver(Protocol):
    """Interface of solvers: frozen, hashable settings that make tables for a mixture."""

    @property
    def num_steps(self) -> int:
        """Number of evaluations S."""

    def towards_prior(self, mixture: Mixture) -> Tables:
        """Tables for the flow from anchors to latents."""

    def towards_anchors(self, mixture: Mixture) -> Tables:
        """Tables for the flow from latents to anchors."""


class _OnGrid:
    """A solver on noise levels that are the same for all points, uniform unless overridden."""

    num_steps: int

    def _ends(self) -> dict[str, tuple[float, float]]:
        """First and last noise level in each direction."""
        raise NotImplementedError

    @property
    def orders(self) -> list[int]:
        """Order of each step."""
        return [1] * self.num_steps

    def times(self, towards: Literal["prior", "anchors"]) -> np.ndarray:
        """Noise levels t (S+1,) from the start of the flow to its end."""
        return np.linspace(*self._ends()[towards], self.num_steps + 1)

    def towards_prior(self, mixture: Mixture) -> Tables:
        """One table for all points."""
        return _tables(self.times("prior"), self.orders, mixture)

    def towards_anchors(self, mixture: Mixture) -> Tables:
        """One table for all points."""
        return _tables(self.times("anchors"), self.orders, mixture)


@dataclasses.dataclass(frozen=True)
class Euler(_OnGrid):
    """Euler's method with steps uniform in t, one evaluation per step (paper §4).

    A step is exact if ā is constant. Towards the prior, t runs from t_min to 1. Towards the anchors
    it runs from 1 to 0: the last evaluation is at t = 1/num_steps, and the end point is the
    posterior mean ā there.
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
class DPMSolver(_OnGrid):
    """Multistep DPM-Solver++ with data prediction ā, uniform in t (paper C.2; arXiv:2211.01095).

    One evaluation per step. Orders 1 and 2 converge as named. Order 3 uses the formula of the
    paper's code, which halves the third-order term: its error is smaller than that of order 2 but
    converges with order 2. The first steps have lower order; with fewer than 10 steps, so do the
    last ones. Both directions stay within [t_min, t_max]: a latent is the state at t_max, a decoded
    point the state at t_min.
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
        """Order of each step."""
        orders = [min(self.order, k + 1) for k in range(self.num_steps)]
        if self.num_steps < 10:
            orders = [min(order, self.num_steps - k) for k, order in enumerate(orders)]
        return orders


@dataclasses.dataclass(frozen=True)
class EulerThrough(_OnGrid):
    """Euler's method from the prior, r = 0, to the anchors, with an evaluation at each given r."""

    sharpness: tuple[float, ...]  # r, increasing
    num_steps: int = dataclasses.field(init=False)

    def __post_init__(self):
        r = np.array([0.0, *self.sharpness])
        if len(r) < 2 or not np.all(np.isfinite(r)) or np.any(np.diff(r) <= 0):
            raise ValueError(f"sharpness must be increasing numbers > 0, got {self.sharpness}")
        object.__setattr__(self, "num_steps", len(r))

    def times(self, towards: Literal["prior", "anchors"]) -> np.ndarray:
        """Noise levels t (S+1,) towards the anchors; the other direction raises ValueError."""
        if towards == "prior":
            raise ValueError("EulerThrough has no flow towards the prior")
        return 1 / (1 + np.array([0.0, *self.sharpness, np.inf]))


def mean_weights(times: np.ndarray, orders: Sequence[int]) -> np.ndarray:
    """Factors (S, K) of the newest mean ā, the one before it, ... in the state after each step.

    The state after step k is t'/t x + Σ_l weights[k, l] ā_{k-l}. A step of order 1 is Euler's.
    """
    weights = np.zeros((len(orders), max(orders)))
    weights[:, 0] = 1 - times[1:] / times[:-1]
    for k, order in enumerate(orders):
        if order > 1:
            weights[k, :order] += _higher_order(times[k + 1 - order : k + 2], order)
    return weights


def _tables(times: np.ndarray, orders: Sequence[int], mixture: Mixture) -> Tables:
    """One table for all points from the grid `times` (S+1,) and the order of each step."""
    t_end, after = times[-1], times[1:-1]
    states = mean_weights(times, orders)  # of the state t u, which is finite also where u is not
    weights = np.append(states[:-1] / after[:, None], np.zeros_like(states[:1]), axis=0)
    ends = np.append(t_end / after, 1.0)[:, None] * states
    end_weights = np.sum([np.pad(end[age:], (0, age)) for age, end in enumerate(ends.T)], axis=0)
    return shared_table(times, weights, end_weights, mixture)


def shared_table(
    times: np.ndarray, weights: np.ndarray, end_weights: np.ndarray, mixture: Mixture
) -> Tables:
    """One table for all points: evaluations at `times[:-1]`, the end point at `times[-1]` (S+1,).

    `weights` (S, K) are factors of the newest drift, the one before it, ... in the next state, 0 in
    the last row. `end_weights` (S,) is the factor of each drift in the end point.
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
    """Corrections of order 2 or 3 to Euler's weights of the last step (arXiv:2211.01095, B.2)."""
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
