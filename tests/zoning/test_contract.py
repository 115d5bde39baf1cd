"""What callers rely on: dtypes, sizes, weights, gradients, transformations, sharding, errors."""

import contextlib
import dataclasses
import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
import small
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from oracle import relative_error

from lzn_jax import zoning
from lzn_jax.zoning import (
    AdamsBashforth,
    DPMSolver,
    Euler,
    alignment_loss,
    assignment_log_probs,
    classify,
    compute_latents,
    decode,
    latents_in_context,
    plain,
)

STEPS = 6
EULER, DPM, ADAMS = Euler(STEPS), DPMSolver(STEPS), AdamsBashforth(5)
# Euler, the scheme of all other tests here, is DPM-Solver++ of order 1 but for its ends.
SCHEMES = pytest.mark.parametrize("solver", [DPM, ADAMS], ids=["DPM", "Adams"])


def _outputs(anchors, noise, log_weights, own, solver, form):
    """All floats that zoning returns for noise, which is also decoded and joins a context."""
    kwargs = {"solver": solver, "log_weights": log_weights}
    return {
        "latents": form.compute_latents(anchors, noise, own, **kwargs),
        "in context": form.latents_in_context(noise, anchors, noise, **kwargs),
        "points": form.decode(noise, anchors, **kwargs),
        "log_probs": form.assignment_log_probs(noise, anchors, own, **kwargs),
        "alignment": form.alignment_loss(noise, anchors, own, cutoff=0.3, form="prob", **kwargs),
    }


def _total(outputs, others):
    """A number for which all but metrics count differently, other outputs than latents so much."""
    rng = np.random.default_rng(1)
    arrays = (outputs[name] for name in ("latents", "in context", "points", "log_probs"))
    latents, *rest = ((a * rng.normal(size=a.shape)).sum() for a in arrays)
    return latents + others * (outputs["alignment"][0] + sum(rest))


@functools.partial(jax.jit, static_argnames=("solver", "form"))
def _outputs_and_gradients(anchors, noise, log_weights, own, solver, form=zoning, others=1.0):
    """Outputs, and gradients of their total by all floats."""

    def function(*arrays):
        outputs = _outputs(*arrays, own, solver, form)
        return _total(outputs, others), outputs

    gradients, outputs = jax.grad(function, (0, 1, 2), has_aux=True)(anchors, noise, log_weights)
    return outputs, gradients


def _exact(anchors, noise, log_weights, own, solver, others=1.0):
    """The same by the oracle."""

    def total(*arrays):
        return _total(_outputs(*arrays, own, solver, oracle), others)

    arrays = anchors, noise, log_weights
    return _outputs(*arrays, own, solver, oracle), oracle.gradients(total, *arrays)


def _loss(anchors, partners, noise, form=zoning, solver=EULER):
    """Alignment of latents with the zones of partners, row by row."""
    latents = form.compute_latents(anchors, noise, solver=solver)
    return form.alignment_loss(latents, partners, np.arange(len(anchors)), solver=solver)[0]


def _arrays(*shapes, seed=0):
    """Standard normal float32 arrays."""
    rng = np.random.default_rng(seed)
    return [np.float32(rng.normal(size=shape)) for shape in shapes]


def _problem(m=13):
    """Float64 anchors, noise and log weights, and own anchors, of which the third is none."""
    arrays = [np.float64(a) for a in _arrays((7, 3), (m, 3), (7,))]
    own = np.random.default_rng(1).integers(0, 7, m)
    return *arrays, np.where(own == 2, 3, own).astype(np.int32)


def _assert_close(found, expected, atol=2e-5, rtol=1e-5):
    """Of trees of arrays."""
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=rtol, atol=atol), found, expected
    )


_assert_equal = functools.partial(_assert_close, rtol=1e-8, atol=1e-9)


# Dtypes


@pytest.mark.parametrize(
    ("dtype", "result"),
    [
        (jnp.bfloat16, "float32"),
        (np.float32, "float32"),
        (np.float64, "float64"),
    ],
)
def test_dtypes_are_those_of_the_inputs_and_at_least_float32(dtype, result, x64):
    anchors, noise = (jnp.asarray(a, dtype) for a in _arrays((5, 3), (5, 3)))
    outputs = functools.partial(_outputs, solver=EULER, form=zoning)
    shapes = jax.eval_shape(outputs, anchors, noise, None, np.arange(5))
    assert {a.dtype for a in jax.tree.leaves(shapes)} == {jnp.dtype(result)}
    classes = jax.eval_shape(functools.partial(classify, solver=EULER), noise, anchors)
    assert classes.dtype == jnp.int32
    exact = oracle.compute_latents(*map(np.float64, (anchors, noise)), solver=EULER)
    bound = 1e-10 if dtype == np.float64 else 1e-6
    assert relative_error(compute_latents(anchors, noise, solver=EULER), exact) < bound


