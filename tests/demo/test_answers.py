"""Answers of untrained runs of several configs."""

import io

import jax
import numpy as np
import pytest
import small
from PIL import Image

from lzn_jax import data, trained_model
from lzn_jax.data import Examples
from lzn_jax.data.pixels import evenly_spaced
from lzn_jax.demo.answers import NUM_IMAGES, Answers
from lzn_jax.errors import UserError


@pytest.fixture(scope="module")
def train(answers):
    return data.load(answers.model.config.data, "train")


@pytest.fixture
def noise(monkeypatch):
    """The model makes noise of its key, label and row."""

    def made(self, samples, source, target, noise_scale, key, count=None):
        rng = np.random.default_rng(jax.random.key_data(key).tolist())
        drawn = rng.integers(0, 200, (NUM_IMAGES, 8, 8, 1), np.uint8)
        labels = np.reshape(samples, (-1, 1, 1, 1)) if source == "label" else 0
        return {"images": (drawn + labels).astype(np.uint8)}

    monkeypatch.setattr(trained_model.TrainedModel, "_made", made)


def of_text(answers, text, seed=0):
    return answers.translated("text", "image", text, seed)


def drawn(answers, ink):
    """The image for black strokes where `ink` is true, on white."""
    return answers.drawn(np.where(ink[..., None], 0, 255).repeat(3, axis=-1).astype(np.uint8))


def encoded(image):
    file = io.BytesIO()
    Image.fromarray(image).save(file, "png")
    return file.getvalue()


GENERATED = ["seen", "reconstruction"], ["siblings", "neighbours", "place"]


@pytest.mark.parametrize(
    ("name", "own", "is_written"),
    [
        ("digits_repr", None, False),
        *small.slow(
            ("digits_text", ["classes", "doubt", "text"], True),
            ("digits_joint", ["classes", "doubt"], False),
            ("digits_gen", ["doubt"], False),
        ),
    ],
)
def test_what_a_run_cannot_do_is_not_offered(answers_of, name, own, is_written):
    answers, (first, last) = answers_of(name), GENERATED
    expected = ["seen", *last[1:]] if own is None else [*first, *own, *last]
    assert (list(answers.views), bool(answers.written)) == (expected, is_written)
    assert answers.encodes_images
    assert bool(answers.classes) == ("classes" in answers.views)
    found = {view: make(answers.test_images[4], 0) for view, make in answers.views.items()}
    assert len(found["place"].axes) == 1
    np.testing.assert_array_equal(found["neighbours"][0], answers.test_images[4])  # itself
    assert len(found["neighbours"]) == NUM_IMAGES


@pytest.mark.parametrize("name", ["digits_text", "digits_alone"])
def test_all_classes_have_their_probability(answers_of, name):
    answers = answers_of(name)
    image = answers.test_images[7]
    found = answers.views["classes"](image, 0)
    assert list(found) == [str(digit) for digit in range(10)]
    assert sum(found.values()) == pytest.approx(1, abs=1e-5)
    own = answers.model.classes(answers.model.encode(image[None], None, 0.0))
    of_class, of_zone = found[str(own.classes[0])], own.probabilities[0]
    if name == "digits_text":
        assert of_class == pytest.approx(of_zone, abs=1e-5)
    else:  # a class has the zones of all its images
        assert of_class > of_zone - 1e-5
        assert max(found.values()) < 0.999


def test_an_image_far_from_the_training_images_is_marked(answers, monkeypatch):
    for is_far, start in ((True, "**Far from the training data**"), (False, "")):
        found = np.array([is_far])
        monkeypatch.setattr(type(answers.model), "are_far", lambda *_, found=found: found)
        line = answers.views["doubt"](answers.test_images[4], 0)
        assert line.partition(":")[0] == start


