"""Answers of untrained runs of several configs."""

import functools
from pathlib import Path

import jax
import numpy as np
import pytest
import small
from PIL import Image

from lzn_jax import data
from lzn_jax.data import Examples
from lzn_jax.data.pixels import evenly_spaced
from lzn_jax.demo.answers import NUM_IMAGES, Answers
from lzn_jax.errors import UserError

CONFIG = Path(__file__).parents[2] / "configs" / "digits_text.py"


@functools.cache
def digits(split):
    return data.load(small.config(CONFIG).data, split)


def of_text(answers, text, seed):
    return answers.translated("text", "image", text, seed)


def drawn(answers, ink):
    """The image for black strokes of this strength in [0, 1] on white."""
    drawing = np.repeat(255 - np.rint(255 * ink)[..., None], 3, axis=-1)
    return answers.drawn(drawing.astype(np.uint8))


def encoded(image, folder, suffix=".png"):
    Image.fromarray(image).save(folder / f"image{suffix}")
    return (folder / f"image{suffix}").read_bytes()


@pytest.mark.parametrize(
    ("name", "can"),
    [
        ("digits_text", {"reads", "draws", "texts", "classes"}),
        ("digits_joint", {"reads", "draws", "classes"}),
        ("digits_gen", {"reads", "draws"}),
        ("digits_repr", {"reads"}),
    ],
)
def test_what_a_run_cannot_do_is_not_offered(answers_of, name, can):
    answers = answers_of(name)
    flags = {
        "reads": answers.encodes_images,
        "draws": answers.decodes_images,
        "texts": answers.written,
        "classes": answers.classes,
    }
    assert {what for what, value in flags.items() if value} == can
    about = answers.about(answers.test_images[0], 0)
    assert (about.reconstruction is None) == ("draws" not in can)
    assert (about.classes is None) == ("classes" not in can)
    assert list(about.others) == (["text"] if "texts" in can else [])
    assert len(about.neighbours) == NUM_IMAGES


@pytest.mark.parametrize("name", ["digits_text", "digits_alone"])
def test_all_classes_have_their_probability(answers_of, name):
    answers = answers_of(name)
    image = answers.test_images[7]
    found = answers.about(image, 0).classes
    assert list(found) == [str(digit) for digit in range(10)]
    assert sum(found.values()) == pytest.approx(1, abs=1e-5)
    own = answers.model.classify(image[None])
    of_class, of_zone = found[str(own.classes[0])], own.probabilities[0]
    if name == "digits_text":
        assert of_class == pytest.approx(of_zone, abs=1e-5)
    else:  # a class has the zones of all its images
        assert of_class > of_zone - 1e-5
        assert max(found.values()) < 0.999


def test_an_image_far_from_the_training_images_is_marked(answers, monkeypatch):
    for are_far, note in (([True], "Your image is far from all training images."), (None, "")):
        found = None if are_far is None else np.array(are_far)
        monkeypatch.setattr(type(answers.model), "are_far", lambda *_, found=found: found)
        assert answers.about(answers.test_images[4], 0).note == note


def test_an_image_is_nearest_to_itself(answers):
    about = answers.about(answers.test_images[4], 0)
    np.testing.assert_array_equal(about.neighbours[0], answers.test_images[4])
    assert len(about.place.axes) == 1


