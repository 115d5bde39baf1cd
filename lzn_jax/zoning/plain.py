"""Latent zoning by Euler's method as the paper writes it (§2.2). Read this first.

Anchors a_1 ... a_n in R^q with weights p_j divide a latent space with the prior N(0, I) into zones,
one per anchor. A flow connects the anchors and the prior. Its state at noise level t is

    x_t = (1 - t) a + t ε,    t = 0: anchors,    t = 1: prior    (the paper's time is 1 - t).

The posterior over anchors given a state, and the posterior mean, are

    w_j(x, t) ∝ p_j exp(-|x - (1-t) a_j|² / 2t²),    ā(x, t) = Σ_j w_j a_j,

and the flow is dx/dt = (x - ā) / t (§2.2.1, A.2). Integrated from a point near an anchor to t = 1,
it gives a latent in the zone of that anchor. Integrated from a latent to t = 0, it ends at the
anchor whose zone contains the latent.

`lzn_jax.zoning` provides these functions with a `solver` in place of S steps. The form here has two
weaknesses. In float32, factors of 1/t² = 1e8 leave no correct digit in some gradients. Each step
computes m n q differences. `lzn_jax/zoning/flow.py` explains how the package avoids both.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

Latents = Float[Array, "m q"]
Anchors = Float[Array, "n q"]
Index = Int[Array, " m"]
LogWeights = Float[Array, " n"] | None
Loss = Float[Array, ""]

FIRST = 1e-4  # noise level at which the flow towards the prior starts


@jax.checkpoint  # the derivative recomputes the differences instead of storing them for all steps
def log_posterior(
    x: Latents, t: Float[Array, ""], anchors: Anchors, log_p: LogWeights
) -> Float[Array, "m n"]:
    """log w_j(x, t), the log posterior over anchors."""
    squares = jnp.sum(((x[:, None] - (1 - t) * anchors) / t) ** 2, axis=-1)
    return jax.nn.log_softmax((0 if log_p is None else log_p) - 0.5 * squares, axis=1)


def follow(
    x: Latents, levels: Float[Array, " k"], anchors: Anchors, log_p: LogWeights
) -> tuple[Latents, Float[Array, "k-1 m n"]]:
    """Follows the flow from x through k noise levels. Also returns log w before each step.

    Euler's step from t to t' is  x + (t' - t) (x - ā) / t = t'/t x + (1 - t'/t) ā.
    """

    def step(x, ends):
        t, after = ends
        log_w = log_posterior(x, t, anchors, log_p)
        mean = jnp.matmul(jnp.exp(log_w), anchors, precision="highest")
        return after / t * x + (1 - after / t) * mean, log_w

    levels = levels.astype(x.dtype)
    return jax.lax.scan(step, x, (levels[:-1], levels[1:]))


def compute_latents(
    anchors: Anchors,
    noise: Latents,
    own: Index | None = None,
    *,
    num_steps: int,
    log_weights: LogWeights = None,
) -> Latents:
    """Latents: ends of the flow from anchors `own` and noise to the prior (§2.2.1, eq. 2)."""
    start = FIRST * noise + (1 - FIRST) * (anchors if own is None else anchors[own])
    levels = jnp.linspace(FIRST, 1, num_steps + 1)
    return follow(start, levels, anchors, log_weights)[0]


def decode(
    latents: Latents, anchors: Anchors, *, num_steps: int, log_weights: LogWeights = None
) -> Latents:
    """Ends of the flow from latents to the anchors (§2.2.1)."""
    return follow(latents, jnp.linspace(1, 0, num_steps + 1), anchors, log_weights)[0]


def classify(
    latents: Latents, anchors: Anchors, *, num_steps: int, log_weights: LogWeights = None
) -> Index:
    """Index of the anchor nearest to the end of each latent's flow (§5, E.2)."""
    ends = decode(latents, anchors, num_steps=num_steps, log_weights=log_weights)
    return jnp.argmin(jnp.linalg.norm(ends[:, None] - anchors, axis=-1), axis=1)


def alignment_loss(
    latents: Latents,
    anchors: Anchors,
    targets: Index,
    *,
    num_steps: int,
    cutoff: float = 0.2,
    form: str = "log",
    log_weights: LogWeights = None,
) -> tuple[Loss, dict[str, Loss]]:
    """Negative mean of P_i or log P_i, where P_i is the largest w of the target after the cut-off.

    Also returns `assignment_accuracy`, the share of latents whose last w is largest at the target,
    and `ode_error`, the mean distance between the flow's end and the target relative to the
    target's norm (§2.2.2).
    """
    ends, log_w = follow(latents, jnp.linspace(1, 0, num_steps + 1), anchors, log_weights)
    log_own = log_w[:, jnp.arange(len(targets)), targets]
    log_best = jnp.max(log_own[int(cutoff * num_steps) :], axis=0)
    is_right = log_own[-1] >= jnp.max(log_w[-1], axis=1)
    errors = jnp.linalg.norm(ends - anchors[targets], axis=1)
    return -jnp.mean(log_best if form == "log" else jnp.exp(log_best)), {
        "assignment_accuracy": jnp.mean(is_right, dtype=log_best.dtype),
        "ode_error": jnp.mean(errors / jnp.linalg.norm(anchors[targets], axis=1)),
    }
