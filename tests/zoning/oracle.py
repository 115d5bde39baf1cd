"""Zoning and the exact flow in float64, independent of `lzn_jax.zoning` in code.

NumPy compiles nothing. The exact flow takes JAX's arrays as well, for gradients. Log weights may be
(m, n), those that each point sees.
"""

import jax
import jax.numpy as jnp
import numpy as np

from lzn_jax.zoning import AdamsBashforth


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


def _numpy(array):
    return jnp if isinstance(array, jax.Array) else np


def log_softmax(logits):
    """Over the last axis."""
    xp = _numpy(logits)
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - xp.log(xp.exp(shifted).sum(-1, keepdims=True))


def _posterior(logits, anchors):
    """Posterior mean (m, q), and log soft assignments (m, n)."""
    log_p = log_softmax(logits)
    return _numpy(log_p).exp(log_p) @ anchors, log_p


def fine_flow(x, anchors, t_start, t_end, num_steps):
    """The exact flow dx/dt = (x - ā) / t, for enough steps."""

    def velocity(x, t):
        squared = ((x[:, None] - (1 - t) * anchors) ** 2).sum(-1)
        return (x - _posterior(-0.5 * squared / t**2, anchors)[0]) / t

    return _runge_kutta(velocity, x, t_start, t_end, num_steps)


def _runge_kutta(v, x, start, end, num_steps):
    """dx/dt = v(x, t) from start to end."""
    h = (end - start) / num_steps

    def step(k, x):
        t = start + k * h
        k1 = v(x, t)
        k2 = v(x + h / 2 * k1, t + h / 2)
        k3 = v(x + h / 2 * k2, t + h / 2)
        k4 = v(x + h * k3, t + h)
        return x + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)

    if isinstance(x, jax.Array):
        return jax.lax.fori_loop(0, num_steps, step, x)
    for k in range(num_steps):
        x = step(k, x)
    return x


# The flow in r = (1-t)/t, and Adams-Bashforth on the grid that anchors choose. As x is seen from
# a_i, the point's own anchor, u = (x - (1-t) a_i) / t and x - (1-t) a_j = t (u - r (a_j - a_i)).


def _squared_distances(anchors, own):
    """(m, n) from the points' own anchors to all."""
    return ((anchors - anchors[own][:, None]) ** 2).sum(-1)


def drift_from(anchors, own, log_weights=0.0):
    """Function of u and r: du/dr = ā - a_i, and log soft assignments (m, n)."""
    centres, squared = anchors[own], _squared_distances(anchors, own)

    def drift(u, r):
        r = r[:, None]
        inner = u @ anchors.T - (u * centres).sum(-1, keepdims=True)
        mean, log_p = _posterior(r * inner - 0.5 * r**2 * squared + log_weights, anchors)
        return mean - centres, log_p

    return drift


def exact_latents(anchors, noise, own, num_steps=150, log_weights=0.0):
    """Classical Runge-Kutta of order 4 in s, r = sinh(s) / rms distance.

    150 steps are within 5e-6 of 400 on all cases of the tests.
    """
    xp = _numpy(anchors)
    squared = _squared_distances(anchors, own)
    if xp is jnp:
        squared = jax.lax.stop_gradient(squared)
    rms = xp.sqrt(squared.mean())
    nearest = xp.sqrt(xp.where(squared > 0, squared, xp.inf).min())
    longest = xp.sqrt((noise**2).sum(-1).max())
    start = xp.arcsinh(rms * (longest + 12) / nearest)
    drift = drift_from(anchors, own, log_weights)

    def v(u, s):
        return drift(u, xp.full(1, xp.sinh(s) / rms))[0] * xp.cosh(s) / rms

    return _runge_kutta(v, noise, start, 0.0, num_steps)