def test_the_seed_is_the_randomness(answers):
    image = answers.test_images[0]
    first, again, other = (answers.about(image, seed).siblings for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert np.any(first != other)
    assert len(np.unique(first, axis=0)) > 1
    for make in (
        answers.of_prior,
        lambda seed: answers.of_label("3", seed),
        lambda seed: of_text(answers, "a bold two", seed)[0],
    ):
        first, again, other = (make(seed) for seed in (0, 0, 1))
        np.testing.assert_array_equal(first, again)
        assert np.any(first != other)


def test_images_of_a_label_are_of_that_label(answers):
    expected = answers.model.translate(
        np.full(NUM_IMAGES, 6), "label", "image", key=jax.random.key(2)
    )
    np.testing.assert_array_equal(answers.of_label("6", 2), expected)


def test_words_that_are_in_no_training_text_are_named(answers):
    known = answers.examples("text")[0]
    assert of_text(answers, f" {known} ", 0)[1] == ""
    assert of_text(answers, f"{known} zebra", 0)[1] == "No training sample has: zebra."
    assert of_text(answers, "zebra a zebra", 0)[1] == "No training sample has: zebra."


def test_words_of_training_texts_that_are_not_among_the_known_are_not_named(answers):
    known = answers.model.context_samples("text", np.arange(12))
    missing = {text.split()[2] for text in digits("train").texts} - set(" ".join(known).split())
    assert missing
    for word in missing:
        assert of_text(answers, f"a bold {word}", 0)[1] == ""


def test_case_and_punctuation_make_no_other_word(answers):
    train = digits("train")._replace(texts=np.array(["A Bold, seven!"]))
    asked = of_text(Answers(answers.model, None, train), "a bold thin seven", 0)
    assert asked[1] == "No training sample has: thin."


def test_what_is_written_is_no_name_of_a_file(answers, tmp_path):
    (tmp_path / "a.txt").write_text("a bold two")
    with pytest.raises(UserError, match="characters outside the run's vocabulary"):
        of_text(answers, str(tmp_path / "a.txt"), 0)


def test_without_training_texts_nothing_is_said_of_words(answers):
    alone = Answers(answers.model, None)
    assert of_text(alone, "a zebra", 0)[1] == ""
    assert alone.examples("text") == []


def test_examples_to_write_differ_and_are_not_empty(answers):
    train = digits("train")
    some = train._replace(texts=np.where(np.arange(len(train.texts)) % 3, "", "a bold two"))
    assert Answers(answers.model, None, some).examples("text") == ["a bold two"]


def test_numbers_and_labels_are_written_and_no_image_is_asked_for(answers_of):
    answers = answers_of("../tests/without_images")  # of a data set that has images
    assert answers.written == [("property", "label"), ("label", "property")]
    can = (
        answers.encodes_images,
        answers.decodes_images,
        answers.samples_prior,
        answers.classifies,
    )
    assert not any(can)
    assert (answers.classes, answers.others, answers.test_images) == ([], [], None)
    labels = answers.examples("label")
    assert len(set(labels)) == NUM_IMAGES
    assert set(labels) <= set("0123456789")
    number, *_ = answers.examples("property")
    found, note = answers.translated("property", "label", number, 0)
    expected = answers.model.translate([float(number)], "property", "label")
    assert (list(found), note) == ([str(expected[0])] * NUM_IMAGES, "")
    found, _ = answers.translated("label", "property", "3", 0)
    assert len({float(each) for each in found}) > 1  # from anywhere in the zone
    with pytest.raises(UserError, match="properties must be numbers"):
        answers.translated("property", "label", "much", 0)


def test_an_image_becomes_a_number_and_back(answers_of):
    answers = answers_of("digits_property property.features=4 property.context_size=12")
    about = answers.about(answers.test_images[3], 0)
    expected = answers.model.translate(answers.test_images[3:4], "image", "property")
    assert about.others == {"property": f"{expected[0]:.3g}"}
    assert answers.written == [("property", "image")]
    assert answers.translated("property", "image", "0.1", 0)[0].shape == (NUM_IMAGES, 8, 8, 1)


@pytest.mark.parametrize(
    ("text", "message"), [("", "write a text"), (" \n", "write a text"), ("déjà vu", "déjà vu")]
)
def test_texts_that_cannot_be_read(answers, text, message):
    with pytest.raises(UserError, match=message):
        of_text(answers, text, 0)


def test_what_lies_between_two_images_ends_at_them(answers):
    ends = answers.test_images[0], answers.test_images[9]
    path = answers.between(*ends)
    back = answers.between(*ends[::-1])
    assert len(path) == 11
    for one, other in ((path[0], back[-1]), (path[-1], back[0])):
        np.testing.assert_allclose(one.astype(int), other.astype(int), atol=1)


def test_a_file_of_another_size_is_read_with_a_note(answers, tmp_path):
    own = answers.test_images[3][..., 0]
    image, note = answers.read(encoded(own, tmp_path))
    np.testing.assert_array_equal(image[..., 0], own)
    assert note == ""
    image, note = answers.read(encoded(np.zeros((30, 50, 3), np.uint8), tmp_path))
    assert image.shape == (8, 8, 1)
    assert "8 × 8" in note
    assert "50 × 30" in note


@pytest.mark.parametrize(
    ("ground", "is_light", "is_inverted"),
    [
        ("dark", True, True), ("dark", False, False), ("light", False, True),
        ("light", True, False), ("mixed", True, False), ("mixed", False, False),
    ],
)  # fmt: skip
def test_an_upload_has_the_ground_of_the_data(answers, tmp_path, ground, is_light, is_inverted):
    images, labels = digits("test").images[:20], np.arange(20) % 10
    own = 255 - images[3] if is_light else images[3]
    turned = {"dark": 0, "light": 20, "mixed": 10}[ground]
    images = np.concatenate([255 - images[:turned], images[turned:]])
    image, note = Answers(answers.model, Examples(images, labels)).read(
        encoded(own[..., 0], tmp_path)
    )
    np.testing.assert_array_equal(image, 255 - own if is_inverted else own)
    named = "light" if is_light else "dark"
    expected = f"Your image has a {named} background; its inverse is used."
    assert note == (expected if is_inverted else "")


def test_a_large_scan_of_black_on_white_is_read_as_the_digit_it_is(answers, tmp_path):
    own = answers.test_images[3]
    scan = Image.fromarray(255 - own[..., 0]).resize((80, 80), Image.Resampling.NEAREST)
    image, note = answers.read(encoded(np.asarray(scan.convert("RGB")), tmp_path))
    assert np.abs(image.astype(int) - own).mean() < 30
    assert "80 × 80 image" in note
    assert "Your image has a light background" in note


def test_a_file_that_is_no_image(answers):
    with pytest.raises(UserError, match="format is unknown"):
        answers.read(b"no image")


def test_a_drawing_becomes_an_image_like_those_of_the_data(answers):
    """Digits drawn large, wherever on the canvas, come back as they are in the data."""
    errors = []
    for place, image in enumerate(answers.test_images):
        large = Image.fromarray(image[..., 0]).resize((120, 120), Image.Resampling.BICUBIC)
        ink = np.zeros((300, 300))
        ink[20 + place : 140 + place, 150 - place : 270 - place] = np.asarray(large) > 127
        errors.append(np.abs(drawn(answers, ink).astype(int) - image).mean())
    assert np.mean(errors) < 30  # two of them differ by 85


def test_a_drawing_in_colour_is_the_canvas_at_the_size_of_an_image(colours):
    blank = np.full((320, 320, 3), 255, np.uint8)
    drawing = blank.copy()
    drawing[:, :160] = 230, 40, 30
    drawing[:160, 160:] = 255, 240, 240  # as pale as it is, it counts as drawn
    image = colours.drawn(drawing)
    assert image.shape == (32, 32, 3)
    np.testing.assert_array_equal(image, drawing[5::10, 5::10])
    with pytest.raises(UserError, match="draw something"):
        colours.drawn(blank)


def test_an_empty_drawing(answers):
    with pytest.raises(UserError, match="draw something"):
        drawn(answers, np.zeros((300, 300)))


def test_a_point_and_a_line_can_be_drawn(answers):
    ink = np.zeros((300, 300))
    ink[10, 20] = 1
    assert drawn(answers, ink).max() > 100
    ink[10:200, 20] = 1
    assert drawn(answers, ink).max() > 0


def test_test_images_to_choose_from_are_of_all_classes_where_files_go_by_class(
    answers_of, monkeypatch
):
    monkeypatch.setattr("lzn_jax.demo.answers.MAX_MAP_IMAGES", 20)
    model = answers_of("digits_repr").model
    test = data.load(model.config.data, "test")
    order = np.argsort(test.labels, kind="stable")
    sorted_test = Examples(test.images[order], test.labels[order])
    few = Answers(model, sorted_test)
    rows = evenly_spaced(20, len(test.labels))
    assert set(sorted_test.labels[rows].tolist()) == set(range(10))
    np.testing.assert_array_equal(few.test_images, sorted_test.images[rows])


def test_without_test_images_nothing_is_chosen(answers):
    alone = Answers(answers.model, None)
    assert alone.test_images is None
    about = alone.about(answers.test_images[0], 0)
    assert (about.neighbours, about.place) == (None, None)
    np.testing.assert_array_equal(about.siblings, answers.about(answers.test_images[0], 0).siblings)
    assert drawn(alone, np.ones((100, 40))).max() > 100
