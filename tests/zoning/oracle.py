"""The exact flow and Adams-Bashforth in float64: the oracle where `zoning.plain` has no solver.

Independent of `lzn_jax.zoning` in form and code. NumPy compiles nothing, and complex numbers give
gradients of few numbers (`value_and_gradients`). Those of many are JAX's: the exact flow takes
arrays of either. All arrays may have more axes in front, and log weights may be (m, n), those that
each point sees.
"""

import jax
import jax.numpy as jnp
import numpy as np


def in_float64(function, *arrays):
    """What `function` makes of the arrays cast to float64, as NumPy arrays."""
    with jax.enable_x64(True):
        outputs = function(*(np.asarray(a, np.float64) for a in arrays))
        return jax.tree.map(np.asarray, outputs)


def value_and_gradients(function, *arrays):
    """A number that NumPy makes of arrays, and its gradients: complex steps, of which one each."""
    ends = np.cumsum([a.size for a in arrays])
    steps = np.split(1e-30j * np.eye(ends[-1]), ends[:-1], axis=1)
    values = function(*(a + s.reshape(-1, *a.shape) for a, s in zip(arrays, steps, strict=True)))
    gradients = np.split(1e30 * values.imag, ends[:-1])
    return values.real[0], tuple(g.reshape(a.shape) for a, g in zip(arrays, gradients, strict=True))


def relative_error(value, reference):
    """|value - reference| / |reference| in the Frobenius norm."""
    reference = np.asarray(reference, np.float64)
    difference = np.asarray(value, np.float64) - reference
    return np.linalg.norm(difference) / np.linalg.norm(reference)


def _numpy(array):
    return jnp if isinstance(array, jax.Array) else np


def _scan(step, state, count):
    """`jax.lax.scan` over numbers from 0 on, where the state is JAX's."""
    if isinstance(state, jax.Array):
        return jax.lax.scan(step, state, jnp.arange(count))
    outputs = []
    for k in range(count):
        state, output = step(state, k)
        outputs.append(output)
    return state, outputs[0] if outputs[0] is None else np.stack(outputs)


def _squared_lengths(vectors):
    return _numpy(vectors).einsum("...q,...q->...", vectors, vectors)


def _log_softmax(logits):
    shifted = logits - logits.real.max(-1, keepdims=True)
    return shifted - _numpy(logits).log(_numpy(logits).exp(shifted).sum(-1, keepdims=True))


def log_posterior(x, t, anchors, log_weights=0.0):
    """Log soft assignment (m, n) of points x (m, q) at noise level t to anchors (n, q)."""
    differences = x[..., None, :] - (1 - t) * anchors[..., None, :, :]
    return _log_softmax(-0.5 * _squared_lengths(differences) / t**2 + log_weights)


def _mean(log_p, anchors):
    return _numpy(log_p).exp(log_p) @ anchors


def latents_in_context(latents, queries, context, noise, log_weights=None, **kwargs):
    """By a scheme: each query's latent among the context and itself, whose log weight is 0."""
    m, n, q = *queries.shape[-2:-1], *context.shape[-2:]
    everywhere = np.broadcast_to(context[..., None, :, :], (*context.shape[:-2], m, n, q))
    joined = np.concatenate([everywhere, queries[..., None, :]], axis=-2)
    if log_weights is not None:
        zero = np.zeros((*log_weights.shape[:-1], 1))
        kwargs["log_weights"] = np.concatenate([log_weights, zero], -1)[..., None, None, :]
    return latents(joined, noise[..., None, :], np.array([n]), **kwargs)[..., 0, :]


def velocity(x, t, anchors, log_weights=0.0):
    """dx/dt = (x - ā) / t."""
    return (x - _mean(log_posterior(x, t, anchors, log_weights), anchors)) / t


def alignment_loss(log_assignments, targets, dropped, form="log"):
    """The same of log assignments (S, m, n), of which so many are dropped."""
    best = log_assignments[dropped:, ..., np.arange(len(targets)), targets].max(0)
    return -(best if form == "log" else _numpy(best).exp(best)).mean(-1)


def fine_flow(x, anchors, t_start, t_end, num_steps):
    """Classical Runge-Kutta of order 4 on t: the exact flow, for enough steps."""
    return _runge_kutta(lambda x, t: velocity(x, t, anchors), x, t_start, t_end, num_steps)


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

    return _scan(step, x, num_steps)[0]


# The flow in r = (1-t)/t, and Adams-Bashforth on the grid that anchors choose. As x is seen from
# a_i, the point's own anchor, u = (x - (1-t) a_i) / t and x - (1-t) a_j = t (u - r (a_j - a_i)).


def _squared_distances(anchors, own):
    """(m, n) from the points' own anchors to all."""
    return _squared_lengths(anchors[..., None, :, :] - anchors[..., own, :][..., None, :])


