"""Blocks and devices: what they must not change."""

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from oracle import in_float64, relative_error

from lzn_jax.zoning import DPMSolver, Euler, alignment_loss, compute_latents, integrate
from lzn_jax.zoning.rows import in_blocks, over_devices


def _weighted_moments(shared, rows, linear, sums):
    """A row function whose results are easy to state without it."""
    outputs = rows["x"] @ shared
    return outputs, sums + linear @ rows["x"]


@pytest.mark.parametrize("count", [1, 4, 8, 11])
def test_blocks_give_the_rows_and_sums_of_all(count):
    rng = np.random.default_rng(0)
    x, matrix, weights = rng.normal(size=(count, 3)), rng.normal(size=(3, 2)), rng.random(count)
    blocked = in_blocks(_weighted_moments, max_rows=4)
    outputs, sums = blocked(matrix, {"x": jnp.asarray(x)}, jnp.asarray(weights), jnp.ones(3))
    np.testing.assert_allclose(outputs, x @ matrix, rtol=1e-5)
    np.testing.assert_allclose(sums, 1 + weights @ x, rtol=1e-5)


def test_vmap_over_devices_is_vmap():
    rng = np.random.default_rng(1)
    x, matrix, weights = rng.normal(size=(2, 5, 3)), rng.normal(size=(3, 2)), rng.random((2, 5))
    call = over_devices(_weighted_moments, lambda shared: jnp.zeros(3))
    outputs, sums = jax.vmap(call, in_axes=(None, 0, 0))(matrix, {"x": x}, weights)
    np.testing.assert_allclose(outputs, x @ matrix, rtol=1e-5)
    np.testing.assert_allclose(sums, np.einsum("bm,bmq->bq", weights, x), rtol=1e-5)


@pytest.mark.parametrize("solver", [Euler(5), DPMSolver(5)], ids=["Euler", "DPM"])
def test_small_blocks_change_neither_latents_nor_gradients(solver, monkeypatch):
    n, m, q = 7, 13, 3
    rng = np.random.default_rng(2)
    anchors, noise = (np.float32(rng.normal(size=(k, q))) for k in (n, m))
    own, targets = jnp.asarray(rng.integers(0, n, (2, m)))
    names = {Euler: ("euler_latents", "euler_decode"), DPMSolver: ("dpm_latents", "dpm_decode")}
    latents_of, decode_of = (getattr(oracle, name) for name in names[type(solver)])

    def value_and_grad(loss):
        return jax.value_and_grad(loss, argnums=(0, 1))

    def exact(anchors, noise):
        latents = latents_of(anchors, noise, own, 5)
        _, log_p = decode_of(latents, anchors, 5)
        best = jnp.max(log_p[1:, jnp.arange(m), targets], axis=0)
        return jnp.sum(latents**2) - jnp.mean(best)

    def blocked(anchors, noise):
        # Not the jitted functions, which may remember larger blocks.
        latents = compute_latents.__wrapped__(anchors, noise, own, solver=solver)
        loss, _ = alignment_loss.__wrapped__(latents, anchors, targets, solver=solver)
        return jnp.sum(latents**2) + loss

    monkeypatch.setattr(integrate, "BLOCK_LOGITS", 4 * n)  # 13 rows: blocks of 4, filled up
    loss, gradients = jax.jit(value_and_grad(blocked))(anchors, noise)
    exact_loss, exact_gradients = in_float64(value_and_grad(exact), anchors, noise)
    assert float(loss) == pytest.approx(float(exact_loss), rel=1e-5)
    for gradient, reference in zip(gradients, exact_gradients, strict=True):
        assert relative_error(gradient, reference) < 1e-4