# Sizes


@SCHEMES
@pytest.mark.parametrize("m", [13, *small.slow(1)])
def test_any_number_of_latents(solver, m, x64):
    problem = _problem(m)
    found, _ = _outputs_and_gradients(*problem, solver)
    _assert_equal(found, _outputs(*problem, solver, oracle))


def test_no_latents_have_no_answers():
    anchors, none = _arrays((5, 20), (0, 20))
    no_index = np.zeros(0, np.int32)

    @jax.jit
    def outputs():
        return (
            compute_latents(anchors, none, no_index, solver=EULER),
            latents_in_context(none, anchors, none, solver=EULER),
            decode(none, anchors, solver=EULER),
            classify(none, anchors, solver=EULER),
            assignment_log_probs(none, anchors, no_index, solver=EULER),
        )

    assert [output.shape for output in outputs()] == [(0, 20)] * 3 + [(0,), (STEPS, 0)]


def test_indices_may_count_from_the_end():
    anchors, noise = _arrays((200, 3), (4, 3))
    index = np.array([-1, 0, -128, 2], np.int8)  # too short for the number of anchors
    for function, arrays in (
        (compute_latents, (anchors, noise)),
        (
            assignment_log_probs,
            (noise, anchors),
        ),
    ):
        expected = getattr(oracle, function.__name__)(*map(np.float64, arrays), index, solver=EULER)
        _assert_close(function(*arrays, index, solver=EULER), expected)


def test_one_anchor_has_no_gradient_but_a_finite_one():
    anchors, noise = _arrays((1, 3), (4, 3))

    def loss(anchors, noise):
        latents = compute_latents(anchors, noise, np.zeros(4, int), solver=EULER)
        value, _ = alignment_loss(latents, anchors, np.zeros(4, int), solver=EULER)
        return value + jnp.sum(latents)

    gradients = jax.jit(jax.grad(loss, (0, 1)))(anchors, noise)
    _assert_close(gradients, (np.zeros((1, 3)), np.ones((4, 3))))


@SCHEMES
def test_no_noise_gives_the_centre_of_the_zone(solver, x64):
    # Two anchors: by symmetry the centres lie on their line, mirror images about its middle.
    # The others are removed, and their points too.
    anchors, noise, _, own = _problem()
    anchors[:2] = [1.0, 2.0, -1.0], [2.0, 0.0, 1.0]
    own[:2] = 0, 1
    problem = anchors, 0 * noise, _removed(7, slice(2, None)), own
    centres = _outputs_and_gradients(*problem, solver)[0]["latents"][:2]
    _assert_equal(centres, oracle.compute_latents(anchors[:2], 0 * noise[:2], solver=solver))
    difference, between = anchors[1] - anchors[0], np.asarray(centres[1] - centres[0])
    along = (between @ difference) / (difference @ difference)
    assert along > 0.1
    _assert_equal(between, along * difference)


# Weights


def _removed(n, index):
    log_weights = np.zeros(n)
    log_weights[index] = -np.inf
    return log_weights


@SCHEMES
@pytest.mark.parametrize("place", [np.nan, 0.5, np.inf])
def test_outputs_and_gradients_are_as_if_a_removed_anchor_had_been_left_out(solver, place, x64):
    anchors, noise, log_weights, own = _problem()
    anchors[2], log_weights[2] = place, -np.inf
    problem = anchors, noise, log_weights, own, solver
    found, gradients = jax.device_get(_outputs_and_gradients(*problem))
    for index in (0, 2):
        np.testing.assert_array_equal(gradients[index][2], 0)
    kept = np.array([0, 1, 3, 4, 5, 6])
    expected = _exact(anchors[kept], noise, log_weights[kept], np.searchsorted(kept, own), solver)
    gradients = gradients[0][kept], gradients[1], gradients[2][kept]
    _assert_equal((found, gradients), expected)


