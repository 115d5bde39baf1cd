"""Accuracy against noise, batch and bank size: the latents behind it, and that labels stay out."""

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small

from lzn_jax import plots, zoning
from lzn_jax.data import Examples
from lzn_jax.evaluation import classification, measurements
from lzn_jax.evaluation.classification import centres_in_batches
from lzn_jax.trained_model import TrainedModel

SOLVER = zoning.Euler(8)
latents_of = jax.jit(functools.partial(zoning.compute_latents, solver=SOLVER))


def anchors_of(count, seed=0):
    return np.random.default_rng(seed).normal(size=(count, 3)).astype(np.float32)


def changed_rows(before, after):
    return np.flatnonzero(np.any(np.asarray(before) != np.asarray(after), axis=1))


@pytest.mark.parametrize("size", [2, 5])
def test_a_batch_is_all_that_its_images_know(size):
    """Groups are found by who moves with whom; each is then solved alone."""
    anchors = anchors_of(20)
    centres = centres_in_batches(anchors, size, SOLVER, seed=0)
    groups = set()
    for row in range(20):
        moved = anchors.copy()
        moved[row] += 0.5
        group = changed_rows(centres, centres_in_batches(moved, size, SOLVER, seed=0))
        groups.add(tuple(group.tolist()))
        alone = latents_of(anchors[group], np.zeros((len(group), 3), np.float32))
        np.testing.assert_allclose(centres[group], alone, atol=1e-5)
    assert sorted(row for group in groups for row in group) == list(range(20))
    assert {len(group) for group in groups} == {size}
    assert any(np.max(np.diff(group)) > 1 for group in groups)  # not as the files come


def test_the_last_batch_is_as_large_as_the_others():
    centres = np.asarray(centres_in_batches(anchors_of(7), 3, SOLVER, seed=0))
    assert np.isfinite(centres).all()
    # Alone, an anchor's zone is the whole space, and its middle the origin.
    assert np.min(np.linalg.norm(centres, axis=1)) > 0.01
    np.testing.assert_allclose(centres_in_batches(anchors_of(7), 1, SOLVER, seed=0), 0, atol=1e-5)


@pytest.mark.parametrize("size", [1, 4, 11])
def test_a_smaller_bank_is_the_first_of_its_anchors(size):
    anchors, bank = anchors_of(6), anchors_of(11, seed=1)
    centres = classification._centres_in_context(anchors, jnp.asarray(bank), size, SOLVER)
    in_context = jax.jit(functools.partial(zoning.latents_in_context, solver=SOLVER))
    expected = in_context(anchors, bank[:size], np.zeros((6, 3), np.float32))
    np.testing.assert_allclose(centres, expected, atol=1e-5)


@pytest.fixture(scope="module")
def joint():
    """A random model whose decoder never trained, and the data."""
    sizes = {
        "noise_scales": "(0.0, 0.5)",
        "batch_sizes": "(7, 361)",
        "context_sizes": "(16, 17)",
    }
    changes = {f"evaluation__{name}": value for name, value in sizes.items()}
    world = small.world("digits_joint", training__generation_weight=0, **changes)
    return world.model, *world.digits


def evaluated(joint, labels, folder, monkeypatch):
    """Metrics of the model for test images with those labels, and the classes it found."""
    model, train, test = joint
    found, classes = [], TrainedModel.classes

    def spy(self, latents):
        predictions = classes(self, latents)
        if len(predictions.classes) == len(labels):  # not the points of the figure's background
            found.append(predictions.classes.tolist())
        return predictions

    with monkeypatch.context() as patch:
        patch.setattr(TrainedModel, "classes", spy)
        metrics = measurements.evaluate(model, train, test._replace(labels=labels), folder)
    return metrics, found


def test_classes_are_found_without_a_look_at_the_labels(joint, tmp_path, monkeypatch):
    labels, figures = joint[-1].labels, {}
    for name in ("classification", "tasks", "latent_zones"):
        monkeypatch.setattr(plots, name, lambda path, *a, **_: figures.update({path.stem: a}))
    metrics, found = evaluated(joint, labels, tmp_path, monkeypatch)
    shares = [np.mean(np.array(classes) == labels) for classes in found]
    assert metrics.pop("image_to_label_accuracy") == metrics["test_accuracy"]
    assert metrics.pop("test_examples") == len(labels)
    assert list(metrics) == [  # nothing of a decoder that never trained
        "test_accuracy",
        "test_accuracy_batch",
        "test_accuracy_alpha_0",
        "test_accuracy_alpha_0.5",
        "test_accuracy_batch_7",
        "test_accuracy_context_16",
    ]
    np.testing.assert_allclose(list(metrics.values()), shares)
    assert metrics["test_accuracy_alpha_0"] == metrics["test_accuracy"]
    assert metrics["test_accuracy_context_16"] == metrics["test_accuracy"]
    model, anchors = joint[0], joint[0].anchors(joint[-1].images)
    centres_of = jax.jit(functools.partial(zoning.compute_latents, solver=model.space.solver))
    centres = np.asarray(centres_of(anchors, np.zeros_like(anchors)))
    assert found[1] == model.classes(centres).classes.tolist() != found[0]
    assert figures.keys() == {"classification", "tasks", "zones"}
    np.testing.assert_array_equal(figures["zones"][1], model.draw_latents(anchors, 0.0))
    for others in (np.roll(labels, 1), np.full_like(labels, 3)):
        assert evaluated(joint, others, tmp_path, monkeypatch)[1] == found


def test_classes_of_other_types_are_measured_of_the_samples_that_can_be_read(monkeypatch, tmp_path):
    monkeypatch.setattr(classification, "_of_first_type", lambda *_: {"test_accuracy": 0.5})
    word = types.SimpleNamespace(
        readable=lambda examples: np.array([0, 1, 3]), samples=lambda examples: examples.texts
    )
    model = small.stand_in(
        translations=(("image", "label"), ("word", "label"), ("label", "image")),
        class_type="label",
        main_type="image",
        space=types.SimpleNamespace(types={"image": None, "word": word}),
        config=None,
        classify=lambda samples, source: types.SimpleNamespace(
            classes=np.array([{"one": 1, "two": 2}[each] for each in samples])
        ),
    )
    words, labels = np.array(["one", "two", "?", "two"]), np.array([1, 1, 1, 2])
    test = Examples(None, labels.astype(np.int32), words)
    found = classification.measure(model, test, test, tmp_path)
    assert found == {"test_accuracy": 0.5, "word_to_label_accuracy": pytest.approx(2 / 3)}


def test_the_figure_has_a_panel_for_each_curve_that_holds_something(tmp_path):
    widths = []
    for batch in ({}, {1: 0.1, 36: 0.9}):
        path = plots.classification(tmp_path / "a.png", {0.0: 0.9, 1.0: 0.8}, batch, {})
        widths.append(int.from_bytes(path.read_bytes()[16:20], "big"))
    assert widths[1] == 2 * widths[0]
