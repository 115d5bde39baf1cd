"""Figures of representations: which points are shown, in which colours, and what curves hold."""

import functools

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image
from sklearn.neighbors import KNeighborsClassifier
from threadpoolctl import threadpool_limits

from lzn_jax import plots
from lzn_jax.plots import embedding


@pytest.fixture(autouse=True)
def _fast_tsne(monkeypatch):
    """Few steps, and one thread: with few points, threads only wait for each other."""
    short = functools.partial(embedding.TSNE, max_iter=400)
    monkeypatch.setattr(embedding, "TSNE", short)
    with threadpool_limits(1):
        yield


def _clusters(num_classes, per_class):
    rng = np.random.default_rng(0)
    labels = np.arange(num_classes * per_class) % num_classes
    centers = 5 * rng.normal(size=(num_classes, 16))
    return (centers[labels] + rng.normal(size=(len(labels), 16))).astype(np.float32), labels


def test_tsne_keeps_clusters_together_under_their_names(tmp_path, drawn):
    features, labels = _clusters(12, 12)
    names = [f"name {label}" for label in range(12)]
    path = plots.tsne(tmp_path / "a.png", features, labels, names)
    with Image.open(path) as picture:
        assert min(picture.size) > 600
    axes = drawn[0].axes[0]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == names
    groups = [np.asarray(dots.get_offsets()) for dots in axes.collections]
    assert [len(group) for group in groups] == [12] * 12
    points, classes = np.concatenate(groups), np.repeat(np.arange(12), 12)
    nearest = KNeighborsClassifier(n_neighbors=6).fit(points, classes)
    assert nearest.score(points, classes) > 0.95


def test_images_of_unknown_class_have_no_name(tmp_path, drawn):
    features, labels = _clusters(3, 5)
    plots.tsne(tmp_path / "a.png", features, np.full_like(labels, -1))
    axes = drawn[0].axes[0]
    assert axes.get_legend() is None
    assert [len(dots.get_offsets()) for dots in axes.collections] == [15]


def test_tsne_tells_twenty_classes_apart_and_legend_has_their_look(tmp_path, drawn):
    features, labels = _clusters(23, 5)
    plots.tsne(tmp_path / "a.png", features, labels)
    axes = drawn[0].axes[0]
    handles = axes.get_legend().legend_handles
    assert [handle.get_label() for handle in handles] == [f"class {k}" for k in range(20)]
    looks = [(to_rgb(handle.get_color()), handle.get_marker()) for handle in handles]
    assert len(set(looks)) == 20
    for (color, _), dots in zip(looks, axes.collections, strict=True):
        np.testing.assert_allclose(dots.get_facecolors()[0, :3], color)


def test_points_are_equal_shares_of_the_lowest_classes():
    labels = np.repeat(np.arange(25), 300)
    labels[labels == 3] = 30  # a class is absent
    rows = embedding._choose(labels, seed=0)
    assert len(set(rows)) == len(rows) == 2000
    classes, counts = np.unique(labels[rows], return_counts=True)
    assert classes.tolist() == [k for k in range(21) if k != 3]
    assert set(counts) == {100}


def test_tsne_is_the_same_for_the_same_seed(tmp_path):
    features, labels = _clusters(3, 20)
    first, second, other = (
        plots.tsne(tmp_path / f"{i}.png", features, labels, seed=seed).read_bytes()
        for i, seed in enumerate((0, 0, 1))
    )
    assert first == second != other


@pytest.mark.parametrize(
    "features",
    [np.zeros((3, 4)), np.ones((40, 5)), np.arange(40.0)[:, None], np.eye(3)],
    ids=["zeros", "same", "one dimension", "three points"],
)
def test_tsne_of_degenerate_features(tmp_path, features):
    labels = np.arange(len(features)) % 3
    path = plots.tsne(tmp_path / "a.png", features.astype(np.float32), labels)
    assert path.exists()


def test_tsne_of_too_few_points(tmp_path):
    with pytest.raises(ValueError, match="at least 3 points"):
        plots.tsne(tmp_path / "a.png", np.eye(2), np.arange(2))


def test_accuracy_curves_show_mean_and_range_of_seeds(tmp_path, drawn):
    steps = np.array([10, 20, 30])
    seeds = np.array([[0.1, 0.5, np.nan], [0.3, 0.9, np.nan]])
    single = np.array([[0.2, np.nan, 0.4]])
    curves = {"probe": (steps, seeds), "k-NN": (steps, single)}
    plots.accuracy_curves(tmp_path / "a.png", curves)
    axes = drawn[0].axes[0]
    mean, alone = axes.get_lines()
    np.testing.assert_allclose(mean.get_xydata(), [[10, 0.2], [20, 0.7]])
    np.testing.assert_allclose(alone.get_xydata(), [[10, 0.2], [30, 0.4]])
    (band,) = axes.collections
    corners = {tuple(point) for point in np.round(band.get_paths()[0].vertices, 6)}
    assert corners == {(10, 0.1), (10, 0.3), (20, 0.5), (20, 0.9)}
    names = [text.get_text() for text in axes.get_legend().get_texts()]
    assert names == ["probe (mean and range of 2 seeds)", "k-NN"]


def test_accuracy_curves_without_curves_are_still_a_picture(tmp_path):
    steps = np.array([1])
    assert plots.accuracy_curves(tmp_path / "a.png", {}).exists()
    empty = {"none": (steps, np.full((2, 1), np.nan))}
    assert plots.accuracy_curves(tmp_path / "b.png", empty).exists()


@pytest.mark.parametrize("noise", [0.001, 0.01])
def test_seeds_that_hardly_differ_do_not_fill_the_y_axis(tmp_path, drawn, noise):
    accuracies = 0.98 + noise * np.array([[-1, 1, -1], [1, -1, 1]])
    plots.accuracy_curves(tmp_path / "a.png", {"probe": (np.array([10, 20, 30]), accuracies)})
    low, high = drawn[0].axes[0].get_ylim()
    assert high - low == pytest.approx(0.2)
    assert high <= 1.02 + 1e-9
