"""Numbers of a public PyTorch reference: every latent flow and every gradient that was recorded.

`*_f64` arrays are the reference run in float64 on the float32 inputs; both precisions here are
compared with them. The reference's own float32 run is 1e-3 off in the latents.
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

GOLDEN = Path(__file__).parents[1] / "golden"
FLOWS = sorted(path.stem for path in GOLDEN.glob("flow_*.npz"))
ALIGNMENTS = sorted(path.stem for path in GOLDEN.glob("grad_align_*.npz"))


@pytest.fixture(params=["float32", "float64"])
def dtype(request):
    with jax.enable_x64(request.param == "float64"):
        yield np.dtype(request.param)


@functools.cache
def _load(name):
    with np.load(GOLDEN / f"{name}.npz") as arrays:
        return dict(arrays)


def _assert_close(value, reference, atol):
    """Within `atol` in float32, within 1e-9 in float64."""
    value = np.asarray(value)
    atol = 1e-9 if value.dtype == np.float64 else atol
    np.testing.assert_allclose(value, reference, rtol=0, atol=atol)


def _assert_assignments_close(value, reference):
    """All within 1e-3 and 99 % within 1e-6: next to a border the flow itself amplifies rounding."""
    _assert_close(value, reference, atol=1e-3)
    assert np.quantile(np.abs(np.asarray(value) - reference), 0.99) <= 1e-6


def _solver(name, arrays):
    scheme = DPMSolver if name.startswith("flow_dpm") else Euler
    return scheme(int(arrays["num_steps"]))


@functools.partial(jax.jit, static_argnames="solver")
def _assignments(latents, anchors, **kwargs):
    """Assignment (S, m, n) of every latent to every anchor."""
    m, n = len(latents), len(anchors)
    targets = jnp.tile(jnp.arange(n), m)
    log_probs = assignment_log_probs(jnp.repeat(latents, n, axis=0), anchors, targets, **kwargs)
    return jnp.exp(log_probs).reshape(-1, m, n)


def _log(weights):
    with np.errstate(divide="ignore"):
        return np.log(weights)


def test_the_vectors_are_there():
    assert len(FLOWS) == 9
    assert len(ALIGNMENTS) == 4


@pytest.mark.parametrize("name", FLOWS)
def test_latents(name, dtype):
    arrays = _load(name)
    if "label_anchors" in arrays:
        anchors, own = arrays["label_anchors"], arrays["labels"]
        noise, expected = arrays["gen_eps"], arrays["gen_latents_f64"]
    else:
        anchors, noise, expected = arrays["full_anchors"], arrays["eps"], arrays["latents_f64"]
        same = np.all(arrays["encoded"][:, None] == anchors[None], axis=-1)
        own = np.argmax(same, axis=1)
        assert np.all(same.sum(axis=1) == 1)
    latents = compute_latents(
        anchors.astype(dtype), noise.astype(dtype), own, solver=_solver(name, arrays)
    )
    _assert_close(latents, expected, atol=5e-6)


@pytest.mark.parametrize(
    "weighted",
    [pytest.param(False, id="uniform", marks=pytest.mark.slow), pytest.param(True, id="weighted")],
)
@pytest.mark.parametrize("name", [name for name in FLOWS if name != "flow_dpm_medium"])
def test_decoding(name, weighted, dtype):
    arrays = _load(name)
    is_label = "label_anchors" in arrays
    anchors = arrays["label_anchors" if is_label else "full_anchors"].astype(dtype)
    latents = arrays["latents" if is_label else "rev_init"].astype(dtype)
    kind = "revw" if weighted else "rev"
    weights = np.ones(len(anchors), dtype)
    if weighted:
        weights = arrays["class_weights" if is_label else "rev_weights"].astype(dtype)
    kwargs = {"solver": _solver(name, arrays), "log_weights": _log(weights)}
    points = decode(latents, anchors, **kwargs)
    _assert_close(points, arrays[f"{kind}_final_f64"], atol=1e-5)
    pdfs = arrays[f"{kind}_pdfs_f64"]
    expected = pdfs / pdfs.sum(axis=-1, keepdims=True)
    _assert_assignments_close(_assignments(latents, anchors, **kwargs), expected)
    if is_label:
        predictions = classify(latents, anchors, **kwargs)
        np.testing.assert_array_equal(predictions, arrays[f"{kind}_pred_f64"])


@pytest.mark.parametrize("name", ALIGNMENTS)
def test_alignment_loss_and_gradients(name, dtype):
    arrays = _load(name)
    cutoff, solver = float(arrays["cut_off_fraction"]), _solver(name, arrays)
    anchors, partners = (arrays[key].astype(dtype) for key in ("anchors1", "anchors2"))
    noise = arrays["eps"].astype(dtype) * dtype.type(arrays["prior_data_scale"])
    targets = np.arange(len(anchors))

    @jax.jit
    @functools.partial(jax.value_and_grad, argnums=(0, 1), has_aux=True)
    def loss(anchors, partners):
        latents = compute_latents(anchors, noise, solver=solver)
        value, _ = alignment_loss(latents, partners, targets, solver=solver, cutoff=cutoff)
        return value, latents

    (value, latents), gradients = loss(anchors, partners)
    _assert_close(value, arrays["loss_f64"], atol=2e-6)
    _assert_close(latents, arrays["latents_f64"], atol=5e-6)
    _assert_close(gradients[0], arrays["grad_anchors1_f64"], atol=2e-6)
    _assert_close(gradients[1], arrays["grad_anchors2_f64"], atol=2e-6)


def test_label_alignment_loss_and_gradients(dtype):
    arrays = _load("grad_label")
    latents, anchors = (arrays[key].astype(dtype) for key in ("latents", "label_anchors"))
    log_weights = _log(arrays["class_weights"].astype(dtype))
    kwargs = {"solver": Euler(int(arrays["num_steps"])), "log_weights": log_weights}

    def loss(latents, anchors):
        cutoff = float(arrays["cut_off_fraction"])
        arguments = latents, anchors, arrays["labels"]
        return alignment_loss(*arguments, cutoff=cutoff, form="prob", **kwargs)[0]

    value, gradients = jax.jit(jax.value_and_grad(loss, (0, 1)))(latents, anchors)
    _assert_close(value, arrays["loss_f64"], atol=2e-7)
    _assert_close(gradients[0], arrays["grad_latents_f64"], atol=1e-7)
    _assert_close(gradients[1], arrays["grad_label_anchors_f64"], atol=1e-7)
    _assert_close(decode(latents, anchors, **kwargs), arrays["final_f64"], atol=2e-6)
