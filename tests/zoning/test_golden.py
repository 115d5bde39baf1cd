"""Numbers of a public PyTorch reference: every latent flow and every gradient that was recorded.

`*_f64` arrays are the reference run in float64 on the float32 inputs; the reference's own float32
run is 1e-3 off in the latents. What float32 rounds here is the subject of `test_accuracy.py`.

So that a program serves several vectors, they are filled up to one shape: by removed anchors, by
rows that do not count and by dimensions in which all is 0.
"""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lzn_jax.zoning import (
    DPMSolver,
    Euler,
    alignment_loss,
    assignment_log_probs,
    classify,
    compute_latents,
    decode,
)

pytestmark = pytest.mark.usefixtures("x64")

GOLDEN = Path(__file__).parents[1] / "golden"
FLOWS = sorted(path.stem for path in GOLDEN.glob("flow_*.npz"))
ALIGNMENTS = sorted(path.stem for path in GOLDEN.glob("grad_align_*.npz"))
SHAPES = {8: (16, 16, 4), 20: (64, 64, 32), 100: (10, 50, 16)}  # n, m and q by number of steps
_assert_close = functools.partial(np.testing.assert_allclose, rtol=0, atol=1e-9)


@functools.cache
def _load(name):
    with np.load(GOLDEN / f"{name}.npz") as arrays:
        return dict(arrays)


def _filled(array, *shape, value=0):
    """The array, float64 if it has floats, followed by a value up to a shape."""
    after = [(0, size - len_) for size, len_ in zip(shape, array.shape, strict=True)]
    dtype = np.int32 if array.dtype.kind == "i" else np.float64
    return np.pad(array.astype(dtype), after, constant_values=value)


def _log(weights):
    with np.errstate(divide="ignore"):
        return np.log(weights.astype(np.float64))


def _solver(name, arrays):
    scheme = DPMSolver if name.startswith("flow_dpm") else Euler
    return scheme(int(arrays["num_steps"]))


def _mixture(name):
    """Anchors, the solver, and the number of anchors, rows and dimensions after filling up."""
    arrays = _load(name)
    anchors = arrays["label_anchors" if "label_anchors" in arrays else "full_anchors"]
    n, m, q = SHAPES[int(arrays["num_steps"])]
    return anchors, _solver(name, arrays), n, m, q


def test_the_vectors_are_there():
    assert len(FLOWS) == 9
    assert len(ALIGNMENTS) == 4


@pytest.mark.parametrize("name", FLOWS)
def test_latents(name):
    arrays = _load(name)
    anchors, solver, n, m, q = _mixture(name)
    if "label_anchors" in arrays:
        own, noise, expected = (arrays[key] for key in ("labels", "gen_eps", "gen_latents_f64"))
    else:
        noise, expected = arrays["eps"], arrays["latents_f64"]
        same = np.all(arrays["encoded"][:, None] == anchors[None], axis=-1)
        own = np.argmax(same, axis=1)
        assert np.all(same.sum(axis=1) == 1)
    log_weights = _filled(np.zeros(len(anchors)), n, value=-np.inf)
    inputs = _filled(anchors, n, q), _filled(noise, m, q), _filled(own, m)
    latents = np.asarray(compute_latents(*inputs, solver=solver, log_weights=log_weights))
    _assert_close(latents[: len(noise), : noise.shape[1]], expected)


@functools.partial(jax.jit, static_argnames="solver")
def _ends(latents, anchors, **kwargs):
    """Points, and assignments (S, m, n) of every latent to every anchor."""
    m, n = len(latents), len(anchors)
    targets = jnp.tile(jnp.arange(n), m)
    log_probs = assignment_log_probs(jnp.repeat(latents, n, axis=0), anchors, targets, **kwargs)
    return decode(latents, anchors, **kwargs), jnp.exp(log_probs).reshape(-1, m, n)


@pytest.mark.parametrize("weighted", [False, True], ids=["uniform", "weighted"])
@pytest.mark.parametrize("name", [name for name in FLOWS if name != "flow_dpm_medium"])
def test_decoding(name, weighted):
    arrays = _load(name)
    anchors, solver, n, m, q = _mixture(name)
    is_label = "label_anchors" in arrays
    latents, kind = arrays["latents" if is_label else "rev_init"], "revw" if weighted else "rev"
    weights = np.ones(len(anchors))
    if weighted:
        weights = arrays["class_weights" if is_label else "rev_weights"]
    kwargs = {"solver": solver, "log_weights": _filled(_log(weights), n, value=-np.inf)}
    inputs = _filled(latents, m, q), _filled(anchors, n, q)
    points, assignments = jax.device_get(_ends(*inputs, **kwargs))
    rows, width = latents.shape
    _assert_close(points[:rows, :width], arrays[f"{kind}_final_f64"])
    pdfs = arrays[f"{kind}_pdfs_f64"]
    expected = pdfs / pdfs.sum(axis=-1, keepdims=True)
    _assert_close(assignments[:, :rows, : len(anchors)], expected)
    if is_label:
        predictions = np.asarray(classify(*inputs, **kwargs))[:rows]
        np.testing.assert_array_equal(predictions, arrays[f"{kind}_pred_f64"])


@functools.partial(jax.jit, static_argnames=("solver", "cutoff"))
@functools.partial(jax.value_and_grad, argnums=(0, 1), has_aux=True)
def _alignment(anchors, partners, noise, own, is_kept, solver, cutoff):
    log_weights = jnp.where(is_kept, 0, -jnp.inf)
    kwargs = {"solver": solver, "log_weights": log_weights}
    latents = compute_latents(anchors, noise, own, **kwargs)
    kwargs |= {"cutoff": cutoff, "is_present": is_kept}
    return alignment_loss(latents, partners, own, **kwargs)[0], latents


@pytest.mark.parametrize("name", ALIGNMENTS)
def test_alignment_loss_and_gradients(name):
    arrays = _load(name)
    cutoff, solver = float(arrays["cut_off_fraction"]), _solver(name, arrays)
    inputs = [_filled(arrays[key], 32, 16) for key in ("anchors1", "anchors2", "eps")]
    inputs[2] *= arrays["prior_data_scale"]
    n, q = arrays["anchors1"].shape
    own = _filled(np.arange(n), 32)
    found = _alignment(*inputs, own, np.arange(32) < n, solver=solver, cutoff=cutoff)
    (value, latents), gradients = jax.device_get(found)
    _assert_close(value, arrays["loss_f64"])
    _assert_close(latents[:n, :q], arrays["latents_f64"])
    for found, name in zip(gradients, ("grad_anchors1_f64", "grad_anchors2_f64"), strict=True):
        _assert_close(found[:n, :q], arrays[name])


def test_label_alignment_loss_and_gradients():
    arrays = _load("grad_label")
    latents, anchors = (np.float64(arrays[key]) for key in ("latents", "label_anchors"))
    log_weights = _log(arrays["class_weights"])
    kwargs = {"solver": Euler(int(arrays["num_steps"])), "log_weights": log_weights}

    def loss(latents, anchors):
        cutoff = float(arrays["cut_off_fraction"])
        arguments = latents, anchors, arrays["labels"]
        return alignment_loss(*arguments, cutoff=cutoff, form="prob", **kwargs)[0]

    value, gradients = jax.jit(jax.value_and_grad(loss, (0, 1)))(latents, anchors)
    _assert_close(value, arrays["loss_f64"])
    _assert_close(gradients[0], arrays["grad_latents_f64"])
    _assert_close(gradients[1], arrays["grad_label_anchors_f64"])
    _assert_close(decode(latents, anchors, **kwargs), arrays["final_f64"])