def test_removed_target_has_log_probability_minus_infinity(x64):
    anchors, latents, _, _ = _problem()
    targets, log_weights = np.arange(13, dtype=np.int32) % 4, _removed(7, 2)
    outputs, _ = _outputs_and_gradients(anchors, latents, log_weights, targets, DPM)
    log_probs = np.asarray(outputs["log_probs"])
    assert np.all(np.isneginf(log_probs[:, targets == 2]))
    assert np.all(np.isfinite(log_probs[:, targets != 2]))

    @jax.jit
    @functools.partial(jax.grad, argnums=(0, 1))
    def gradient(latents, anchors):
        kwargs = {"solver": EULER, "log_weights": log_weights}
        forms = ("log", "prob")
        return sum(alignment_loss(latents, anchors, targets, form=f, **kwargs)[0] for f in forms)

    assert all(np.all(np.isfinite(g)) for g in gradient(latents, anchors))


def test_removed_anchor_is_never_the_answer():
    anchors, _ = _arrays((6, 3), (5, 3))
    latents = np.repeat(anchors, 3, axis=0)
    anchors[2] = np.nan
    answers = classify(latents, anchors, solver=EULER, log_weights=_removed(6, 2))
    assert 2 not in np.asarray(answers)
    # The end of the flow may lie nearest to an anchor that has no weight.
    between = np.array([[-1.0], [0.0], [1.0]], np.float32)
    answer = classify(between[1:2], between, solver=Euler(1), log_weights=_removed(3, 1))
    assert int(answer[0]) in (0, 2)


def test_weights_need_no_normalisation(x64):
    anchors, noise, log_weights, own = _problem()
    found, _ = _outputs_and_gradients(anchors, noise, log_weights + 30, own, DPM)
    expected = _outputs(anchors, noise, log_weights, own, DPM, oracle)
    del found["in context"], expected["in context"]  # in which queries have the log weight 0
    _assert_equal(found, expected)


# Alignment


def _misaligned(seed=2):
    """Latents near their targets for some rows, anywhere for others."""
    anchors, latents = _arrays((8, 4), (12, 4), seed=seed)
    targets = np.random.default_rng(seed).integers(0, 8, 12).astype(np.int32)
    latents[:5] += 2 * anchors[targets[:5]]
    return latents, anchors, targets


@pytest.mark.parametrize(
    ("solver", "form", "cutoff"),
    # After 2 steps of Euler no assignment is certain yet, after 6 all are.
    [(Euler(2), "log", 0.2), (DPM, "log", 0.65), (EULER, "prob", 0.95), (EULER, "prob", 0.0)],
)
def test_loss_takes_the_best_assignment_after_the_cutoff_and_metrics_of_the_end(
    solver, form, cutoff
):
    latents, anchors, targets = _misaligned()
    kwargs = {"solver": solver, "cutoff": cutoff, "form": form}
    found = alignment_loss(latents, anchors, targets, **kwargs)
    exact = oracle.alignment_loss(np.float64(latents), np.float64(anchors), targets, **kwargs)
    assert 0 < exact[1]["assignment_accuracy"] < 1
    _assert_close(found[0], exact[0], atol=0)
    _assert_close(found[1], exact[1])


def test_the_first_step_is_uniform_and_hides_from_the_loss_what_is_worse():
    _, anchors, targets = _misaligned()
    opposite = -3 * anchors[targets]

    @functools.partial(jax.jit, static_argnums=1)
    @jax.value_and_grad
    def loss(latents, cutoff):
        return alignment_loss(latents, anchors, targets, solver=Euler(2), cutoff=cutoff)[0]

    kept, gradient = loss(opposite, 0.49)
    np.testing.assert_allclose(kept, math.log(8), rtol=1e-6)
    np.testing.assert_allclose(gradient, 0, atol=1e-15)
    dropped, gradient = loss(opposite, 0.5)
    assert dropped > 2 * math.log(8)
    assert np.all(np.any(np.asarray(gradient) != 0, axis=1))


def test_cutoff_is_truncated_as_a_float_product():
    # 0.29 * 100 is 28.999999999999996: 28 steps are dropped.
    latents, anchors, targets = _misaligned()
    loss, _ = alignment_loss(latents, anchors, targets, solver=Euler(100), cutoff=0.29)
    arrays = np.float64(latents), np.float64(anchors)
    own = oracle.assignment_log_probs(*arrays, targets, solver=Euler(100))
    expected, too_late = (-np.mean(np.max(own[k:], axis=0)) for k in (28, 29))
    assert abs(expected - too_late) > 1e-3
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


