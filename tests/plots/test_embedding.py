"""t-SNE of features: which points are shown, in which colours, under which names."""

import functools

import numpy as np
import pytest
from sklearn import manifold
from sklearn.neighbors import KNeighborsClassifier

from lzn_jax import plots
from lzn_jax.plots import embedding


@pytest.fixture(autouse=True)
def _fast_tsne(monkeypatch):
    monkeypatch.setattr(manifold, "TSNE", functools.partial(manifold.TSNE, max_iter=400))


def _clusters(num_classes, per_class):
    rng = np.random.default_rng(0)
    labels = np.arange(num_classes * per_class) % num_classes
    centers = 5 * rng.normal(size=(num_classes, 16))
    return (centers[labels] + rng.normal(size=(len(labels), 16))).astype(np.float32), labels


def test_tsne_keeps_clusters_together_under_their_names(tmp_path, drawn):
    features, labels = _clusters(23, 12)
    plots.tsne(tmp_path / "a.png", features, labels, [f"name {label}" for label in range(23)])
    axes = drawn[0].axes[0]
    names = [text.get_text() for text in axes.get_legend().get_texts()]
    assert names == [f"name {label}" for label in range(20)]
    groups = [np.asarray(dots.get_offsets()) for dots in axes.collections]
    assert [len(group) for group in groups] == [12] * 20
    points, classes = np.concatenate(groups), np.repeat(np.arange(20), 12)
    nearest = KNeighborsClassifier(n_neighbors=6).fit(points, classes)
    assert nearest.score(points, classes) > 0.95
    looks = [
        [(*dots.get_facecolors()[0, :3], len(dots.get_paths()[0].vertices)) for dots in each]
        for each in (axes.collections, axes.get_legend().legend_handles)
    ]
    assert looks[0] == looks[1]
    assert len(set(looks[0])) == 20


def test_images_of_unknown_class_have_no_name(tmp_path, drawn):
    features, labels = _clusters(3, 5)
    plots.tsne(tmp_path / "a.png", features, np.full_like(labels, -1))
    axes = drawn[0].axes[0]
    assert axes.get_legend() is None
    assert [len(dots.get_offsets()) for dots in axes.collections] == [15]


def test_points_are_equal_shares_of_the_lowest_classes(tmp_path, drawn, monkeypatch):
    monkeypatch.setattr(embedding, "_embed", lambda features, seed: features)
    labels = np.repeat(np.arange(25), 300)
    labels[labels == 3] = 30  # a class is absent
    features = np.stack([np.arange(len(labels)), labels], axis=1).astype(np.float32)
    plots.tsne(tmp_path / "a.png", features, labels)
    shown = [np.asarray(dots.get_offsets()) for dots in drawn[0].axes[0].collections]
    assert [len(set(rows)) for rows, _ in (points.T.tolist() for points in shown)] == [100] * 20
    assert [set(points[:, 1]) for points in shown] == [{k} for k in range(21) if k != 3]


def test_tsne_is_the_same_for_the_same_seed(tmp_path):
    features, labels = _clusters(3, 20)
    first, second, other = (
        plots.tsne(tmp_path / "a.png", features, labels, seed=seed).read_bytes()
        for seed in (0, 0, 1)
    )
    assert first == second != other


@pytest.mark.parametrize(
    "features", [np.zeros((3, 4)), np.ones((40, 5)), np.arange(40.0)[:, None], np.eye(3)]
)
def test_tsne_of_degenerate_features(tmp_path, features):
    labels = np.arange(len(features)) % 3
    assert plots.tsne(tmp_path / "a.png", features.astype(np.float32), labels).exists()