def adams_grid(anchors, noise, own, num_steps, before, log_weights):
    """Nodes r of each point: so many (before) at which nothing moves, its start, ..., 0."""
    anchors, noise, log_p = np.real(anchors), np.real(noise), log_softmax(np.real(log_weights))
    count = np.isfinite(log_p).sum(-1, keepdims=True)
    log_p = np.broadcast_to(log_p, (len(own), len(anchors)))
    log_own = np.take_along_axis(log_p, own[:, None], axis=1)
    d = np.sqrt(_squared_distances(anchors, own))
    rms = np.sqrt((d**2 * np.exp(log_p)).sum(-1))
    counts = (np.arange(len(anchors)) != own[:, None]) & (d > 3e-6 * rms[:, None])
    counts &= np.isfinite(log_p)
    d = np.where(counts, d, 1)
    g = (noise[:, None] * (anchors - anchors[own][:, None])).sum(-1) / d
    excess = np.maximum(0, 6 + np.log(count) + log_p - log_own)
    start = np.where(counts, (g + np.sqrt(g**2 + 2 * excess)) / d, 0).max(-1)
    shares = 1 - np.arange(-before, num_steps + 1)[:, None] / num_steps
    return 3 / rms * np.sinh(shares * np.arcsinh(start * rms / 3))


def decoding_grid(anchors, num_steps, log_weights):
    """Nodes r (num_steps, 1) from 0 to where neighbouring anchors are separated."""
    anchors, p = np.real(anchors), np.exp(log_softmax(np.real(log_weights)))
    of_kept = np.linspace(0, np.sum(p > 0) - 1, len(p)).round().astype(int)  # one an anchor
    anchors, p = anchors[p > 0], p[p > 0]
    d = np.sqrt(_squared_distances(anchors, np.arange(len(p))))
    rms = np.sqrt(p @ d**2 @ p)
    nearest = np.where(d > 0, d, np.inf).min(-1)[of_kept]
    last = 1.5 * (2 * np.sqrt(2 * np.log(len(p))) + 1) / np.median(nearest)
    shares = np.arange(num_steps)[:, None] / max(1, num_steps - 1)
    return 3 / rms * np.sinh(shares * np.arcsinh(last * rms / 3))


def _interpolation_weights(nodes, start, end):
    """Weights (p, m) that integrate all polynomials of degree p - 1 from their values at nodes."""
    scale, powers = end - start, np.arange(len(nodes))
    moments = np.broadcast_to(1 / (powers + 1.0), (len(scale), len(nodes)))
    matrix = ((np.stack(nodes, -1) - start[:, None]) / scale[:, None])[:, None]
    values = np.linalg.solve(matrix ** powers[:, None], moments[..., None])[..., 0]
    return scale * values.T


def adams_latents(anchors, noise, own, num_steps, order, log_weights):
    """The last of the steps also knows the drift at r = 0, where nothing depends on u."""
    r = adams_grid(anchors, noise, own, num_steps, order - 1, log_weights)
    drift = drift_from(anchors, own, log_weights)
    drifts = [np.zeros_like(noise)] * (order - 1)
    u = noise
    for k in range(order - 1, order - 1 + num_steps):
        drifts.append(drift(u, r[k])[0])
        nodes, values = list(r[k - order + 1 : k + 1]), drifts[k - order + 1 :]
        if k == order - 2 + num_steps:
            nodes.append(r[-1])
            values = [*values, drift(u, r[-1])[0]]
        weights = _interpolation_weights(nodes, r[k], r[k + 1])
        u = u + sum(w[:, None] * d for w, d in zip(weights, values, strict=True))
    return u


def adams_decode(latents, anchors, num_steps, order, log_weights):
    """The mean at the last node; also the log assignments (S, m, n) at each evaluation."""
    r = decoding_grid(anchors, num_steps, log_weights)
    # Any anchor may be the point of view.
    drift = drift_from(anchors, np.zeros(len(latents), int), log_weights)
    u, drifts, log_assignments = latents, [], []
    for k in range(num_steps):
        at, log_p = drift(u, r[k])
        drifts.append(at)
        log_assignments.append(log_p)
        if k < num_steps - 1:
            known = range(max(0, k - order + 1), k + 1)
            weights = _interpolation_weights([r[j] for j in known], r[k], r[k + 1])
            u = u + sum(w[:, None] * drifts[j] for w, j in zip(weights, known, strict=True))
    return drifts[-1] + anchors[0], np.stack(log_assignments)