def test_metrics_are_constants_for_gradients():
    latents, anchors, targets = _misaligned()

    @jax.jit
    @functools.partial(jax.grad, argnums=(0, 1))
    def gradients(latents, anchors, factors):
        loss, metrics = alignment_loss(latents, anchors, targets, solver=EULER)
        return loss + factors @ jnp.stack([*metrics.values()])

    expected = gradients(latents, anchors, np.zeros(2))
    for factors in np.eye(2):
        found = gradients(latents, anchors, factors)
        jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_metrics_of_latents_that_are_aligned():
    (anchors,) = _arrays((8, 4))
    latents = oracle.compute_latents(np.float64(anchors), np.zeros((8, 4)), solver=Euler(80))
    _, metrics = alignment_loss(np.float32(latents), anchors, np.arange(8), solver=Euler(80))
    assert float(metrics["assignment_accuracy"]) == 1
    assert float(metrics["ode_error"]) < 1e-4


def test_log_probabilities_stay_finite_where_probabilities_underflow():
    # Two anchors: the log odds at (x, t) are (|x - (1-t) a_0|² - |x - (1-t) a_1|²) / (2 t²).
    anchors = np.array([[0.0, 0.0], [1.0, 0.0]], np.float32)
    latents = np.array([[-12.0, 0.0], [-2e3, 0.0]], np.float32)
    solver = DPMSolver(1, order=1, t_max=1 / 3)
    targets = np.array([1, 1])
    log_probs = np.asarray(assignment_log_probs(latents, anchors, targets, solver=solver))
    squares = [np.sum((np.float64(latents) - 2 / 3 * a) ** 2, axis=1) for a in anchors]
    log_odds = (squares[0] - squares[1]) * 9 / 2
    assert log_odds[1] < math.log(1e-45) < log_odds[0] < math.log(1e-30)
    np.testing.assert_allclose(log_probs[0], log_odds, rtol=1e-5)

    def loss(latents, anchors):
        return alignment_loss(latents, anchors, targets, solver=solver)[0]

    for_latents, for_anchors = jax.jit(jax.grad(loss, (0, 1)))(latents, anchors)
    # d log odds / d x = (a_1 - a_0) (1-t) / t², for each of the two latents in the mean.
    np.testing.assert_allclose(for_latents, [[-3.0, 0.0], [-3.0, 0.0]], rtol=1e-5)
    assert np.all(np.isfinite(for_anchors))


# Derivatives


@SCHEMES
@pytest.mark.parametrize("kind", ["usual", "near duplicates", "no noise"])
def test_gradients_of_latents_points_and_losses_are_exact(solver, kind, x64):
    anchors, noise, *rest = _problem()
    others = 1.0
    if kind == "near duplicates":
        anchors[4:] = anchors[1:4] + 1e-3 * anchors[4:]
        others = 0.0  # gradients of points are 1e8 and lose these digits
    problem = anchors, (kind != "no noise") * noise, *rest, solver
    found = _outputs_and_gradients(*problem, others=others)
    _assert_equal(found, _exact(*problem, others=others))


@pytest.mark.parametrize("form", ["log", "prob"])
def test_the_plain_form_and_its_gradients_are_the_oracles(form, x64):
    anchors, noise, log_weights, own = _problem()

    def outputs(anchors, noise, log_weights, own, zone, setting):
        kwargs = {**setting, "log_weights": log_weights}
        latents = zone.compute_latents(anchors, noise, own, **kwargs)
        points = zone.decode(noise, anchors, **kwargs)
        aligned = zone.alignment_loss(noise, anchors, own, cutoff=0.3, form=form, **kwargs)
        return (latents * noise).sum() + (points * noise).sum() + aligned[0], (latents, aligned)

    arrays = anchors, noise, log_weights
    setting = {"num_steps": STEPS}
    of_plain = functools.partial(outputs, own=jnp.asarray(own), zone=plain, setting=setting)
    exact = functools.partial(outputs, own=own, zone=oracle, setting={"solver": EULER})
    found = jax.jit(jax.value_and_grad(of_plain, (0, 1, 2), has_aux=True))(*arrays)
    gradients = oracle.gradients(lambda *given: exact(*given)[0], *arrays)
    _assert_equal(found, (exact(*arrays), gradients))
    classify = jax.jit(functools.partial(plain.classify, num_steps=STEPS))
    classes = classify(noise, anchors, log_weights=log_weights)
    kwargs = {"solver": EULER, "log_weights": log_weights}
    np.testing.assert_array_equal(classes, oracle.classify(noise, anchors, **kwargs))