def test_the_seed_is_the_randomness(answers, noise):
    for make in (
        lambda seed: answers.views["siblings"](answers.test_images[0], seed),
        answers.of_prior,
        lambda seed: answers.of_label("3", seed),
        lambda seed: of_text(answers, "a bold two", seed)[0],
    ):
        first, again, other = (make(seed) for seed in (0, 0, 1))
        np.testing.assert_array_equal(first, again)
        assert np.any(first != other)
        assert len(np.unique(first, axis=0)) == NUM_IMAGES
    expected = answers.model.translate(
        np.full(NUM_IMAGES, 6), "label", "image", key=jax.random.key(2)
    )
    np.testing.assert_array_equal(answers.of_label("6", 2), expected)


def test_words_that_are_in_no_training_text_are_named(answers, train, noise):
    known = answers.examples("text")[0]
    other = train._replace(texts=np.array(["A Bold, seven!"]))
    context = " ".join(answers.model.context_samples("text", np.arange(12))).split()
    beyond = {text.split()[2] for text in train.texts} - set(context)  # in training texts alone
    for own, text, note in (
        (answers, f" {known} ", ""),
        (answers, f"{known} zebra", "No training sample has: zebra."),
        (answers, "zebra a zebra", "No training sample has: zebra."),
        (answers, f"a bold {beyond.pop()}", ""),
        (Answers(answers.model, None, other), "a bold thin seven", "No training sample has: thin."),
        (Answers(answers.model), "a zebra", ""),
    ):
        assert of_text(own, text)[1] == note


def test_texts_that_cannot_be_read(answers, tmp_path):
    (tmp_path / "a.txt").write_text("a bold two")  # what is written is no name of a file
    outside = "characters outside the run's vocabulary"
    for text, message in (
        ("", "write a text"),
        (" \n", "write a text"),
        ("déjà vu", "déjà vu"),
        (str(tmp_path / "a.txt"), outside),
    ):
        with pytest.raises(UserError, match=message):
            of_text(answers, text)


def test_examples_to_write_differ_and_are_not_empty(answers, train):
    some = train._replace(texts=np.where(np.arange(len(train.texts)) % 3, "", "a bold two"))
    assert Answers(answers.model, None, some).examples("text") == ["a bold two"]


def test_samples_of_a_space_without_images_are_written(answers_of):
    # Of a data set that has images.
    answers = answers_of("../tests/demo/texts_config")
    assert not any((answers.encodes_images, answers.samples_prior, answers.classes, answers.views))
    assert answers.test_images is None
    assert answers.written == [("text", "label"), ("label", "text")]
    labels = answers.examples("label")
    assert len(set(labels)) == NUM_IMAGES
    assert set(labels) <= set("0123456789")
    found, note = answers.translated("text", "label", text := answers.examples("text")[0], 0)
    expected = answers.model.translate([text], "text", "label")
    assert (list(found), note) == ([str(expected[0])] * NUM_IMAGES, "")
    assert len(answers.translated("label", "text", "3", 0)[0]) == NUM_IMAGES


def test_what_lies_between_two_images_ends_at_them(answers):
    ends = answers.test_images[0], answers.test_images[9]
    path, back = answers.between(*ends), answers.between(*ends[::-1])
    assert len(path) == 11
    for one, other in ((path[0], back[-1]), (path[-1], back[0])):
        np.testing.assert_allclose(one.astype(int), other.astype(int), atol=1)


def test_an_uploaded_file_is_read_with_a_note_on_what_changed(answers):
    own = answers.test_images[3]
    image, note = answers.read(encoded(own[..., 0]))
    np.testing.assert_array_equal(image, own)
    assert note == ""
    image, note = answers.read(encoded(np.zeros((30, 50, 3), np.uint8)))
    assert image.shape == (8, 8, 1)
    assert note == "Your image was cropped to the central square, resized to 8x8."
    scan = Image.fromarray(255 - own[..., 0]).resize((80, 80), Image.Resampling.NEAREST)
    image, note = answers.read(encoded(np.asarray(scan.convert("RGB"))))
    moved = [np.roll(own.astype(int), column, axis=1) for column in (-1, 0, 1)]  # it is centred
    assert min(np.abs(image - each).mean() for each in moved) < 30
    assert "was cropped to the ink, inverted to the background" in note
    with pytest.raises(UserError, match="format is unknown"):
        answers.read(b"no image")


