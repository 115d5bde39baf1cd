"""Latent zoning as the paper writes it (§2.2): read this first; all else must equal it.

Anchors a_1 ... a_n in R^q, of weights p_j, cut a latent space with the prior N(0, I) into zones,
one an anchor. A flow joins them to it: x_t = (1 - t) a + t ε, where the noise level t is 0 at the
anchors and 1 at the prior (the paper writes 1 - t). With the posterior over anchors and its mean

    w_j(x, t) ∝ p_j exp(-|x - (1-t) a_j|² / 2t²),    ā(x, t) = Σ_j w_j a_j,

the flow is dx/dt = (x - ā) / t (§2.2.1, A.2). From near an anchor to t = 1 it gives a latent of
that anchor's zone; from a latent to t = 0 it ends at the anchor in whose zone the latent lies.

The functions are those of `lzn_jax.zoning`, for the paper's solvers. Here float32 loses all digits
of some gradients to 1/t² = 1e8, and each step forms m n q differences: `lzn_jax/zoning/flow.py`
says how the others avoid both.
"""

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from lzn_jax.zoning.arguments import public
from lzn_jax.zoning.solvers import DPMSolver, Euler, mean_weights

Paper = Euler | DPMSolver
Direction = Literal["prior", "anchors"]
Latents = Float[Array, "m q"]
Anchors = Float[Array, "n q"]
Index = Int[Array, " m"]
Weights = Float[Array, " n"] | None
Metrics = dict[str, Float[Array, ""]]


@jax.checkpoint  # a derivative forms the differences anew, in place of keeping them of all steps
def log_posterior(
    x: Latents, t: Float[Array, ""], anchors: Anchors, log_weights: Float[Array, " n"]
) -> Float[Array, "m n"]:
    """log w_j(x, t)."""
    squares = jnp.sum(((x[:, None] - (1 - t) * anchors) / t) ** 2, axis=-1)
    return jax.nn.log_softmax(log_weights - 0.5 * squares, axis=1)


def noise_levels(solver: Paper, towards: Direction) -> np.ndarray:
    """t before the first step and after each one (S+1,)."""
    if not isinstance(solver, Euler | DPMSolver):
        raise ValueError(f"the plain form has solvers Euler and DPMSolver, not {solver!r}")
    return solver.times(towards)


def follow(
    x: Latents, anchors: Anchors, solver: Paper, towards: Direction, log_weights: Weights
) -> tuple[Latents, Float[Array, "s m n"]]:
    """The flow from x: where it ends, and log w before each of the solver's S steps.

    Euler's step from t to t' is x + (t' - t) (x - ā) / t = t'/t x + (1 - t'/t) ā. Solvers of higher
    order put a combination of the latest means in place of ā (`mean_weights`; C.2).
    """
    times = noise_levels(solver, towards)
    weights = mean_weights(times, solver.orders)

    def step(state, row):
        x, means = state
        t, ratio, weights = row
        log_w = log_posterior(x, t, anchors, log_weights)
        mean = jnp.matmul(jnp.exp(log_w), anchors, precision="highest")
        means = (mean, *means[:-1])
        return (ratio * x + sum(map(jnp.multiply, weights, means)), means), log_w

    log_weights = jnp.zeros_like(anchors[:, 0]) if log_weights is None else log_weights
    rows = [jnp.asarray(a, x.dtype) for a in (times[:-1], times[1:] / times[:-1], weights)]
    (x, _), log_w = jax.lax.scan(step, (x, (0 * x,) * weights.shape[1]), rows)
    return x, log_w


@public
def compute_latents(
    anchors: Anchors,
    noise: Latents,
    own: Index | None = None,
    *,
    solver: Paper,
    log_weights: Weights = None,
) -> Latents:
    """Latents: from (1-t) a_own + t ε at a small t to the prior (§2.2.1, eq. 2)."""
    t = float(noise_levels(solver, "prior")[0])
    start = t * noise + (1 - t) * (anchors if own is None else anchors[own])
    return follow(start, anchors, solver, "prior", log_weights)[0]


@public
def latents_in_context(
    queries: Latents,
    context: Anchors,
    noise: Latents,
    *,
    solver: Paper,
    log_weights: Weights = None,
) -> Latents:
    """Latents of queries, each of them an anchor beside the context's for itself alone (ours)."""
    weights = jnp.zeros_like(context[:, 0]) if log_weights is None else log_weights
    weights = jnp.append(weights, 0)

    def latent(query, noise):
        anchors, own = jnp.concatenate([context, query[None]]), jnp.array([-1])
        return compute_latents(anchors, noise[None], own, solver=solver, log_weights=weights)[0]

    return jax.vmap(latent)(queries, noise)


@public
def decode(
    latents: Latents, anchors: Anchors, *, solver: Paper, log_weights: Weights = None
) -> Latents:
    """The ends of the flow from latents to the anchors (§2.2.1)."""
    return follow(latents, anchors, solver, "anchors", log_weights)[0]


@public
def classify(
    latents: Latents, anchors: Anchors, *, solver: Paper, log_weights: Weights = None
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
    solver: Paper,
    log_weights: Weights = None,
) -> Float[Array, "s m"]:
    """log w of each latent's target before each step (§2.2.2)."""
    _, log_w = follow(latents, anchors, solver, "anchors", log_weights)
    return log_w[:, jnp.arange(len(targets)), targets]


@public
def alignment_loss(
    latents: Latents,
    anchors: Anchors,
    targets: Index,
    *,
    solver: Paper,
    cutoff: float = 0.2,
    form: Literal["log", "prob"] = "log",
    log_weights: Weights = None,
) -> tuple[Float[Array, ""], Metrics]:
    """Minus the mean (log) of P_i, the best w of the target after the cut-off (§2.2.2, B.1)."""
    ends, log_w = follow(latents, anchors, solver, "anchors", log_weights)
    log_own = log_w[:, jnp.arange(len(targets)), targets]
    log_p = jnp.max(log_own[int(cutoff * solver.num_steps) :], axis=0)
    loss = -jnp.mean(log_p if form == "log" else jnp.exp(log_p))
    errors = jnp.linalg.norm(ends - anchors[targets], axis=1)
    return loss, {
        "assignment_accuracy": jnp.mean(
            log_own[-1] >= jnp.max(log_w[-1], axis=1), dtype=loss.dtype
        ),
        "ode_error": jnp.mean(errors / jnp.linalg.norm(anchors[targets], axis=1)),
    }