def test_second_derivatives_are_refused():
    latents, anchors, targets = _misaligned()

    def loss(latents):
        return alignment_loss(latents, anchors, targets, solver=EULER)[0]

    def total(latents):
        return jnp.sum(jnp.sin(decode(latents, anchors, solver=EULER)))

    for function in (loss, total):
        gradient = jax.grad(function)
        for second in (jax.jacfwd(gradient), jax.grad(lambda z, g=gradient: jnp.sum(g(z) ** 2))):
            with pytest.raises(NotImplementedError, match="first derivatives only"):
                jax.eval_shape(second, latents)

    def gradient(factors):
        return jax.vjp(lambda z: decode(z, anchors, solver=EULER), latents)[1](factors)[0]

    # As a cotangent enters a gradient, which is linear in it.
    with pytest.raises(NotImplementedError, match="first derivatives only"):
        jax.eval_shape(jax.grad(lambda factors: jnp.sum(gradient(factors))), latents)


# Transformations


@functools.partial(jax.jit, static_argnums=1)
def _batch(arrays, axes=(0, 0, 0)):
    """Losses of problems, and their gradients."""
    return jax.vmap(jax.value_and_grad(_loss, (0, 1, 2)), axes)(*arrays)


def _one_by_one(arrays):
    """The same by the oracle."""

    def loss(*arrays):
        return _loss(*arrays, oracle)

    rows = list(zip(*np.float64(arrays), strict=True))
    slopes = [oracle.gradients(loss, *row) for row in rows]
    return np.array([loss(*row) for row in rows]), tuple(map(np.stack, zip(*slopes, strict=True)))


def test_vmap():
    axes = 0, None, 0
    arrays = _arrays(*[(3, 6, 2)] * 3)
    given = [a if axis == 0 else a[0] for a, axis in zip(arrays, axes, strict=True)]
    whole = [np.broadcast_to(a, (3, 6, 2)) for a in given]
    _assert_close(_batch(given, axes), _one_by_one(whole), atol=1e-4)


MESHES = {
    "Auto": ({"data": 8}, AxisType.Auto),
    "Auto, another axis": ({"rows": 8}, AxisType.Auto),
    "Auto, two axes": ({"data": 4, "more": 2}, AxisType.Auto),
    "Explicit": ({"data": 8}, AxisType.Explicit),
    "two axes": ({"data": 4, "more": 2}, AxisType.Explicit),
}


def _mesh(kind):
    axes, axis_type = MESHES[kind]
    return jax.make_mesh((*axes.values(),), (*axes,), axis_types=(axis_type,) * len(axes))


def _on_8_devices(*arrays, mesh="Auto"):
    """The arrays with their rows spread over all axes of a mesh of 8 devices."""
    mesh = _mesh(mesh)
    return jax.device_put(arrays, NamedSharding(mesh, PartitionSpec(mesh.axis_names)))


def _in_force(mesh, is_in_force=True):
    """The mesh in force, which types name where its axes are Explicit."""
    return jax.set_mesh(_mesh(mesh)) if is_in_force else contextlib.nullcontext()


EIGHT_STEPS = Euler(8)
ROWS = np.arange(32, dtype=np.int32)


def _everything(anchors, partners, noise, solver, form):
    latents = form.compute_latents(anchors, noise, solver=solver)
    value, metrics = form.alignment_loss(latents, partners, ROWS, solver=solver)
    joined = form.latents_in_context(anchors, partners, noise, solver=solver)
    points = form.decode(joined, partners, solver=solver)
    answers = form.classify(joined, partners, solver=solver)
    return value + (joined**2).mean(), ((latents, joined, points), answers, metrics)


def _sharded(*arrays, mesh, solver):
    """All outputs on 8 devices, and the total's gradients by anchors and partners."""
    function = functools.partial(_everything, solver=solver, form=zoning)
    return jax.jit(jax.grad(function, (0, 1), has_aux=True))(*_on_8_devices(*arrays, mesh=mesh))


@functools.cache
def _on_one_device(solver):
    """Arrays, and the same of them by the oracle."""
    anchors, partners, noise = map(np.float64, _arrays(*[(32, 2)] * 3))
    partners = anchors + 0.3 * partners

    def total(anchors, partners):
        return _everything(anchors, partners, noise, solver, oracle)[0]

    _, outputs = _everything(anchors, partners, noise, solver, oracle)
    return (anchors, partners, noise), (oracle.gradients(total, anchors, partners), outputs)


