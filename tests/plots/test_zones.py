"""Projections of latents: planes that separate classes, and what is drawn on them."""

import numpy as np
import pytest
import small
from matplotlib.colors import to_rgb

from lzn_jax import plots
from lzn_jax.plots import style, zones


def _three_classes(dim):
    """Classes that differ in two directions only, hidden under larger noise in the others."""
    rng, labels = np.random.default_rng(0), np.arange(300) % 3
    basis = np.linalg.qr(rng.normal(size=(dim, dim)))[0]
    corners = np.zeros((3, dim))
    corners[:, :2] = 6 * np.array([[0, 0], [1, 0], [0, 1]])
    scales = np.where(np.arange(dim) < 2, 1.0, 10.0)
    points = corners[labels] + scales * rng.normal(size=(300, dim))
    return points @ basis.T, labels, basis[:, :2]


def test_a_plane_is_orthonormal_and_separates_the_classes():
    points, labels, informative = _three_classes(16)
    plane, _ = zones._plane(points, labels)
    np.testing.assert_allclose(plane.T @ plane, np.eye(2), atol=1e-10)
    assert np.linalg.svd(plane.T @ informative, compute_uv=False).min() > 0.95


def test_a_plane_holds_with_hardly_more_points_than_dimensions():
    # Without shrinkage: 3.8 standard deviations between random classes, 0.3 of the true plane.
    rng = np.random.default_rng(0)
    noise, labels = rng.normal(size=(120, 100)), np.arange(120) % 4
    flat = noise @ zones._plane(noise, labels)[0]
    means = np.stack([flat[labels == k].mean(axis=0) for k in range(4)])
    spread = np.mean([flat[labels == k].std() for k in range(4)])
    assert np.linalg.norm(means[:, None] - means, axis=-1).max() < 3 * spread

    corners = np.zeros((4, 100))
    corners[:, :2] = [[0, 0], [4, 0], [0, 4], [4, 4]]
    plane, _ = zones._plane(noise + corners[labels], labels)
    assert np.linalg.svd(plane[:2], compute_uv=False).min() > 0.8


def test_the_plane_of_two_classes_is_that_of_largest_variance():
    points = np.random.default_rng(0).normal(size=(500, 6)) * np.array([1, 9, 1, 1, 5, 1])
    plane, kind = zones._plane(points, np.arange(500) % 2)
    assert kind == "principal direction"
    expected = np.linalg.svd(points - points.mean(axis=0), full_matrices=False)[2][:2].T
    np.testing.assert_allclose(np.abs(plane.T @ expected), np.eye(2), atol=1e-9)


def test_stars_and_names_are_at_their_dots(tmp_path, drawn):
    points, labels, _ = _three_classes(16)
    means = np.stack([points[labels == k].mean(axis=0) for k in range(3)])
    plots.latent_zones(tmp_path / "a.png", points, points, labels, means, zones_of="text")
    assert drawn[0].legends[0].get_texts()[-1].get_text() == "centre of a\ntext's zone"
    right = drawn[0].axes[1]
    colors = right.collections[0].get_facecolors()[:, :3]
    offsets = np.asarray(right.collections[0].get_offsets())
    for star, name in zip(right.get_lines(), right.texts, strict=True):
        own = np.all(np.isclose(colors, to_rgb(star.get_color())), axis=1)
        assert own.sum() == 100
        np.testing.assert_allclose(offsets[own].mean(axis=0), star.get_xydata()[0], atol=1e-8)
        np.testing.assert_allclose(name.xy, star.get_xydata()[0], atol=1e-8)
    assert [circle.radius for circle in right.patches] == [1, 2]


def test_no_centre_covers_another_and_each_class_has_its_region():
    rng, labels = np.random.default_rng(0), np.arange(100) % 10
    centres = 1.3 * np.linalg.qr(rng.normal(size=(32, 10)))[0].T
    latents = centres[labels] + 0.1 * rng.normal(size=(100, 32))

    def nearest(points):
        return np.argmax(points @ centres.T, axis=1)

    found = plots.zone_map(latents, labels, centres, nearest)
    np.testing.assert_allclose(found.plane.T @ found.plane, np.eye(2), atol=1e-9)
    x, y = (centres @ found.plane).T
    np.testing.assert_allclose(np.arctan2(y, x) % (2 * np.pi), np.arange(10) * np.pi / 5, atol=1e-6)
    grid = np.linspace(-found.span, found.span, len(found.classes))
    rows, columns = (np.abs(grid - 2.5 * each[:, None]).argmin(axis=1) for each in (y, x))
    assert found.classes[rows, columns].tolist() == list(range(10))