def drift_from(anchors, own, log_weights=0.0):
    """Function of u and r: du/dr = ā - a_i, and log soft assignments (m, n)."""
    centres, transposed = anchors[..., own, :], anchors.swapaxes(-1, -2)
    squared = _squared_distances(anchors, own)

    def drift(u, r):
        r = r[..., None]
        inner = u @ transposed - (u * centres).sum(-1)[..., None]
        log_p = _log_softmax(r * inner - 0.5 * r**2 * squared + log_weights)
        return _mean(log_p, anchors) - centres, log_p

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
    start = xp.arcsinh(rms * (xp.sqrt(_squared_lengths(noise).max()) + 12) / nearest)
    drift = drift_from(anchors, own, log_weights)

    def v(u, s):
        return drift(u, xp.full(1, xp.sinh(s) / rms))[0] * xp.cosh(s) / rms

    return _runge_kutta(v, noise, start, 0.0, num_steps)


def _or_one(rms):
    """One where there are no distances: nothing moves on any grid."""
    return np.where(rms > 0, rms, 1)


def adams_grid(anchors, noise, own, num_steps, before, log_weights=0.0):
    """Nodes r of each point: so many (before) at which nothing moves, its start, ..., 0."""
    n, m = anchors.shape[-2], len(own)
    log_p = _log_softmax(np.broadcast_to(np.real(log_weights), (*anchors.shape[:-2], m, n)))
    anchors, noise = anchors.real, noise.real
    d = np.sqrt(_squared_distances(anchors, own))
    rms = _or_one(np.sqrt((d**2 * np.exp(log_p)).sum(-1)))
    counts = (np.arange(n) != np.asarray(own)[:, None]) & (d > 3e-6 * rms[..., None])
    d = np.where(counts, d, 1)
    offsets = anchors[..., None, :, :] - anchors[..., own, None, :]
    g = (noise[..., None, :] * offsets).sum(-1) / d
    excess = np.maximum(0, 6 + np.log(n) + log_p - log_p[..., np.arange(m), own][..., None])
    start = np.where(counts, (g + np.sqrt(g**2 + 2 * excess)) / d, 0).max(-1)
    start = np.where(start > 0, start, 3 / rms)
    shares = 1 - np.arange(-before, num_steps + 1) / num_steps
    shares = shares.reshape(-1, *(1,) * start.ndim)
    return 3 / rms * np.sinh(shares * np.arcsinh(start * rms / 3))


def decoding_grid(anchors, num_steps, log_weights=0.0):
    """Nodes r (num_steps, 1) from 0 to where neighbouring anchors are told apart."""
    n = anchors.shape[-2]
    d = np.sqrt(_squared_distances(anchors.real, np.arange(n)))
    log_p = _log_softmax(np.broadcast_to(np.real(log_weights), (*anchors.shape[:-2], 1, n)))
    p = np.exp(log_p[..., 0, :])
    rms = _or_one(np.sqrt(np.einsum("...n,...nk,...k->...", p, d**2, p)))[..., None]
    nearest = np.where(d > 0, d, np.inf).min(-1)
    last = 1.5 * (2 * np.sqrt(2 * np.log(n)) + 1) / np.median(nearest, -1)[..., None]
    last = np.where(np.isinf(nearest).all(-1)[..., None], 1, last)
    shares = (np.arange(num_steps) / max(1, num_steps - 1)).reshape(-1, *(1,) * last.ndim)
    return 3 / rms * np.sinh(shares * np.arcsinh(last * rms / 3))


def _interpolation_weights(nodes, start, end):
    """Weights (p, m) that integrate all polynomials of degree p - 1 from their values at nodes."""
    scale = end - start
    powers = np.arange(len(nodes))
    moments = np.broadcast_to(1 / (powers + 1.0), (*scale.shape, len(nodes)))
    matrix = ((np.stack(nodes, -1) - start[..., None]) / scale[..., None])[..., None, :]
    values = np.linalg.solve(matrix ** powers[:, None], moments[..., None])[..., 0]
    return scale * np.moveaxis(values, -1, 0)


def adams_latents(anchors, noise, own, num_steps, order=3, log_weights=0.0):
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
        u = u + sum(w[..., None] * d for w, d in zip(weights, values, strict=True))
    return u


def adams_decode(latents, anchors, num_steps, order=2, log_weights=0.0):
    """The mean at the last node; also the log assignments (S, m, n) at each evaluation."""
    r = decoding_grid(anchors, num_steps, log_weights)
    # Any anchor may be the point of view.
    drift = drift_from(anchors, np.zeros(latents.shape[-2], int), log_weights)
    u, drifts, log_assignments = latents, [], []
    for k in range(num_steps):
        at, log_p = drift(u, r[k])
        drifts.append(at)
        log_assignments.append(log_p)
        if k < num_steps - 1:
            known = range(max(0, k - order + 1), k + 1)
            weights = _interpolation_weights([r[j] for j in known], r[k], r[k + 1])
            u = u + sum(w[..., None] * drifts[j] for w, j in zip(weights, known, strict=True))
    return drifts[-1] + anchors[..., :1, :], np.stack(log_assignments)
