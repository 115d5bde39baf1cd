"""Latent zoning as the paper writes it (§2.2). Read this first: all else gives the same results.

Anchors a_1 ... a_n in R^q with weights p_j divide a latent space with the prior N(0, I) into zones,
one per anchor. A flow connects the anchors and the prior. Its state at noise level t is

    x_t = (1 - t) a + t ε,    t = 0: anchors,    t = 1: prior    (the paper's time is 1 - t).

The posterior over anchors given a state, and the posterior mean, are

    w_j(x, t) ∝ p_j exp(-|x - (1-t) a_j|² / 2t²),    ā(x, t) = Σ_j w_j a_j,

and the flow is dx/dt = (x - ā) / t (§2.2.1, A.2). Integrated from a point near an anchor to t = 1,
it gives a latent in the zone of that anchor. Integrated from a latent to t = 0, it ends at the
anchor whose zone contains the latent.

It contains the functions of `lzn_jax.zoning` with two weaknesses: in float32, factors of 1/t² = 1e8
leave no correct digit in some gradients, and each step forms m n q differences.
`lzn_jax/zoning/flow.py` explains how the package avoids both.
"""

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from lzn_jax.zoning.flow import Mixture
from lzn_jax.zoning.latents import public
from lzn_jax.zoning.solvers import AdamsBashforth, OnGrid, Solver, point_grid, shared_grid

Taken = OnGrid | AdamsBashforth
Latents = Float[Array, "m q"]
Anchors = Float[Array, "n q"]
Index = Int[Array, " m"]
LogWeights = Float[Array, " n"] | None


@jax.checkpoint  # the derivative recomputes the differences instead of storing them for all steps
def log_posterior(
    x: Latents, t: Float[Array, "p 1"], anchors: Anchors, log_weights: Float[Array, " n"]
) -> Float[Array, "m n"]:
    """log w_j(x, t), the log posterior over anchors."""
    squares = jnp.sum(((x[:, None] - (1 - t[:, None]) * anchors) / t[:, None]) ** 2, axis=-1)
    return jax.nn.log_softmax(log_weights - 0.5 * squares, axis=1)


def steps(
    start: Latents, own: Index | None, anchors: Anchors, solver: Solver, log_weights: Array
) -> tuple[Float[Array, "times p"], Float[Array, "s k p"], Float[Array, " p"]]:
    """Noise levels before the first step and after each, and factors of posterior means.

    Factors are for the newest mean, the one before it, ... in the state after each step. In the end
    point of `AdamsBashforth` the last one is for the mean at t = 1, which is Σ_j p_j a_j for all x.
    p is m, or 1 if all points have the same steps.
    """
    if not isinstance(solver, Taken):
        raise ValueError(f"plain takes AdamsBashforth and solvers of OnGrid, got {solver}")
    zero = jnp.zeros(1, start.dtype)
    if isinstance(solver, OnGrid):
        t = solver.times("anchors" if own is None else "prior")
        factors = solver.factors(t)[..., None]
        return jnp.asarray(t[:, None], start.dtype), jnp.asarray(factors, start.dtype), zero
    if own is None:
        r, weights = solver.steps_to_anchors(*shared_grid(Mixture(anchors, log_weights)))
        times = jnp.append(1 / (1 + r), zero[None], axis=0)
        return times, (times[1:, None] * weights).at[-1, 0].set(1), zero
    offsets = anchors - anchors[own][:, None]
    squares = jnp.where(jnp.isneginf(log_weights), jnp.inf, jnp.sum(offsets**2, axis=-1))
    group = (jnp.sum(start[:, None] * offsets, axis=-1), squares, log_weights)
    grid = point_grid([group], log_weights, log_weights[own], jnp.full_like(start[:, 0], -jnp.inf))
    r, weights, prior_factor = solver.steps_to_prior(*grid)
    return 1 / (1 + r), weights / (1 + r[1:, None]), prior_factor


