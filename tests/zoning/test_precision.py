"""Matrix products in less than float32: how much is lost, and where nothing is."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from oracle import in_float64, relative_error

from lzn_jax.zoning import AdamsBashforth, DPMSolver, Euler, alignment_loss, compute_latents
from lzn_jax.zoning.precision import PRECISIONS, matmul

# Half a unit in the last place of each format, and a few times that for sums.
UNIT = {"float32": 2**-24, "tensorfloat32": 2**-11, "bfloat16_3x": 2**-17, "bfloat16": 2**-9}


@pytest.mark.parametrize("precision", PRECISIONS)
def test_products_have_the_error_of_their_format(precision):
    rng = np.random.default_rng(0)
    a, b = (np.float32(rng.normal(size=shape)) for shape in ((32, 64), (64, 48)))
    product = matmul(jnp.asarray(a), jnp.asarray(b), precision)
    error = relative_error(product, np.float64(a) @ np.float64(b))
    assert UNIT[precision] / 16 < error < 4 * UNIT[precision]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_float64_is_never_rounded(precision, x64):
    rng = np.random.default_rng(0)
    a, b = (rng.normal(size=shape) for shape in ((32, 64), (64, 48)))
    assert relative_error(matmul(jnp.asarray(a), jnp.asarray(b), precision), a @ b) < 1e-15


def _latents(solver):
    rng = np.random.default_rng(1)
    anchors, noise = (np.float32(rng.normal(size=(48, 8))) for _ in range(2))
    own = np.arange(48)
    steps = solver.num_steps
    exact = in_float64(lambda a, e: oracle.euler_latents(a, e, own, steps), anchors, noise)
    return compute_latents(anchors, noise, solver=solver), exact


@pytest.mark.parametrize("precision", PRECISIONS)
def test_latents_lose_what_the_format_loses(precision):
    latents, exact = _latents(Euler(20, precision=precision))
    error = relative_error(latents, exact)
    assert error < 30 * UNIT[precision]
    if precision != "float32":
        assert error > UNIT[precision] / 30


OWN = np.arange(16)


@functools.cache
def _alignment():
    """Two sets of anchors and noise, and the exact loss and its gradient by both sets."""
    rng = np.random.default_rng(2)
    anchors, partners, noise = np.float32(rng.normal(size=(3, 16, 8)))
    arrays = anchors, np.float32(anchors + 0.5 * partners), np.float32(0.45) * noise

    def loss(anchors, partners):
        latents = oracle.euler_latents(anchors, np.float64(arrays[2]), OWN, 20)
        return oracle.euler_alignment_loss(latents, partners, OWN, 20, 0.2, "log")

    return arrays, oracle.value_and_gradients(loss, *map(np.float64, arrays[:2]))


@pytest.mark.parametrize("precision", PRECISIONS[1:])  # float32: test_accuracy.py
def test_gradients_lose_what_the_format_loses(precision):
    arrays, (exact_loss, exact_gradients) = _alignment()
    solver = Euler(20, precision=precision)

    @jax.jit
    @functools.partial(jax.value_and_grad, argnums=(0, 1))
    def loss(anchors, partners, noise):
        latents = compute_latents(anchors, noise, solver=solver)
        return alignment_loss(latents, partners, OWN, solver=solver)[0]

    value, gradients = loss(*arrays)
    assert relative_error(value, exact_loss) < 10 * UNIT[precision]
    for gradient, reference in zip(gradients, exact_gradients, strict=True):
        assert UNIT[precision] / 10 < relative_error(gradient, reference) < 10 * UNIT[precision]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_first_step_is_in_full_precision(precision):
    latents, _ = _latents(Euler(1, t_min=0.3, precision=precision))
    full, _ = _latents(Euler(1, t_min=0.3))
    np.testing.assert_array_equal(latents, full)


def test_steps_that_tell_near_anchors_apart_are_in_full_precision():
    # Where all products are rounded the error is 1.6 %: r times the distance of clusters is large.
    rng = np.random.default_rng(1)
    centers, offsets, noise = rng.normal(size=(3, 64, 16))
    anchors = np.float32(centers[rng.integers(0, 8, 64)] + 0.02 * offsets)
    rounded, full = (
        compute_latents(anchors, np.float32(noise), solver=AdamsBashforth(20, precision=precision))
        for precision in ("bfloat16", "float32")
    )
    assert 0 < relative_error(rounded, full) <= 2e-3


@pytest.mark.parametrize("scheme", [Euler, DPMSolver, AdamsBashforth])
def test_unknown_precision_names_the_known(scheme):
    with pytest.raises(ValueError, match="float32, tensorfloat32, bfloat16_3x, bfloat16"):
        scheme(5, precision="fp8")