def _on_grid(start, own, anchors, solver, log_weights):
    """End and log assignments of a solver whose noise levels are the same for all points."""
    levels = solver.noise_levels("anchors" if own is None else "prior")
    factors = solver.factors(levels)
    t, u = levels[0], start
    if own is None:
        own = np.zeros(len(start), int)
        u = (start - (1 - t) * anchors[own]) / t
    drift = drift_from(anchors, own, log_weights)
    drifts, log_assignments = [], []
    for t, after, weights in zip(levels[:-1], levels[1:], factors, strict=True):
        at, log_p = drift(u, np.array([(1 - t) / t]))
        drifts.insert(0, at)  # those before the start are 0
        log_assignments.append(log_p)
        change = sum(w * d for w, d in zip(weights, drifts, strict=False))
        end = after * u + change + (1 - after) * anchors[own]
        u = u + change / after if after > 0 else None
    return end, np.stack(log_assignments)


# The functions of `zoning`; complex arrays pass through them.


def compute_latents(anchors, noise, own=None, *, solver, log_weights=None):
    log_weights = np.zeros(len(anchors)) if log_weights is None else log_weights
    own = np.arange(len(anchors)) if own is None else own
    if isinstance(solver, AdamsBashforth):
        return adams_latents(anchors, noise, own, solver.num_steps, solver.order, log_weights)
    return _on_grid(noise, own, anchors, solver, log_weights)[0]


def latents_in_context(queries, context, noise, *, solver, log_weights=None):
    m, n = len(queries), len(context)
    log_weights = np.zeros(n) if log_weights is None else log_weights
    alone = np.where(np.eye(m, dtype=bool), 0, -np.inf)
    seen = np.concatenate([np.broadcast_to(log_weights, (m, n)), alone], axis=1)
    anchors = np.concatenate([context, queries])
    return compute_latents(anchors, noise, n + np.arange(m), solver=solver, log_weights=seen)


def _follow(latents, anchors, solver, log_weights):
    """Ends of the flow to the anchors, and log assignments (S, m, n)."""
    log_weights = np.zeros(len(anchors)) if log_weights is None else log_weights
    if isinstance(solver, AdamsBashforth):
        order = min(solver.order, 2)
        return adams_decode(latents, anchors, solver.num_steps, order, log_weights)
    return _on_grid(latents, None, anchors, solver, log_weights)


def decode(latents, anchors, *, solver, log_weights=None):
    return _follow(latents, anchors, solver, log_weights)[0]


def log_assignments(latents, anchors, *, solver, log_weights=None):
    return _follow(latents, anchors, solver, log_weights)[1]


def classify(latents, anchors, **kwargs):
    ends = decode(latents, anchors, **kwargs)
    return np.linalg.norm(ends[:, None] - anchors, axis=-1).argmin(1)


def assignment_log_probs(latents, anchors, targets, **kwargs):
    return log_assignments(latents, anchors, **kwargs)[:, np.arange(len(targets)), targets]


def alignment_loss(latents, anchors, targets, *, solver, cutoff=0.2, form="log", log_weights=None):
    ends, log_p = _follow(latents, anchors, solver, log_weights)
    own = log_p[:, np.arange(len(targets)), targets]
    best = own[int(cutoff * solver.num_steps) :].max(0)
    off, norms = (np.linalg.norm(a, axis=1) for a in (ends - anchors[targets], anchors[targets]))
    return -(best if form == "log" else np.exp(best)).mean(), {
        "assignment_accuracy": np.mean(np.argmax(log_p[-1].real, axis=1) == targets),
        "ode_error": np.mean(off / norms),
    }


def gradients(function, *arrays):
    """Of a number: imaginary parts after imaginary steps, exact because nothing is subtracted."""

    def slope(k, index):
        moved = [np.array(a, complex if i == k else float) for i, a in enumerate(arrays)]
        moved[k][index] += 1e-30j
        return function(*moved).imag / 1e-30

    return tuple(
        np.array([slope(k, index) for index in np.ndindex(a.shape)]).reshape(a.shape)
        for k, a in enumerate(map(np.asarray, arrays))
    )