@pytest.mark.parametrize(
    ("ground", "is_light", "is_inverted"),
    [
        ("dark", True, True), ("dark", False, False), ("light", False, True),
        ("light", True, False), ("mixed", True, False), ("mixed", False, False),
    ],
)  # fmt: skip
def test_an_upload_has_the_ground_of_the_data(answers, train, ground, is_light, is_inverted):
    images, labels = train.images[:20], np.arange(20) % 10
    own = 255 - images[3] if is_light else images[3]
    turned = {"dark": 0, "light": 20, "mixed": 10}[ground]
    images = np.concatenate([255 - images[:turned], images[turned:]])
    image, note = Answers(answers.model, Examples(images, labels)).read(encoded(own[..., 0]))
    np.testing.assert_array_equal(image, 255 - own if is_inverted else own)
    assert note.startswith("Your image was inverted to the background") == is_inverted
    assert bool(note) == is_inverted


@pytest.mark.parametrize("is_light", [False, True])
def test_a_drawing_becomes_an_image_like_those_of_the_data(answers, is_light):
    """Digits drawn large, wherever on the canvas, come back as they are in the data."""
    images, labels = answers.test_images, np.arange(len(answers.test_images)) % 10
    own = 255 - images if is_light else images
    reader, errors = Answers(answers.model, Examples(own, labels)), []
    for place, image in enumerate(images):
        large = Image.fromarray(image[..., 0]).resize((120, 120), Image.Resampling.BICUBIC)
        ink = np.zeros((300, 300), bool)
        ink[20 + place : 140 + place, 150 - place : 270 - place] = np.asarray(large) > 127
        errors.append(np.abs(drawn(reader, ink).astype(int) - own[place]).mean())
    assert np.mean(errors) < 30  # two of them differ by 85


def test_a_drawing_in_colour_is_the_canvas_at_the_size_of_an_image(colours):
    blank = np.full((320, 320, 3), 255, np.uint8)
    drawing = blank.copy()
    drawing[:, :160] = 230, 40, 30
    drawing[:160, 160:] = 255, 240, 240  # as pale as it is, it counts as drawn
    # At edges the filter overshoots.
    np.testing.assert_allclose(colours.drawn(drawing), drawing[5::10, 5::10].astype(int), atol=20)
    with pytest.raises(UserError, match="draw something"):
        colours.drawn(blank)


def test_a_point_and_a_line_can_be_drawn_but_not_nothing(answers):
    ink = np.zeros((300, 300), bool)
    with pytest.raises(UserError, match="draw something"):
        drawn(answers, ink)
    ink[10, 20] = True
    assert drawn(answers, ink).max() > 100
    ink[10:200, 20] = True
    assert drawn(answers, ink).max() > 0


def test_test_images_to_choose_from_are_of_all_classes_where_files_go_by_class(
    answers_of, monkeypatch
):
    monkeypatch.setattr("lzn_jax.demo.answers.MAX_MAP_IMAGES", 20)
    model = answers_of("digits_repr").model
    test = data.load(model.config.data, "test")
    order = np.argsort(test.labels, kind="stable")
    sorted_test = Examples(test.images[order], test.labels[order])
    rows = evenly_spaced(20, len(test.labels))
    assert set(sorted_test.labels[rows].tolist()) == set(range(10))
    few = Answers(model, sorted_test)
    np.testing.assert_array_equal(few.test_images, sorted_test.images[rows])


def test_without_test_images_nothing_is_chosen(answers, noise):
    alone, image = Answers(answers.model), answers.test_images[0]
    assert alone.test_images is None
    assert not {"neighbours", "place"} & set(alone.views)
    siblings = (each.views["siblings"](image, 0) for each in (alone, answers))
    np.testing.assert_array_equal(*siblings)
    assert drawn(alone, np.pad(np.ones((60, 20), bool), 20)).max() > 100