@pytest.mark.parametrize(
    ("mesh", "solver"),
    [
        ("Auto", EIGHT_STEPS),
        *small.slow(*((m, EIGHT_STEPS) for m in list(MESHES)[1:]), ("Auto", AdamsBashforth(2))),
    ],
)
def test_sharded_arrays_give_the_single_device_answer(mesh, solver, x64):
    # In float64: towards the anchors a rounding of float32 grows a hundredfold.
    arrays, expected = _on_one_device(solver)
    for is_in_force in {True, "Auto" in mesh}:
        with _in_force(mesh, is_in_force):
            found = _sharded(*arrays, mesh=mesh, solver=solver)
        _, (by_row, _, _) = found
        rows = 8 if mesh == "Auto, two axes" else 4  # over the axis `data` alone
        shards = [output.addressable_shards[0].data for output in by_row]
        assert [(shard.shape, shard.dtype) for shard in shards] == [((rows, 2), np.float64)] * 3
        _assert_equal(found, expected)


@pytest.mark.parametrize("mesh", ["Auto", pytest.param("Explicit", marks=pytest.mark.slow)])
def test_sharded_arrays_give_the_single_device_answer_outside_of_jit(mesh):
    anchors, noise = _arrays((16, 2), (16, 2))

    def total(anchors, noise, form=zoning):
        return form.compute_latents(anchors, noise, solver=EULER).sum()

    with _in_force(mesh):
        found = jax.grad(total, (0, 1))(*_on_8_devices(anchors, noise, mesh=mesh))
    exact = oracle.gradients(functools.partial(total, form=oracle), anchors, noise)
    _assert_close(found, exact, atol=1e-5)


@pytest.mark.slow
def test_without_a_mesh_in_force_sharded_arrays_are_the_partitioners_affair(x64):
    arrays, expected = _on_one_device(EIGHT_STEPS)
    _assert_equal(_sharded(*arrays, mesh="Auto", solver=EIGHT_STEPS), expected)


@pytest.mark.parametrize("m", [13, *small.slow(1, 6)])
def test_any_number_of_rows_is_shared_by_8_devices(m):
    points, anchors = _arrays((m, 2), (11, 2))
    targets = np.arange(m, dtype=np.int32) % 11

    def loss(points, anchors, form):
        value, metrics = form.alignment_loss(points, anchors, targets, solver=EULER)
        joined = form.latents_in_context(points, anchors, points, solver=EULER)
        outputs = metrics, form.classify(points, anchors, solver=EULER)
        return value + (joined**2).mean(), outputs

    with _in_force("Auto"):
        found = jax.jit(jax.grad(functools.partial(loss, form=zoning), (0, 1), has_aux=True))(
            points, anchors
        )
    arrays = np.float64(points), np.float64(anchors)
    slopes = oracle.gradients(lambda *arrays: loss(*arrays, oracle)[0], *arrays)
    _assert_close(found, (slopes, loss(*arrays, oracle)[1]), atol=1e-5)


def test_rows_that_fill_up_add_nothing_to_an_infinite_loss():
    anchors, latents = _arrays((4, 6), (3, 6))
    log_weights, targets = _removed(4, 3), np.array([0, 1, 3])
    with _in_force("Auto"):
        loss, metrics = alignment_loss(
            latents, anchors, targets, solver=EULER, log_weights=log_weights
        )
    assert np.isposinf(loss)
    assert np.isfinite(metrics["ode_error"])


@pytest.mark.parametrize("divided", ["rows", pytest.param("batches", marks=pytest.mark.slow)])
@pytest.mark.parametrize("mesh", ["Auto", pytest.param("Explicit", marks=pytest.mark.slow)])
def test_vmap_on_8_devices_is_vmap(mesh, divided):
    anchors, noise = _arrays((8, 8, 2), (8, 8, 2))
    arrays = anchors, anchors, np.float32(0.45) * noise  # away from borders, which amplify rounding
    spec = PartitionSpec("data") if divided == "batches" else PartitionSpec(None, "data")
    with _in_force(mesh):
        found = _batch(jax.device_put(arrays, NamedSharding(_mesh(mesh), spec)))
    _assert_close(found, _one_by_one(arrays), atol=1e-5)


