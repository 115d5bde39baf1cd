"""The latent flow as the paper writes it, in x and t, with every difference formed: the oracle.

Independent of `lzn_jax.zoning` in form and code. In float64 its rounding error, amplified by
1/t² = 1e8 at the first step, stays near 1e-11. DPM-Solver++ is the multistep scheme with data
prediction of arXiv:2211.01095, in x, as its authors' code has it.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np


def in_float64(function, *arrays):
    """What `function` makes of the arrays cast to float64, as NumPy arrays."""
    with jax.enable_x64(True):
        outputs = function(*(np.asarray(a, np.float64) for a in arrays))
        return jax.tree.map(np.asarray, outputs)


def relative_error(value, reference):
    """|value - reference| / |reference| in the Frobenius norm."""
    reference = np.asarray(reference, np.float64)
    difference = np.asarray(value, np.float64) - reference
    return np.linalg.norm(difference) / np.linalg.norm(reference)


def log_posterior(x, t, anchors, log_weights=None):
    """Log soft assignment (m, n) of points x (m, q) at noise level t to anchors (n, q)."""
    differences = x[:, None] - (1 - t) * anchors[None]
    logits = -0.5 * jnp.sum((differences / t) ** 2, axis=-1)
    return jax.nn.log_softmax(logits if log_weights is None else logits + log_weights, axis=1)


def velocity(x, t, anchors, log_weights=None):
    """dx/dt = (x - ā) / t."""
    return (x - jnp.exp(log_posterior(x, t, anchors, log_weights)) @ anchors) / t


@functools.partial(jax.jit, static_argnames=("num_steps", "t_min"))
def euler_latents(anchors, noise, own, num_steps, log_weights=None, t_min=1e-4):
    """Euler on t from t_min to 1."""
    dt = (1 - t_min) / num_steps

    def step(x, k):
        return x + dt * velocity(x, t_min + k * dt, anchors, log_weights), None

    return jax.lax.scan(step, t_min * noise + (1 - t_min) * anchors[own], jnp.arange(num_steps))[0]


@functools.partial(jax.jit, static_argnames="num_steps")
def euler_decode(latents, anchors, num_steps, log_weights=None):
    """Euler on t from 1 to 0; also the log assignments (S, m, n) before each update."""

    def step(x, k):
        log_p = log_posterior(x, 1 - k / num_steps, anchors, log_weights)
        return x - velocity(x, 1 - k / num_steps, anchors, log_weights) / num_steps, log_p

    return jax.lax.scan(step, latents, jnp.arange(num_steps))


@functools.partial(jax.jit, static_argnames=("num_steps", "cutoff", "form"))
def euler_alignment_loss(latents, anchors, targets, num_steps, cutoff, form, log_weights=None):
    """Minus the mean (log of the) best assignment to the target after the cut-off."""
    _, log_assignments = euler_decode(latents, anchors, num_steps, log_weights)
    own = log_assignments[int(cutoff * num_steps) :, jnp.arange(len(latents)), targets]
    best = jnp.max(own, axis=0)
    return -jnp.mean(best if form == "log" else jnp.exp(best))


@functools.partial(jax.jit, static_argnames=("t_start", "t_end", "num_steps"))
def fine_flow(x, anchors, t_start, t_end, num_steps, log_weights=None):
    """Classical Runge-Kutta of order 4 on t: the exact flow, for enough steps."""
    dt = (t_end - t_start) / num_steps
    v = functools.partial(velocity, anchors=anchors, log_weights=log_weights)

    def step(x, k):
        t = t_start + k * dt
        k1 = v(x, t)
        k2 = v(x + dt / 2 * k1, t + dt / 2)
        k3 = v(x + dt / 2 * k2, t + dt / 2)
        k4 = v(x + dt * k3, t + dt)
        return x + dt / 6 * (k1 + 2 * k2 + 2 * k3 + k4), None

    return jax.lax.scan(step, x, jnp.arange(num_steps))[0]


def dpm_latents(anchors, noise, own, num_steps, order=3, log_weights=None, t=(1e-3, 1 - 1e-3)):
    """DPM-Solver++ from t_min to t_max; the latent is x at t_max."""
    x = t[0] * noise + (1 - t[0]) * anchors[own]
    return _dpm(x, anchors, log_weights, t[0], t[1], num_steps, order)[0]


def dpm_decode(latents, anchors, num_steps, order=3, log_weights=None, t=(1e-3, 1 - 1e-3)):
    """DPM-Solver++ from t_max to t_min; also the log assignments (S, m, n) at each evaluation."""
    return _dpm(latents, anchors, log_weights, t[1], t[0], num_steps, order)


@functools.partial(jax.jit, static_argnames=("t_start", "t_end", "num_steps", "order"))
def _dpm(x, anchors, log_weights, t_start, t_end, num_steps, order):
    times = np.linspace(t_start, t_end, num_steps + 1)
    lam = np.log(1 / times - 1)
    h = np.diff(lam)
    orders = [min(order, i) for i in range(1, num_steps + 1)]
    if num_steps < 10:
        orders = [min(o, num_steps - i) for i, o in enumerate(orders)]
    rows = {
        "t": times[:-1],
        "next_t": times[1:],
        "h": h,
        "r0": np.append(1.0, h[:-1] / h[1:]),
        "r1": np.append([1.0, 1.0], h[:-2] / h[2:])[:num_steps],
        "order": np.array(orders),
    }

    def step(state, row):
        x, m1, m2 = state
        h, r0, r1, alpha = row["h"], row["r0"], row["r1"], 1 - row["next_t"]
        log_p = log_posterior(x, row["t"], anchors, log_weights)
        m0 = jnp.exp(log_p) @ anchors
        phi1 = jnp.expm1(-h)
        phi2 = phi1 / h + 1
        phi3 = phi2 / h - 0.5
        base = row["next_t"] / row["t"] * x - alpha * phi1 * m0
        d10, d11 = (m0 - m1) / r0, (m1 - m2) / r1
        d1 = d10 + r0 / (r0 + r1) * (d10 - d11)
        d2 = (d10 - d11) / (r0 + r1)
        # The published code's second difference is half of what order 3 would need.
        x_2 = base - 0.5 * alpha * phi1 * d10
        x_3 = base + alpha * phi2 * d1 - alpha * phi3 * d2
        x = jnp.select([row["order"] == 1, row["order"] == 2], [base, x_2], x_3)
        return (x, m0, m1), log_p

    zeros = jnp.zeros_like(x)
    (x, _, _), log_assignments = jax.lax.scan(step, (x, zeros, zeros), rows)
    return x, log_assignments
