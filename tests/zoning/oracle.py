"""The latent flow as the paper writes it, in x and t, with every difference formed: the oracle.

Independent of `lzn_jax.zoning` in form and code. In float64 its rounding error, amplified by
1/t² = 1e8 at the first step, stays near 1e-11.
"""

import jax
import jax.numpy as jnp


def posterior(x, t, anchors, log_weights=None):
    """Soft assignment (m, n) of points x (m, q) at noise level t to anchors (n, q)."""
    differences = x[:, None] - (1 - t) * anchors[None]
    logits = -0.5 * jnp.sum((differences / t) ** 2, axis=-1)
    return jax.nn.softmax(logits if log_weights is None else logits + log_weights, axis=1)


def velocity(x, t, anchors, log_weights=None):
    """dx/dt = (x - ā) / t."""
    return (x - posterior(x, t, anchors, log_weights) @ anchors) / t


def euler_latents(anchors, noise, own, num_steps, log_weights=None, t_min=1e-4):
    """Euler on t from t_min to 1."""
    dt = (1 - t_min) / num_steps
    x = t_min * noise + (1 - t_min) * anchors[own]
    for k in range(num_steps):
        x = x + dt * velocity(x, t_min + k * dt, anchors, log_weights)
    return x


def euler_decode(latents, anchors, num_steps, log_weights=None):
    """Euler on t from 1 to 0; also the assignments (S, m, n) before each update."""
    x, assignments = latents, []
    for k in range(num_steps):
        t = 1 - k / num_steps
        assignments.append(posterior(x, t, anchors, log_weights))
        x = x - velocity(x, t, anchors, log_weights) / num_steps
    return x, jnp.stack(assignments)


def euler_alignment_loss(latents, anchors, targets, num_steps, cutoff, form, log_weights=None):
    """Minus the mean (log of the) best assignment to the target after the cut-off."""
    _, assignments = euler_decode(latents, anchors, num_steps, log_weights)
    own = assignments[int(cutoff * num_steps) :, jnp.arange(len(latents)), targets]
    best = jnp.max(own, axis=0)
    return -jnp.mean(jnp.log(best) if form == "log" else best)