@pytest.mark.parametrize("check_vma", [True, False])
def test_inside_of_a_callers_shard_map_each_device_sees_its_own_anchors(check_vma):
    anchors, noise = _arrays((16, 6), (16, 6))
    own = functools.partial(compute_latents, solver=EULER)
    with jax.set_mesh(_mesh("Auto")):
        spec = PartitionSpec("data")
        found = jax.jit(jax.shard_map(own, in_specs=spec, out_specs=spec, check_vma=check_vma))(
            anchors, noise
        )
    pairs = zip(*(np.split(np.float64(a), 8) for a in (anchors, noise)), strict=True)
    expected = [oracle.compute_latents(*pair, solver=EULER) for pair in pairs]
    _assert_close(found, np.concatenate(expected), atol=1e-6)


@pytest.mark.parametrize(
    "solver", [EULER, *(pytest.param(s, marks=pytest.mark.slow) for s in (DPM, ADAMS))], ids=str
)
def test_a_callers_shard_map_may_divide_the_latents_alone(solver, x64):
    latents, anchors = (np.float64(a) for a in _arrays((16, 2), (5, 2)))
    targets = np.arange(16, dtype=np.int32) % 5

    def outputs(latents, anchors, targets, form):
        found = form.compute_latents(anchors, latents, targets, solver=solver)
        joined = form.latents_in_context(latents, anchors, latents, solver=solver)
        points = form.decode(latents, anchors, solver=solver)
        loss, metrics = form.alignment_loss(latents, anchors, targets, solver=solver)
        total = len(latents) * loss + sum((a**2).sum() for a in (found, joined, points))
        return total, (form.classify(latents, anchors, solver=solver), metrics)

    def on_a_device(*arrays):
        total, (classes, metrics) = outputs(*arrays, zoning)
        return jax.lax.psum(total, "data"), (classes, jax.lax.pmean(metrics, "data"))

    rows, whole = PartitionSpec("data"), PartitionSpec()
    specs = {"in_specs": (rows, whole, rows), "out_specs": (whole, (rows, whole))}
    mapped = jax.shard_map(on_a_device, mesh=_mesh("Auto"), **specs)  # with check_vma
    found = jax.jit(jax.grad(mapped, (0, 1), has_aux=True))(latents, anchors, targets)

    def total(latents, anchors):
        return outputs(latents, anchors, targets, oracle)[0]

    _, expected = outputs(latents, anchors, targets, oracle)
    _assert_equal(found, (oracle.gradients(total, latents, anchors), expected))


def _collectives(program):
    """Name of the computation and kind of each collective of a compiled program."""
    found = []
    kinds = r"(all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute)(-start)?\("
    for computation in re.split(r"\n(?=(?:ENTRY )?%?[\w.\-]+ \()", program):
        name = computation.split(" ", 1)[0]
        found += [(name, match.group(1)) for match in re.finditer(kinds, computation)]
    return found


@functools.cache
def _gradient_on_8_devices(steps, mesh):
    """Text of the compiled program."""
    loss = jax.jit(jax.value_and_grad(functools.partial(_loss, solver=Euler(steps)), (0, 1)))
    arrays = _on_8_devices(*_arrays((32, 6), (32, 6), (32, 6)), mesh=mesh)
    with _in_force(mesh, "Auto" in mesh):
        return loss.lower(*arrays).compile().as_text()


@pytest.mark.parametrize(
    ("steps", "mesh"),
    [(6, "Explicit"), (2, "Auto, another axis"), *small.slow((2, "Auto"), (6, "Auto"))],
)
def test_gradient_gathers_anchors_once_a_call_and_exchanges_nothing_in_its_loops(steps, mesh):
    program = _gradient_on_8_devices(steps, mesh)
    assert program.count("while(") >= 3  # towards the prior and back, towards the anchors
    found = _collectives(program)
    assert {name for name, _ in found} == {"ENTRY"}
    kinds = [kind for _, kind in found]
    assert kinds.count("all-gather") == 2
    assert kinds.count("all-reduce") == 1  # the loss and both gradients together
    assert len(kinds) == 3


def test_operations_name_lines_that_the_program_knows():
    # Where they do not XLA may follow these lines in a circle and never end.
    program = _gradient_on_8_devices(2, "Auto, another axis")
    named = {int(k) for k in re.findall(r"stack_frame_id=(\d+)", program)}
    known = {int(k) for k in re.findall(r"^(\d+) \{file_location_id=", program, re.MULTILINE)}
    assert named
    assert named <= known


# Settings and errors