def follow(
    start: Latents, own: Index | None, anchors: Anchors, solver: Solver, log_weights: LogWeights
) -> tuple[Latents, Float[Array, "s m n"]]:
    """Integrates the flow; returns its end and log w before each of the S steps.

    Without `own`, from latents to the anchors; else from (1-t) a_own + t ε, where the noise ε is
    the start and t near 0, to the prior. Euler's step from t to t' is

        x + (t' - t) (x - ā) / t = t'/t x + (1 - t'/t) ā.

    Solvers of higher order replace ā by a combination of the latest posterior means (C.2).
    """
    log_weights = jnp.zeros_like(anchors[:, 0]) if log_weights is None else log_weights
    inputs = jax.lax.stop_gradient((start, own, anchors))
    times, factors, prior_factor = steps(*inputs, solver, jax.lax.stop_gradient(log_weights))
    before = jnp.zeros_like(start) if own is None else anchors[own]  # means before the start
    x = start if own is None else times[0][:, None] * start + (1 - times[0])[:, None] * before

    def step(state, row):
        x, means = state  # the newest mean first
        t, ratio, factors = (a[..., None] for a in row)
        log_w = log_posterior(x, t, anchors, log_weights)
        mean = jnp.matmul(jnp.exp(log_w), anchors, precision="highest")
        means = (mean, *means[:-1])
        x = ratio * x + sum(f * mean for f, mean in zip(factors, means, strict=True))
        return (x, means), log_w

    rows = (times[:-1], times[1:] / times[:-1], factors)
    (x, _), log_w = jax.lax.scan(step, (x, (before,) * factors.shape[1]), rows)
    prior_mean = jnp.matmul(jax.nn.softmax(log_weights), anchors, precision="highest")
    return x + prior_factor[:, None] * prior_mean, log_w


@public
def compute_latents(
    anchors: Anchors,
    noise: Latents,
    own: Index | None = None,
    *,
    solver: Solver,
    log_weights: LogWeights = None,
) -> Latents:
    """Latents: ends of the flow from anchors `own` and noise to the prior (§2.2.1, eq. 2)."""
    own = jnp.arange(len(anchors)) if own is None else own
    return follow(noise, own, anchors, solver, log_weights)[0]


@public
def latents_in_context(
    queries: Latents,
    context: Anchors,
    noise: Latents,
    *,
    solver: Solver,
    log_weights: LogWeights = None,
) -> Latents:
    """Latents of queries, each computed among the context anchors and its own anchor (ours)."""
    weights = jnp.zeros_like(context[:, 0]) if log_weights is None else log_weights
    weights = jnp.append(weights, 0)

    def latent(query, noise):
        anchors, own = jnp.concatenate([context, query[None]]), jnp.array([-1])
        return compute_latents(anchors, noise[None], own, solver=solver, log_weights=weights)[0]

    return jax.vmap(latent)(queries, noise)


@public
def decode(
    latents: Latents, anchors: Anchors, *, solver: Solver, log_weights: LogWeights = None
) -> Latents:
    """Ends of the flow from latents to the anchors (§2.2.1)."""
    return follow(latents, None, anchors, solver, log_weights)[0]


@public
def classify(
    latents: Latents, anchors: Anchors, *, solver: Solver, log_weights: LogWeights = None
) -> Index:
    """Index of the anchor nearest to the end of each latent's flow (§5, E.2)."""
    ends = decode(latents, anchors, solver=solver, log_weights=log_weights)
    return jnp.argmin(jnp.linalg.norm(ends[:, None] - anchors, axis=-1), axis=1)


@public
def assignment_log_probs(
    latents: Latents,
    anchors: Anchors,
    targets: Index,
    *,
    solver: Solver,
    log_weights: LogWeights = None,
) -> Float[Array, "s m"]:
    """log w of each latent's target before each step of the flow to the anchors (§2.2.2)."""
    _, log_w = follow(latents, None, anchors, solver, log_weights)
    return log_w[:, jnp.arange(len(targets)), targets]


@public
def alignment_loss(
    latents: Latents,
    anchors: Anchors,
    targets: Index,
    *,
    solver: Solver,
    cutoff: float = 0.2,
    form: Literal["log", "prob"] = "log",
    log_weights: LogWeights = None,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """Negative mean of P_i or log P_i, where P_i is the largest w of the target after the cut-off.

    Also returns `assignment_accuracy`, the share of latents whose last w is largest at the target,
    and `ode_error`, the mean distance between the flow's end and the target relative to the
    target's norm (§2.2.2).
    """
    ends, log_w = follow(latents, None, anchors, solver, log_weights)
    log_own = log_w[:, jnp.arange(len(targets)), targets]
    log_p = jnp.max(log_own[int(cutoff * solver.num_steps) :], axis=0)
    loss = -jnp.mean(log_p if form == "log" else jnp.exp(log_p))
    is_right = log_own[-1] >= jnp.max(log_w[-1], axis=1)
    errors = jnp.linalg.norm(ends - anchors[targets], axis=1)
    return loss, {
        "assignment_accuracy": jnp.mean(is_right, dtype=loss.dtype),
        "ode_error": jnp.mean(errors / jnp.linalg.norm(anchors[targets], axis=1)),
    }
