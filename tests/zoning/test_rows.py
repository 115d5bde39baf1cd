"""Blocks and devices: what they must not change."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from oracle import relative_error

from lzn_jax.run import sharding
from lzn_jax.zoning import (
    AdamsBashforth,
    DPMSolver,
    Euler,
    alignment_loss,
    compute_latents,
    rows,
)
from lzn_jax.zoning.devices import over_devices, spread
from lzn_jax.zoning.flow import Mixture, centred
from lzn_jax.zoning.rows import in_blocks


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


@pytest.mark.parametrize("count", [1, 8, 11])
def test_devices_give_the_rows_and_sums_of_all(count):
    rng = np.random.default_rng(1)
    x, matrix, weights = rng.normal(size=(count, 3)), rng.normal(size=(3, 2)), rng.random(count)

    @jax.jit
    def call(matrix, rows, weights):
        matrix, rows, weights = spread(matrix, rows, weights)
        over = over_devices(_weighted_moments, lambda shared: jnp.zeros(3))
        return over(matrix, rows, weights)

    with jax.set_mesh(sharding.make_mesh(8)):
        outputs, sums = call(jnp.asarray(matrix), {"x": jnp.asarray(x)}, jnp.asarray(weights))
    np.testing.assert_allclose(outputs[:count], x @ matrix, rtol=1e-5)
    np.testing.assert_allclose(sums, weights @ x, rtol=1e-5)


# 130 dimensions: anchors' gradients are added up in two parts, and what is left over.
@pytest.mark.parametrize(
    ("solver", "q"),
    [(Euler(5), 3), (Euler(5), 130), (DPMSolver(5), 3), (AdamsBashforth(5), 3)],
    ids=str,
)
def test_small_blocks_change_neither_latents_nor_gradients(solver, q, monkeypatch):
    n, m = (7, 13) if q == 3 else (4, 5)
    rng = np.random.default_rng(2)
    # Close enough together to share latents, in any number of dimensions.
    arrays = [np.float32(rng.normal(size=(k, q)) / np.sqrt(q / 3)) for k in (n, m)]
    own, targets = jnp.asarray(rng.integers(0, n, (2, m)))
    scheme = {Euler: "euler", DPMSolver: "dpm", AdamsBashforth: "adams"}[type(solver)]
    latents_of, decode_of = (getattr(oracle, f"{scheme}_{name}") for name in ("latents", "decode"))

    def exact(anchors, noise):
        latents = latents_of(anchors, noise, own, 5)
        loss = oracle.alignment_loss(decode_of(latents, anchors, 5)[1], targets, 1)
        return (latents**2).sum((-1, -2)) + loss

    def blocked(anchors, noise):
        # Not the jitted functions, which may remember larger blocks.
        latents = compute_latents.__wrapped__(anchors, noise, own, solver=solver)
        loss, _ = alignment_loss.__wrapped__(latents, anchors, targets, solver=solver)
        return jnp.sum(latents**2) + loss

    monkeypatch.setattr(rows, "BLOCK_LOGITS", 4 * n)  # blocks of at most 4 rows, filled up
    loss, gradients = jax.jit(jax.value_and_grad(blocked, (0, 1)))(*arrays)
    exact_loss, exact_gradients = oracle.value_and_gradients(exact, *map(np.float64, arrays))
    assert float(loss) == pytest.approx(exact_loss, rel=1e-5)
    for gradient, reference in zip(gradients, exact_gradients, strict=True):
        assert relative_error(gradient, reference) < 1e-4


def test_8_devices_need_a_quarter_of_the_memory_each():
    n, q = 8192, 256

    @jax.jit
    @functools.partial(jax.value_and_grad, argnums=(0, 1))
    def loss(anchors, partners, noise):
        latents = compute_latents(anchors, noise, solver=Euler(20))
        return alignment_loss(latents, partners, jnp.arange(n), solver=Euler(20))[0]

    def temporaries(num_devices):
        mesh = sharding.make_mesh(n, jax.devices()[:num_devices])
        rows = jax.ShapeDtypeStruct((n, q), jnp.float32, sharding=sharding.split(mesh))
        with jax.set_mesh(mesh):
            program = loss.lower(rows, rows, rows).compile()
        return program.memory_analysis().temp_size_in_bytes

    whole = temporaries(1)
    assert whole <= 300e6
    assert temporaries(8) <= whole / 4


@pytest.mark.parametrize("middle", [0.0, 1.0, -5.0, 25.0, 300.0])
def test_centering_rounds_nothing(middle):
    rng = np.random.default_rng(3)
    spreads = np.float32(10.0) ** np.arange(-6, 3)
    anchors = np.float32(middle + spreads * rng.normal(size=(20, 9)))
    anchors[7] = 0  # removed: its place does not count
    log_weights = np.where(np.arange(20) == 7, -np.inf, 0).astype(np.float32)
    mixture, origin = centred(Mixture(jnp.asarray(anchors), jnp.asarray(log_weights)))
    kept = np.arange(20) != 7
    exact = anchors.astype(np.float64) - np.asarray(origin, np.float64)
    np.testing.assert_array_equal(np.asarray(mixture.anchors_NxQ, np.float64)[kept], exact[kept])
    is_far = 10 * spreads < abs(middle)
    assert np.all(np.abs(exact[kept][:, is_far]) < 4 * spreads[is_far])