@pytest.mark.parametrize("make", [Euler, lambda n: DPMSolver(n, order=2), AdamsBashforth])
def test_solvers_are_frozen_and_hash_by_value(make):
    assert make(7) == make(7)
    assert hash(make(7)) == hash(make(7))
    assert make(7) != make(8)
    with pytest.raises(dataclasses.FrozenInstanceError):
        make(7).num_steps = 3


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Euler(0), "num_steps >= 1"),
        (lambda: Euler(5, t_min=0.0), "0 < t_min < 1"),
        (lambda: Euler(5, t_min=1.0), "0 < t_min < 1"),
        (lambda: AdamsBashforth(0), "num_steps >= 1"),
        (lambda: AdamsBashforth(5, order=4), "order 1, 2 or 3"),
        (lambda: DPMSolver(5, order=4), "order 1, 2 or 3"),
        (lambda: DPMSolver(5, order=0), "order 1, 2 or 3"),
        (lambda: DPMSolver(2), "num_steps >= 3"),
        (lambda: DPMSolver(5, t_min=0.0), "0 < t_min < t_max < 1"),
        (lambda: DPMSolver(5, t_max=1.0), "0 < t_min < t_max < 1"),
        (lambda: DPMSolver(5, t_min=0.6, t_max=0.4), "0 < t_min < t_max < 1"),
    ],
)
def test_bad_solver_settings_raise(make, message):
    with pytest.raises(ValueError, match=message):
        make()


A, B = np.zeros((5, 3), np.float32), np.zeros((4, 3), np.float32)
INDEX, WEIGHTS = np.zeros(4, np.int32), np.zeros(4, np.float32)
NONE, NO_INDEX = np.zeros((0, 3), np.float32), np.zeros(0, np.int32)


@pytest.mark.usefixtures("unchecked_shapes")
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: compute_latents(A, B, solver=EULER), "own=None needs one row"),
        (lambda: compute_latents(A, B[:, :2], INDEX, solver=EULER), r"noise must be \(m, 3\)"),
        (lambda: compute_latents(A, A, INDEX, solver=EULER), "own must be"),
        (lambda: latents_in_context(B, NONE, B, solver=EULER), "at least one anchor"),
        (lambda: compute_latents(A, A, solver=EULER, log_weights=WEIGHTS), "log_weights must be"),
        (lambda: decode(B[0], A, solver=EULER), r"latents must be \(m, 3\), as wide as anchors"),
        (lambda: decode(B, A[0], solver=EULER), r"anchors must be \(n, q\)"),
        (lambda: decode(B, A[None], solver=EULER), r"anchors must be \(n, q\)"),
        (lambda: decode(B, A, solver="adams"), r"Euler\(20\), .* got 'adams'"),
        (lambda: decode(B, A, solver=Euler), r"Euler\(20\), "),
        (lambda: compute_latents(A, B, INDEX + 5, solver=EULER), "own must index the 5 anchors"),
        (lambda: compute_latents(A, B, INDEX - 6, solver=EULER), "from 0 to 4, got -6"),
        (lambda: alignment_loss(B, A, INDEX + 0.0, solver=EULER), "targets must be .* integers"),
        (
            lambda: jax.jit(lambda z: assignment_log_probs(z, A, INDEX + 5, solver=EULER))(B),
            "targets must index the 5 anchors",
        ),
        (
            lambda: alignment_loss(B, A, jnp.array([0, 1, 2, 5]), solver=EULER),
            "targets must index the 5 anchors, from 0 to 4, got 5",
        ),
        (lambda: classify(B, A, solver=EULER, log_weights=WEIGHTS), "log_weights must be"),
        (lambda: latents_in_context(B, A, A, solver=EULER), "differ in length"),
        (lambda: latents_in_context(A, B[:, :2], A, solver=EULER), "queries must be .*context"),
        (lambda: assignment_log_probs(A, B, INDEX, solver=EULER), "targets must be"),
        (lambda: alignment_loss(B, A, INDEX, solver=EULER, cutoff=1.0), "cutoff must be in"),
        (lambda: alignment_loss(B, A, INDEX, solver=EULER, cutoff=-0.05), "cutoff must be in"),
        (lambda: alignment_loss(NONE, A, NO_INDEX, solver=EULER), "mean over latents"),
        (lambda: alignment_loss(B, A, INDEX, solver=EULER, form="mean"), "form must be"),
        (lambda: alignment_loss(B, A, INDEX, solver=EULER, is_present=A[:, 0]), "is_present must"),
        (
            lambda: latents_in_context(B, A, B, solver=EULER, query_log_weights=A[:, 0]),
            "query_log_weights must be",
        ),
    ],
)
def test_bad_arguments_raise(call, message):
    with pytest.raises(ValueError, match=message):
        call()
