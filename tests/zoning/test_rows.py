"""Blocks and devices: what they must not change."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
import small

from lzn_jax import zoning
from lzn_jax.run import devices
from lzn_jax.zoning import AdamsBashforth, DPMSolver, Euler, alignment_loss, compute_latents
from lzn_jax.zoning import devices as devices_module
from lzn_jax.zoning.devices import in_blocks, over_devices, place_rows
from lzn_jax.zoning.flow import Mixture, centred


def _weighted_moments(shared, rows, linear, sums):
    """A row function whose results are easy to state without it."""
    outputs = rows["x"] @ shared
    return outputs, sums + linear @ rows["x"]


@pytest.mark.parametrize("count", [1, 4, 8, 11])
@pytest.mark.parametrize("divided_by", ["blocks", "devices"])
def test_blocks_give_and_devices_give_the_rows_and_sums_of_all(count, divided_by):
    rng = np.random.default_rng(0)
    x, matrix, weights = rng.normal(size=(count, 3)), rng.normal(size=(3, 2)), rng.random(count)
    arrays = jax.tree.map(np.float32, (matrix, {"x": x}, weights))
    if divided_by == "blocks":
        blocked = jax.jit(in_blocks(_weighted_moments, max_rows=4))
        outputs, sums = blocked(*arrays, np.ones(3, np.float32))
    else:
        over = over_devices(_weighted_moments, lambda shared: jnp.ones(3) / 8)
        with jax.set_mesh(devices.make_mesh(8)):
            outputs, sums = jax.jit(lambda *arrays: over(*place_rows(*arrays)))(*arrays)
    np.testing.assert_allclose(np.asarray(outputs)[:count], x @ matrix, rtol=1e-5)
    np.testing.assert_allclose(sums, 1 + weights @ x, rtol=1e-5)


# 130 dimensions: anchors' gradients are added up in two parts, and what is left over.
@pytest.mark.parametrize(
    ("solver", "q"),
    [(AdamsBashforth(5), 3), *small.slow((Euler(5), 3), (Euler(5), 130), (DPMSolver(5), 3))],
    ids=str,
)
def test_small_blocks_change_neither_latents_nor_gradients(solver, q, monkeypatch, x64):
    n, m = (7, 13) if q == 3 else (4, 5)
    rng = np.random.default_rng(2)
    # Close enough together to share latents, in any number of dimensions.
    arrays = [rng.normal(size=(k, q)) / np.sqrt(q / 3) for k in (n, m)]
    own, targets = rng.integers(0, n, (2, m))

    def loss(anchors, noise, own, targets, compute_latents, alignment_loss):
        latents = compute_latents(anchors, noise, own, solver=solver)
        return (latents**2).sum() + alignment_loss(latents, anchors, targets, solver=solver)[0]

    # Not the jitted functions, which remember the size of blocks.
    functions = (f.__wrapped__ for f in (zoning.compute_latents, zoning.alignment_loss))
    found = jax.jit(jax.value_and_grad(lambda *arrays: loss(*arrays, *functions), (0, 1)))

    def exact(*arrays):
        return loss(*arrays, own, targets, oracle.compute_latents, oracle.alignment_loss)

    monkeypatch.setattr(devices_module, "BLOCK_LOGITS", 4 * n)  # 4 rows, the last block filled up
    expected = exact(*arrays), oracle.gradients(exact, *arrays)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-9)
    jax.tree.map(close, found(*arrays, own, targets), expected)


def test_8_devices_need_a_quarter_of_the_memory_each():
    n, q = 8192, 256

    @jax.jit
    @functools.partial(jax.value_and_grad, argnums=(0, 1))
    def loss(anchors, partners, noise):
        latents = compute_latents(anchors, noise, solver=Euler(20))
        return alignment_loss(latents, partners, jnp.arange(n), solver=Euler(20))[0]

    def temporaries(num_devices):
        mesh = devices.make_mesh(n, jax.devices()[:num_devices])
        rows = jax.ShapeDtypeStruct((n, q), jnp.float32, sharding=devices.split(mesh))
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
    mixture, origin = jax.jit(centred)(Mixture(anchors, log_weights))
    kept = np.arange(20) != 7
    exact = anchors.astype(np.float64) - np.asarray(origin, np.float64)
    np.testing.assert_array_equal(np.asarray(mixture.anchors_NxQ, np.float64)[kept], exact[kept])
    is_far = 10 * spreads < abs(middle)
    assert np.all(np.abs(exact[kept][:, is_far]) < 4 * spreads[is_far])
