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
    v = functools.partial(velocity, anchors=anchors, log_weights=log_weights)
    return _runge_kutta(v, x, t_start, t_end, num_steps)


def _runge_kutta(v, x, start, end, num_steps):
    """dx/dt = v(x, t) from start to end."""
    h = (end - start) / num_steps

    def step(x, k):
        t = start + k * h
        k1 = v(x, t)
        k2 = v(x + h / 2 * k1, t + h / 2)
        k3 = v(x + h / 2 * k2, t + h / 2)
        k4 = v(x + h * k3, t + h)
        return x + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4), None

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


# The flow in r = (1-t)/t, and Adams-Bashforth on the grid that anchors choose. As x is seen from
# a_i, the point's own anchor, u = (x - (1-t) a_i) / t and x - (1-t) a_j = t (u - r (a_j - a_i)).


def drift(u, r, anchors, own, log_weights=None):
    """du/dr = ā - a_i, and log soft assignments (m, n)."""
    differences = u[:, None] - r[:, None, None] * (anchors[None] - anchors[own][:, None])
    logits = -0.5 * jnp.sum(differences**2, axis=-1)
    log_p = jax.nn.log_softmax(logits if log_weights is None else logits + log_weights, axis=1)
    return jnp.exp(log_p) @ anchors - anchors[own], log_p


@functools.partial(jax.jit, static_argnames="num_steps")
def exact_latents(anchors, noise, own, num_steps=150, log_weights=None):
    """Classical Runge-Kutta of order 4 in s, r = sinh(s) / rms distance.

    150 steps are within 5e-6 of 400 on all cases of the tests.
    """
    distances = _distances(jax.lax.stop_gradient(anchors))
    rms = jnp.sqrt(jnp.mean(distances**2))
    nearest = jnp.min(jnp.where(distances > 0, distances, jnp.inf))
    start = jnp.arcsinh(rms * (jnp.max(jnp.linalg.norm(noise, axis=1)) + 12) / nearest)

    def v(u, s):
        r = jnp.full(len(u), jnp.sinh(s) / rms)
        return drift(u, r, anchors, own, log_weights)[0] * jnp.cosh(s) / rms

    return _runge_kutta(v, noise, start, 0.0, num_steps)


def _distances(anchors):
    return jnp.sqrt(jnp.sum((anchors[:, None] - anchors[None]) ** 2, axis=-1))


def _or_one(rms):
    """One where there are no distances: nothing moves on any grid."""
    return jnp.where(rms > 0, rms, 1)


def adams_grid(anchors, noise, own, num_steps, before, log_weights=None):
    """Nodes r of each point: so many (before) at which nothing moves, its start, ..., 0."""
    n, (anchors, noise) = len(anchors), jax.lax.stop_gradient((anchors, noise))
    log_p = jax.nn.log_softmax(jnp.zeros(n) if log_weights is None else log_weights)
    d = _distances(anchors)[own]
    rms = _or_one(jnp.sqrt(d**2 @ jnp.exp(log_p)))
    counts = (jnp.arange(n) != jnp.asarray(own)[:, None]) & (d > 3e-6 * rms[:, None])
    d = jnp.where(counts, d, 1)
    g = jnp.einsum("mq,mnq->mn", noise, anchors[None] - anchors[own][:, None]) / d
    excess = jnp.maximum(0, 6 + jnp.log(n) + log_p - log_p[own][:, None])
    start = jnp.max(jnp.where(counts, (g + jnp.sqrt(g**2 + 2 * excess)) / d, 0), axis=1)
    start = jnp.where(start > 0, start, 3 / rms)
    shares = 1 - jnp.arange(-before, num_steps + 1)[:, None] / num_steps
    return jax.lax.stop_gradient(3 / rms * jnp.sinh(shares * jnp.arcsinh(start * rms / 3)))


def decoding_grid(anchors, num_steps, log_weights=None):
    """Nodes r (num_steps,) from 0 to where neighbouring anchors are told apart."""
    d = _distances(jax.lax.stop_gradient(anchors))
    p = jax.nn.softmax(jnp.zeros(len(d)) if log_weights is None else log_weights)
    rms = _or_one(jnp.sqrt(p @ d**2 @ p))
    nearest = jnp.min(jnp.where(d > 0, d, jnp.inf), axis=1)
    last = 1.5 * (2 * jnp.sqrt(2 * jnp.log(len(anchors))) + 1) / jnp.median(nearest)
    last = jnp.where(jnp.isinf(nearest).all(), 1, last)
    shares = jnp.arange(num_steps) / max(1, num_steps - 1)
    return jax.lax.stop_gradient(3 / rms * jnp.sinh(shares * jnp.arcsinh(last * rms / 3)))


def _interpolation_weights(nodes, start, end):
    """Weights (p, m) that integrate all polynomials of degree p - 1 from their values at nodes."""
    scale = end - start
    powers = jnp.arange(len(nodes))
    moments = jnp.broadcast_to(1 / (powers + 1.0), (*scale.shape, len(nodes)))
    matrix = ((jnp.stack(nodes, -1) - start[..., None]) / scale[..., None])[..., None, :]
    values = jnp.linalg.solve(matrix ** powers[:, None], moments[..., None])[..., 0]
    return scale * jnp.moveaxis(values, -1, 0)


@functools.partial(jax.jit, static_argnames=("num_steps", "order"))
def adams_latents(anchors, noise, own, num_steps, order=3, log_weights=None):
    """The last of the steps also knows the drift at r = 0, where nothing depends on u."""
    r = adams_grid(anchors, noise, own, num_steps, order - 1, log_weights)
    drifts = [jnp.zeros_like(noise)] * (order - 1)
    u = noise
    for k in range(order - 1, order - 1 + num_steps):
        drifts.append(drift(u, r[k], anchors, own, log_weights)[0])
        nodes, values = list(r[k - order + 1 : k + 1]), drifts[k - order + 1 :]
        if k == order - 2 + num_steps:
            nodes.append(r[-1])
            values = [*values, drift(u, r[-1], anchors, own, log_weights)[0]]
        weights = _interpolation_weights(nodes, r[k], r[k + 1])
        u = u + sum(w[:, None] * d for w, d in zip(weights, values, strict=True))
    return u


@functools.partial(jax.jit, static_argnames=("num_steps", "order"))
def adams_decode(latents, anchors, num_steps, order=2, log_weights=None):
    """The mean at the last node; also the log assignments (S, m, n) at each evaluation."""
    r = decoding_grid(anchors, num_steps, log_weights)
    origin = jnp.zeros(len(latents), int)  # any anchor may be the point of view
    u, drifts, log_assignments = latents, [], []
    for k in range(num_steps):
        at, log_p = drift(u, jnp.full(len(u), r[k]), anchors, origin, log_weights)
        drifts.append(at)
        log_assignments.append(log_p)
        if k < num_steps - 1:
            known = range(max(0, k - order + 1), k + 1)
            weights = _interpolation_weights([r[j] for j in known], r[k], r[k + 1])
            u = u + sum(w * drifts[j] for w, j in zip(weights, known, strict=True))
    return drifts[-1] + anchors[0], jnp.stack(log_assignments)
