"""Measures the error of a solver's latents."""

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from lzn_jax.zoning.latents import classify, compute_latents
from lzn_jax.zoning.solvers import AdamsBashforth

# The tests compare it with Runge-Kutta on the paper's form.
_REFERENCE = AdamsBashforth(640)


class Accuracy(NamedTuple):
    """Errors of a solver in float64.

    Attributes:
      evaluations: evaluations of the posterior mean for each latent.
      error: |latents - exact latents| / |exact latents|, in the Frobenius norm.
      order: log2 of the ratio of this error to the error at twice as many evaluations.
      astray: share of exact latents that the solver takes to another anchor than their own.
    """

    evaluations: int
    error: float
    order: float
    astray: float


def accuracy(
    solver: Any,
    anchors: Float[np.ndarray, "n q"] | None = None,
    *,
    noise_scale: float = 1.0,
    seed: int = 0,
) -> Accuracy:
    """Errors of a solver against a finer one. `dataclasses.replace` must set its `num_steps`.

    The default `anchors` are 128 draws from N(0, I) in 32 dimensions. `noise_scale` is α.
    """
    rng = np.random.default_rng(seed)
    anchors = np.asarray(rng.standard_normal((128, 32)) if anchors is None else anchors, np.float64)
    noise = noise_scale * rng.standard_normal(anchors.shape)
    solvers = _REFERENCE, solver, dataclasses.replace(solver, num_steps=2 * solver.num_steps)
    with jax.enable_x64(True):
        exact, *found = (compute_latents(anchors, noise, solver=each) for each in solvers)
        ends = classify(exact, anchors, solver=solver)
    error, finer = (float(np.linalg.norm(z - exact) / np.linalg.norm(exact)) for z in found)
    astray = float(np.mean(np.asarray(ends) != np.arange(len(anchors))))
    return Accuracy(solver.num_steps, error, math.log2(error / finer), astray)
