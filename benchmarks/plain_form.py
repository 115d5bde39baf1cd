"""The flow as the paper writes it, in x and t with every difference formed: the baseline."""

import jax
import jax.numpy as jnp

T_MIN, CUTOFF = 1e-4, 0.2


@jax.checkpoint
def log_assignments(x: jax.Array, t: jax.Array, anchors: jax.Array) -> jax.Array:
    """Log posterior (m, n) from the differences x - (1-t) a, the paper's form."""
    squares = jnp.sum(((x[:, None] - (1 - t) * anchors) / t) ** 2, axis=-1)
    return jax.nn.log_softmax(-0.5 * squares, axis=1)


def plain_latents(anchors: jax.Array, noise: jax.Array, steps: int) -> jax.Array:
    """Euler on t from T_MIN to 1, in x; the velocity is (x - ā) / t."""
    dt = (1 - T_MIN) / steps

    def step(x, k):
        t = T_MIN + k * dt
        mean = jnp.matmul(jnp.exp(log_assignments(x, t, anchors)), anchors, precision="highest")
        return x + dt * (x - mean) / t, None

    times = jnp.arange(steps, dtype=anchors.dtype)
    return jax.lax.scan(step, T_MIN * noise + (1 - T_MIN) * anchors, times)[0]


def plain_loss(latents: jax.Array, anchors: jax.Array, steps: int) -> jax.Array:
    """Log form of the alignment loss, Euler on t from 1 to 0, in x."""

    def step(x, k):
        t = 1 - k / steps
        log_p = log_assignments(x, t, anchors)
        mean = jnp.matmul(jnp.exp(log_p), anchors, precision="highest")
        return x - (x - mean) / t / steps, jnp.diagonal(log_p)

    _, log_own = jax.lax.scan(step, latents, jnp.arange(steps, dtype=anchors.dtype))
    return -jnp.mean(jnp.max(log_own[int(CUTOFF * steps) :], axis=0))
