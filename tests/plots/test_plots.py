"""Figures: written whole, image pixels unchanged and in their place, projections as promised."""

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.patches import FancyArrowPatch
from matplotlib.text import Text
from matplotlib.transforms import Bbox
from PIL import Image

from lzn_jax import plots
from lzn_jax.plots import style, zones


def _pixels(path):
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        return np.asarray(picture.convert("RGB")).astype(int)


def _is_color(picture, red):
    """Where `_solid_images` of that red are: text is grey, so it never has their colour."""
    return (picture == (red, 10, 60)).all(axis=-1)


def _box(mask):
    """(top, bottom, left, right) of the true pixels, ends excluded."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return rows[0], rows[-1] + 1, columns[0], columns[-1] + 1


def _solid_images(reds, size=8):
    colors = np.array([(red, 10, 60) for red in reds], np.uint8)
    return np.broadcast_to(colors[:, None, None], (len(reds), size, size, 3))


def test_sample_grid_puts_each_class_in_its_row(tmp_path):
    red = {0: 203, 1: 41, 3: 97}
    labels = np.array([3, 0, 1, 0, 3, 3, 0, 3])  # unequal counts, class 2 absent
    images = _solid_images([red[label] for label in labels.tolist()])
    names = ["zero", "one", "two", "three"]
    path = plots.sample_grid(tmp_path / "grid.png", images, labels, names, columns=3)
    solid = {label: _is_color(_pixels(path), value) for label, value in red.items()}
    shown = {label: mask.sum() / 96**2 for label, mask in solid.items()}
    assert shown == {0: 3, 1: 1, 3: 3}
    rows = [_box(solid[label])[:2] for label in (0, 1, 3)]
    assert rows[0][0] < rows[0][1] < rows[1][0] < rows[1][1] < rows[2][0] < rows[2][1]
    assert len({_box(mask)[2] for mask in solid.values()}) == 1


@pytest.mark.parametrize("channels", [1, 3])
def test_sample_grid_enlarges_pixels_to_equal_squares(tmp_path, channels):
    image = np.random.default_rng(0).integers(10, 240, (8, 8, channels), dtype=np.uint8)
    image[0], image[-1], image[:, 0], image[:, -1] = 7, 7, 7, 7  # a frame to find it by
    path = plots.sample_grid(tmp_path / "grid.png", image[None], np.array([0]))
    picture = _pixels(path)
    frame = (picture == 7).all(axis=-1)
    frame[frame.sum(axis=1) < 20] = False  # text that has this grey by chance
    frame[:, frame.sum(axis=0) < 20] = False
    top, bottom, left, right = _box(frame)
    expected = np.kron(image, np.ones((12, 12, 1), int))
    found = picture[top:bottom, left:right]
    np.testing.assert_array_equal(found, np.broadcast_to(expected, (96, 96, 3)))


def test_sample_grid_of_one_class_goes_on_over_rows(tmp_path):
    images = _solid_images([77] * 5, size=100)
    path = plots.sample_grid(tmp_path / "grid.png", images, np.zeros(5, int), columns=3)
    top, bottom, left, right = _box(_is_color(_pixels(path), 77))
    assert bottom - top > 200
    assert 300 < right - left < 350


def test_images_of_no_class_have_no_name(tmp_path):
    images = _solid_images([77], size=256)
    edges = []
    for label, names in ((-1, None), (0, [""]), (0, None)):
        path = plots.sample_grid(tmp_path / "grid.png", images, np.array([label]), names)
        edges.append(_box(_is_color(_pixels(path), 77))[2])
    assert edges[0] == edges[1] < edges[2]


def test_sample_grid_leaves_large_images_at_their_size(tmp_path):
    images = _solid_images([77], size=256)
    path = plots.sample_grid(tmp_path / "grid.png", images, np.zeros(1, int))
    assert _is_color(_pixels(path), 77).sum() == 256 * 256


def test_reconstructions_pair_each_image_with_its_own(tmp_path):
    real, made = [30, 60, 90], [130, 160, 190]
    errors = np.array([0.5, 1.25, 20.0])
    path = plots.reconstructions(
        tmp_path / "pairs.png", _solid_images(real), _solid_images(made), errors
    )
    picture = _pixels(path)
    corners = {}
    for value in real + made:
        top, _, left, _ = _box(_is_color(picture, value))
        corners[value] = (top, left)
    for upper, lower in zip(real, made, strict=True):
        assert corners[upper][0] + 96 < corners[lower][0] < corners[upper][0] + 120
        assert corners[upper][1] == corners[lower][1]
    assert corners[30][1] < corners[60][1] < corners[90][1]


def test_reconstructions_continue_in_further_rows(tmp_path):
    images = _solid_images([77] * 11)
    path = plots.reconstructions(tmp_path / "pairs.png", images, images, np.ones(11))
    solid = _is_color(_pixels(path), 77)
    assert solid.sum() == 22 * 96 * 96
    starts = np.diff(np.concatenate([[0], solid.sum(axis=1) >= 96]).astype(int)) == 1
    assert starts.sum() == 4


def test_curves_show_present_metrics_in_few_panels(tmp_path, drawn):
    steps = np.arange(1, 201)
    metrics = {
        "loss": (steps, 10.0 ** (-steps / 50)),
        "alignment_loss": (steps, np.where(steps == 7, np.nan, 1.0)),
        "test_accuracy": (np.array([100, 200]), np.array([0.5, 0.9])),
        "steps_per_second": (np.array([1]), np.array([np.nan])),
        "unknown": (steps, steps.astype(float)),
    }
    picture = _pixels(plots.curves(tmp_path / "curves.png", metrics))
    assert 600 < picture.shape[0] < 4000
    assert 600 < picture.shape[1] < 4000
    losses, accuracies = drawn[0].axes
    assert losses.get_title("left") == "Losses"
    assert losses.get_yscale() == "log"
    assert [text.get_text() for text in losses.get_legend().get_texts()] == ["total", "alignment"]
    assert accuracies.get_yscale() == "linear"
    (line,) = accuracies.get_lines()
    np.testing.assert_array_equal(line.get_xydata(), [[100, 0.5], [200, 0.9]])


def test_curves_without_metrics_are_still_a_picture(tmp_path):
    assert _pixels(plots.curves(tmp_path / "curves.png", {})).min() < 50


def _texts(figure):
    return [" ".join(text.get_text().split()) for text in figure.findobj(Text)]


def test_a_panel_of_one_dot_is_a_line_of_text(tmp_path, drawn):
    steps = np.array([1, 2])
    metrics = {
        "loss": (steps, np.array([2.0, 1.0])),
        "test_accuracy": (steps[1:], np.array([0.984])),
        "test_accuracy_batch": (steps[1:], np.array([0.5])),
        "reconstruction_l2": (steps, np.array([np.nan, 1.25])),
    }
    plots.curves(tmp_path / "curves.png", metrics)
    plots.curves(tmp_path / "alone.png", {"test_accuracy": metrics["test_accuracy"]})
    losses, alone = drawn
    assert [axes.get_title("left") for axes in losses.axes] == ["Losses"]
    (text,) = (text for text in _texts(losses) if "Measured once" in text)
    for value in (
        "Accuracy: test, context anchors 98.4%, test, batch anchors 50.0%",
        "Reconstruction error: 1.25",
    ):
        assert value in text
    assert not alone.axes
    assert any("98.4%" in text for text in _texts(alone))


def test_a_dot_beside_curves_has_its_value_in_the_legend(tmp_path, drawn):
    steps = np.arange(1, 4)
    metrics = {
        "assignment_accuracy": (steps, np.array([0.1, 0.5, 0.9])),
        "test_accuracy": (steps[-1:], np.array([0.875])),
    }
    plots.curves(tmp_path / "curves.png", metrics)
    (axes,) = drawn[0].axes
    names = [text.get_text() for text in axes.get_legend().get_texts()]
    assert names == ["assignment (training)", "test, context anchors (87.5%)"]


@pytest.mark.parametrize(
    ("name", "value", "noise", "least"),
    [
        ("test_accuracy", 0.985, 0.0015, 0.2),
        ("test_accuracy", 0.005, 0.001, 0.1),
        ("steps_per_second", 25.0, 0.2, 6.0),
        ("reconstruction_l2", 1.5, 0.01, 0.35),
    ],
)
def test_noise_of_a_flat_curve_does_not_fill_its_panel(tmp_path, drawn, name, value, noise, least):
    values = value + noise * np.array([-1, 1, 0, 1, -1])
    plots.curves(tmp_path / "curves.png", {name: (np.arange(5), values)})
    low, high = drawn[0].axes[0].get_ylim()
    assert high - low >= least - 1e-9
    assert low < values.min() < values.max() < high
    if name == "test_accuracy":
        assert low >= -0.02
        assert high <= 1.02 + 1e-9


@pytest.mark.parametrize(("last", "scale"), [(0.5, "linear"), (0.05, "linear"), (5e-3, "log")])
def test_log_scales_are_for_several_decades(tmp_path, drawn, last, scale):
    plots.curves(tmp_path / "curves.png", {"loss": (np.arange(2), np.array([1.0, last]))})
    assert drawn[0].axes[0].get_yscale() == scale


def test_a_single_accuracy_of_classification_is_text(tmp_path, drawn):
    plots.classification(tmp_path / "a.png", {0.0: 0.9, 1.0: 0.8}, {36: 0.75}, {})
    plots.classification(tmp_path / "b.png", {}, {36: 0.75}, {})
    assert [len(figure.axes) for figure in drawn] == [1, 0]
    for figure in drawn:
        assert any("75.0%" in text for text in _texts(figure))


def test_long_curves_carry_their_running_median(tmp_path, drawn):
    steps = np.arange(1000)
    values = 5.0 + 0.01 * steps
    values[100::100] = 1e6  # a mean would show nothing else
    plots.curves(tmp_path / "curves.png", {"loss": (steps, values)})
    raw, smooth = drawn[0].axes[0].get_lines()
    np.testing.assert_array_equal(raw.get_ydata(), values)
    inner = slice(50, -50)
    trend = 5.0 + 0.01 * steps
    np.testing.assert_allclose(smooth.get_ydata()[inner], trend[inner], atol=0.01)
    # At the ends it is that of the values there.
    assert 5.0 < smooth.get_ydata()[0] < 5.3
    assert 14.7 < smooth.get_ydata()[-1] < 15.0


def _three_classes(dim, rng):
    """Classes that differ in two directions only, hidden under larger noise in the others."""
    labels = np.arange(300) % 3
    basis = np.linalg.qr(rng.normal(size=(dim, dim)))[0]
    corners = np.zeros((3, dim))
    corners[:, :2] = 6 * np.array([[0, 0], [1, 0], [0, 1]])
    scales = np.where(np.arange(dim) < 2, 1.0, 10.0)
    points = corners[labels] + scales * rng.normal(size=(300, dim))
    return points @ basis.T, labels, basis[:, :2]


def test_plane_is_orthonormal_and_separates_the_classes():
    points, labels, informative = _three_classes(16, np.random.default_rng(0))
    plane, _ = zones._plane(points, labels)
    np.testing.assert_allclose(plane.T @ plane, np.eye(2), atol=1e-10)
    overlap = np.linalg.svd(plane.T @ informative, compute_uv=False)
    assert overlap.min() > 0.95


def test_plane_holds_with_hardly_more_points_than_dimensions():
    # Without shrinkage: 3.8 standard deviations between random classes, 0.3 of the true plane.
    rng = np.random.default_rng(0)
    noise, labels = rng.normal(size=(120, 100)), np.arange(120) % 4
    flat = noise @ zones._plane(noise, labels)[0]
    centers = np.stack([flat[labels == k].mean(axis=0) for k in range(4)])
    spread = np.mean([flat[labels == k].std() for k in range(4)])
    assert np.linalg.norm(centers[:, None] - centers, axis=-1).max() < 3 * spread

    corners = np.zeros((4, 100))
    corners[:, :2] = [[0, 0], [4, 0], [0, 4], [4, 4]]
    plane, _ = zones._plane(noise + corners[labels], labels)
    assert np.linalg.svd(plane[:2], compute_uv=False).min() > 0.8


def test_plane_of_two_classes_is_that_of_largest_variance():
    rng = np.random.default_rng(0)
    points = rng.normal(size=(500, 6)) * np.array([1, 9, 1, 1, 5, 1])
    plane, kind = zones._plane(points, np.arange(500) % 2)
    assert kind == "principal direction"
    centred = points - points.mean(axis=0)
    expected = np.linalg.svd(centred, full_matrices=False)[2][:2].T
    np.testing.assert_allclose(np.abs(plane.T @ expected), np.eye(2), atol=1e-9)
    np.testing.assert_allclose(np.abs(plane), np.eye(6)[:, [1, 4]], atol=0.1)


def test_names_at_equal_positions_are_moved_apart():
    positions = np.array([[0.0, 0.0], [0.0, 0.0], [5.0, 5.0]])
    moved = zones._moved_apart(positions, np.array([[5.0, 6.5]]), 1.0)
    assert np.linalg.norm(moved[0] - moved[1]) > 0.9
    np.testing.assert_allclose(moved[2], [5, 5], atol=0.01)


def test_obstacles_push_positions_and_stay():
    moved = zones._moved_apart(np.zeros((2, 2)), np.array([[0.0, 0.0]]), 1.0)
    assert np.linalg.norm(moved, axis=1).min() > 0.9
    assert np.linalg.norm(moved[0] - moved[1]) > 0.9


def test_latent_zones_project_points_and_zone_centers_alike(tmp_path, drawn):
    points, labels, _ = _three_classes(16, np.random.default_rng(0))
    means = np.stack([points[labels == k].mean(axis=0) for k in range(3)])
    options = {"zones_of": "text"}
    path = plots.latent_zones(tmp_path / "zones.png", points, points, labels, means, **options)
    assert drawn[0].legends[0].get_texts()[-1].get_text() == "centre of a\ntext's zone"
    assert 600 < _pixels(path).shape[0] < 4000
    right = drawn[0].axes[1]
    stars = np.array([line.get_xydata()[0] for line in right.get_lines()])
    dots = right.collections[0]
    colors, offsets = dots.get_facecolors()[:, :3], np.asarray(dots.get_offsets())
    for star, line in zip(stars, right.get_lines(), strict=True):
        own = np.all(np.isclose(colors, to_rgb(line.get_color())), axis=1)
        assert own.sum() == 100
        np.testing.assert_allclose(offsets[own].mean(axis=0), star, atol=1e-8)
    assert [circle.radius for circle in right.patches] == [1, 2]


@pytest.mark.parametrize(
    ("dim", "classes"), [(1, 2), (2, 3), (5, 1), (200, 10), (8, 25)], ids=lambda value: str(value)
)
def test_latent_zones_of_any_dimension_and_class_count(tmp_path, dim, classes):
    rng = np.random.default_rng(0)
    labels = np.arange(60) % classes
    anchors, latents = rng.normal(size=(2, 60, dim)).astype(np.float32)
    centers = rng.normal(size=(classes, dim)).astype(np.float32)

    def classes_of(points):
        assert points.shape[1] == dim
        return np.arange(len(points)) % classes

    options = {"classes_of": classes_of}
    path = plots.latent_zones(tmp_path / "zones.png", anchors, latents, labels, centers, **options)
    assert _pixels(path).min() < 50


@pytest.mark.parametrize("dim", [2, 16])
def test_the_background_shows_the_zones_that_the_plane_cuts(dim, tmp_path, drawn):
    points, labels, _ = _three_classes(dim, np.random.default_rng(0))
    plane = zones._plane(points, labels)[0]

    def classes_of(latents):
        np.testing.assert_allclose(latents @ plane @ plane.T, latents, atol=1e-4)
        x, y = (latents @ plane).T
        return np.where(y > 5, 7, np.where(x > 0, 2, 0))  # no test image shows class 7

    path = tmp_path / "zones.png"
    plots.latent_zones(path, points, points, labels, classes_of=classes_of)
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

    colors = style.class_colors(np.arange(3))
    assert color_at(1, -3) == (*to_rgb(colors[2]), 0.25)
    assert color_at(-1, 3) == (*to_rgb(colors[0]), 0.25)
    assert color_at(-1, 0.9 * high) == (1, 1, 1, 1)


def test_latent_zones_of_collapsed_anchors(tmp_path):
    points, labels = np.ones((20, 4)), np.arange(20) % 4
    assert plots.latent_zones(tmp_path / "zones.png", points, points, labels).exists()


def test_interpolation_has_its_images_between_the_two_real_ones(tmp_path):
    reds = [11, 60, 90, 120, 203]
    images = _solid_images(reds)
    weights = np.array([0.0, 0.5, 1.0])
    path = plots.interpolation(tmp_path / "a.png", images[[0, 4]], images[1:4], weights)
    places = [_box(_is_color(_pixels(path), red)) for red in reds]
    lefts = [left for _, _, left, _ in places]
    assert lefts == sorted(lefts)
    gaps = np.diff(lefts)
    assert gaps[0] == gaps[3] > gaps[1] == gaps[2]  # the real ones stand apart
    assert len({(top, bottom) for top, bottom, _, _ in places}) == 1


def test_predictions_shows_the_first_images_and_a_label_where_it_differs(tmp_path):
    images = _solid_images([41] * 60 + [203])
    classes, shares = np.zeros(61, int), np.linspace(0, 1, 61)
    wrong_first = (np.arange(61) == 0).astype(int)
    paths = [
        plots.predictions(tmp_path / f"{name}.png", images, classes, shares, labels)
        for name, labels in (("none", None), ("right", classes), ("wrong", wrong_first))
    ]
    none, right, wrong = map(_pixels, paths)
    assert _is_color(none, 41).sum() == 60 * 96**2
    assert not _is_color(none, 203).any()
    np.testing.assert_array_equal(none, right)
    changed = _box((wrong != right).any(axis=-1))
    top, _, left, _ = _box(_is_color(wrong, 41))
    assert top + 96 <= changed[0] < changed[1] <= top + 192  # below the first of six rows
    assert left <= changed[2] < changed[3] <= left + 96


def test_pictures_name_their_author_where_they_must(tmp_path):
    with style.credited("by an author"):
        figure = style.new_figure(2.0, 2.0)
        axes = figure.subplots()
        style.save(figure, tmp_path / "credited.png")
    other = style.new_figure(2.0, 2.0)
    style.save(other, tmp_path / "other.png")
    (credit,) = figure.texts
    assert credit.get_text() == "by an author"
    space = axes.get_tightbbox().y0 - credit.get_window_extent().y1
    assert space > 0.1 * style.DPI  # inches: words may reach below their axes
    assert other.texts == []


def test_texts_of_any_script_can_be_drawn(tmp_path):
    texts = ["\x03\x07", "日本の旗"]
    assert plots.translations(tmp_path / "texts.png", texts, texts, "Texts").stat().st_size > 0


def _boxes(figure):
    """Colour of the box of each sample, None without one."""
    sides = [axes.spines["left"] for axes in figure.axes]
    return [to_rgb(side.get_edgecolor()) if side.get_visible() else None for side in sides]


def test_the_partner_of_a_query_is_in_a_box(tmp_path, drawn):
    image = np.zeros((4, 4, 3), np.uint8)
    rows = [("a cat", [image, image], [False, True]), (image, ["a dog"], [False])]
    plots.retrieval(tmp_path / "retrieval.png", rows)
    thin, box = to_rgb(style.BORDER), to_rgb(style.PALETTE[2])
    assert _boxes(drawn[0]) == [None, thin, box, thin, None]
    assert len(drawn[0].findobj(FancyArrowPatch)) == 2


def test_arrows_lead_from_inputs_to_outputs_in_boxes(tmp_path, drawn):
    images, texts = _solid_images([30, 60]), np.array(["one", "two"])
    rows = [("image to text", images, texts), ("prior to image", None, images)]
    plots.tasks(tmp_path / "tasks.png", rows)
    plots.translations(tmp_path / "made.png", images, texts, "From image to text")
    plots.translations(tmp_path / "pairs.png", images, texts, "Pairs", made=False)
    thin, box = to_rgb(style.BORDER), to_rgb(style.PALETTE[0])
    tasks, made, pairs = drawn
    assert _boxes(tasks) == 2 * [thin] + 4 * [box]
    assert _boxes(made) == 2 * [thin] + 2 * [box]
    assert _boxes(pairs) == 2 * [thin] + 2 * [None]
    for figure, count in ((tasks, 2), (made, 2), (pairs, 0)):
        figure.draw_without_rendering()
        arrows = figure.findobj(FancyArrowPatch)
        assert len(arrows) == count
        for arrow, above, below in zip(arrows, figure.axes, figure.axes[2:], strict=False):
            extent, middle = arrow.get_window_extent(), above.bbox.x0 + above.bbox.width / 2
            assert below.bbox.y1 < extent.y0 < extent.y1 < above.bbox.y0
            assert extent.x0 < middle < extent.x1
            tail, *_, tip, _, _ = arrow.get_path().vertices
            assert tip[1] < tail[1]


def test_long_bands_continue_in_further_rows(tmp_path, drawn):
    names = np.array([f"name {place}" for place in range(20)])
    plots.tasks(tmp_path / "tasks.png", [("prior to text", None, names)])
    plots.translations(tmp_path / "pairs.png", names, names[:7], "Names")
    places = [[axes.get_position().p0 for axes in figure.axes] for figure in drawn]
    columns = [len({round(x, 6) for x, _ in cells}) for cells in places]
    rows = [len({round(y, 6) for _, y in cells}) for cells in places]
    assert (columns, rows) == ([10, 5], [2, 4])
    assert [len(cells) for cells in places] == [20, 14]


def test_white_images_have_a_border(tmp_path, drawn):
    white, labels, shares = np.full((2, 8, 8, 3), 255, np.uint8), np.arange(2), np.ones(2)
    sheets = {
        2: plots.sample_grid(tmp_path / "a.png", white, labels),
        3: plots.interpolation(tmp_path / "b.png", white, white[:1], shares[:1]),
        4: plots.reconstructions(tmp_path / "c.png", white, white, shares),
        1: plots.predictions(tmp_path / "d.png", white[:1], labels[:1], shares[:1]),
    }
    for count, path in sheets.items():
        grey = (_pixels(path) == round(255 * float(style.BORDER))).all(axis=-1)
        assert count * 4 * 96 < grey.sum() < count * 4 * 96 * 3  # lines of one to three pixels
    drawn.clear()
    plots.translations(tmp_path / "e.png", white, white, "Pairs", made=False)
    (figure,) = drawn
    assert _boxes(figure) == 4 * [to_rgb(style.BORDER)]


def test_a_place_among_zones_is_projected_as_they_are():
    rng = np.random.default_rng(0)
    labels = np.arange(90) % 3
    latents = rng.normal(size=(90, 5)) + 4 * np.eye(5)[labels]
    axes = plots.among_zones(latents, labels, latents[[7, 8]], "Place").axes[0]
    dots, (crosses,) = axes.collections[0].get_offsets(), axes.lines
    places = np.stack(crosses.get_data(), axis=1)
    gaps = np.linalg.norm(places[:, None] - np.asarray(dots), axis=-1)
    np.testing.assert_allclose(gaps.min(axis=1), 0, atol=1e-9)


def test_class_names_are_beside_a_cross():
    rng = np.random.default_rng(0)
    labels = np.arange(90) % 3
    latents = rng.normal(size=(90, 2)) + 4 * np.eye(3)[labels][:, :2]
    mean = latents[labels == 1].mean(axis=0)
    figure = plots.among_zones(latents, labels, mean[None], "Place")
    figure.canvas.draw()
    axes = figure.axes[0]
    centre, half = axes.transData.transform(mean), 8 * figure.dpi / 72  # its marker has 16 points
    cross = Bbox([centre - half, centre + half])
    names = [text for text in axes.texts if text.get_text().isdecimal()]
    assert len(names) == 3
    assert not any(cross.overlaps(text.get_window_extent()) for text in names)


LONG = ("WWWWWWWWWWWWWWWW", "another_one")


def pictures_of_two(folder):
    """Every picture of images, of two images and of two classes with long names."""
    images, labels = _solid_images([30, 60], size=4), np.arange(2)
    points = np.random.default_rng(0).normal(size=(20, 5))
    texts, half = np.array([*LONG]), np.full(2, 0.5)
    plots.sample_grid(
        folder / "a.png", images, labels, LONG, "Samples from the prior, a row a class"
    )
    plots.sample_grid(folder / "b.png", images[:1], labels[:1], title="Samples of a long title")
    plots.reconstructions(folder / "c.png", images[:1], images[:1], half[:1])
    plots.interpolation(folder / "d.png", images, images[:1], half[:1])
    plots.predictions(folder / "e.png", images, labels, half, labels[::-1], class_names=LONG)
    plots.translations(folder / "f.png", images, texts, "From image to label")
    plots.tasks(
        folder / "g.png", [("image to label", images, texts), ("prior to image", None, images)]
    )
    plots.retrieval(
        folder / "h.png", [(LONG[0], [images[0]], [True]), (images[1], [LONG[1]], [False])]
    )
    plots.latent_zones(
        folder / "i.png", points, points, np.arange(20) % 2, points[:2], class_names=LONG
    )
    plots.tsne(folder / "j.png", points, np.arange(20) % 2, LONG)


@pytest.mark.parametrize(
    "credit", ["", "Drawings by people with names, under a licence: " + 30 * "a"]
)
def test_no_text_leaves_a_picture_of_two(tmp_path, monkeypatch, credit):
    boxes, draw = [], Text.draw

    def keep(text, renderer):
        if text.get_text().strip():
            boxes.append((text.get_text(), text.get_window_extent(renderer), text.figure.bbox))
        draw(text, renderer)

    monkeypatch.setattr(Text, "draw", keep)
    with style.credited(credit):
        pictures_of_two(tmp_path)
    assert {*LONG} < {text for text, _, _ in boxes}
    for text, box, figure in boxes:
        assert -1 <= box.x0 <= box.x1 <= figure.x1 + 1, text
        assert -1 <= box.y0 <= box.y1 <= figure.y1 + 1, text


def test_pictures_call_classes_by_their_names(tmp_path, drawn):
    pictures_of_two(tmp_path)
    written = [{t.get_text() for t in figure.findobj(Text)} for figure in drawn]
    grid, _, _, _, predicted, *_, zones_of, features = written
    assert {*LONG} <= grid & zones_of & features
    assert {f"{LONG[0]}: 50%", f"is {LONG[1]}"} <= predicted


def test_names_that_are_numbers_are_called_classes():
    names = ["7", "cat"]
    assert [style.class_name(label, names) for label in (-1, 0, 1)] == ["", "class 7", "cat"]
    assert style.class_name(3, None) == "class 3"


def test_predictions_of_long_names_do_not_overlap(tmp_path, drawn):
    images = _solid_images([30, 60], size=4)
    plots.predictions(tmp_path / "a.png", images, np.zeros(2, int), np.ones(2), class_names=LONG)
    renderer = FigureCanvasAgg(drawn[0]).get_renderer()
    first, second = (t.get_window_extent(renderer) for t in drawn[0].texts[:2])
    assert first.x1 <= second.x0