@pytest.mark.parametrize("case", [(3, 2, 1), (4, 2, 3), (2, 5, 2)])
def test_dependent_centres_do_not_determine_a_plane(case):
    count, dim, rank = case
    centres = np.random.default_rng(0).normal(size=(count, dim))
    centres[:, rank:] = 0
    if rank < 3:
        centres[1:, :rank] = centres[:1, :rank] * np.arange(1, count)[:, None]
    assert zones._around(centres) is None


@pytest.mark.parametrize(
    "case",
    [
        "60 2 3 1",
        "60 200 10 1",
        "1 4 1 1",
        "20 4 4 0",
        *small.slow("60 1 2 1", "60 5 1 1", "60 8 25 1", "12 6 10 1", "3 4 3 1"),
    ],
)
def test_latents_of_any_number_are_drawn(case, tmp_path, drawn):
    points, dim, classes, scale = map(int, case.split())
    rng, labels = np.random.default_rng(0), np.arange(points) % classes
    anchors, latents = scale * rng.normal(size=(2, points, dim)).astype(np.float32)
    centres = rng.normal(size=(classes, dim)).astype(np.float32)

    def classes_of(latents):
        assert latents.shape[1] == dim
        return np.arange(len(latents)) % classes

    classes_of = classes_of if classes < 10 else None  # contours take time
    plots.latent_zones(tmp_path / "a.png", anchors, latents, labels, centres, classes_of=classes_of)
    assert all(len(axes.collections[0].get_offsets()) == points for axes in drawn[0].axes)


@pytest.mark.parametrize("dim", [2, 16])
def test_the_background_shows_where_zones_are_projected(dim, tmp_path, drawn):
    points, labels, _ = _three_classes(dim)
    plane = zones._plane(points, labels)[0]

    def classes_of(latents):
        x, y = (latents @ plane).T
        beside = latents - latents @ plane @ plane.T  # draws from the prior
        assert np.mean(beside**2) == pytest.approx((dim - 2) / dim, rel=0.05, abs=1e-9)
        return np.where(y > 5, 7, np.where(x > 0, 2, 0))  # no test image shows class 7

    plots.latent_zones(tmp_path / "a.png", points, points, labels, classes_of=classes_of)
    left, right = drawn[0].axes
    (background,) = right.images
    assert not left.images
    low, high, *_ = background.get_extent()
    assert (low, high) == right.get_xlim() == right.get_ylim()
    assert high > np.abs(points @ plane).max()

    def color_at(x, y):
        picture = background.get_array()
        row, column = (int((each - low) / (high - low) * len(picture)) for each in (y, x))
        return tuple(picture[row, column])

    assert color_at(1, -3) == (*to_rgb(style.PALETTE[2]), 0.25)
    assert color_at(-1, 3) == (*to_rgb(style.PALETTE[0]), 0.25)
    assert color_at(-1, 0.9 * high) == (1, 1, 1, 1)


def test_a_place_among_zones_is_projected_as_they_are():
    labels = np.arange(90) % 3
    latents = np.random.default_rng(0).normal(size=(90, 5)) + 4 * np.eye(5)[labels]
    zones = plots.zone_map(latents, labels, None, lambda points: (points[:, 0] > 0).astype(int))
    axes = plots.among_zones(latents, labels, latents[[7, 8]], zones, "Place").axes[0]
    (background,) = axes.images
    assert len(np.unique(np.reshape(background.get_array(), (-1, 4)), axis=0)) == 2
    dots, (crosses,) = np.asarray(axes.collections[0].get_offsets()), axes.lines
    gaps = np.linalg.norm(crosses.get_xydata()[:, None] - dots, axis=-1)
    np.testing.assert_allclose(gaps.min(axis=1), 0, atol=1e-9)
