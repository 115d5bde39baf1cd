"""Tones, labels and texts in a space without images: configs, commands, metrics and the page."""

import csv
import functools
import json
from pathlib import Path

import jax
import numpy as np
import pytest
import small

import lzn_jax
from lzn_jax import configuration, data, loading, main, plan, plots
from lzn_jax.demo.answers import NUM_IMAGES, Answers
from lzn_jax.errors import UserError
from lzn_jax.evaluation import samples as samples_module
from lzn_jax.modes import export
from lzn_jax.run import devices

TESTS = Path(__file__).parent
TO_LABEL = ("--mode=translate", "--source=tone", "--target=label")
PAIRS = {"types": ("tone", "text"), "alignments": ("tone:text",), "tone.condition": "text"}
CLASSES = {"types": ("tone", "label"), "alignments": ("tone:label",)}


def written(folder, changes, name="tones_config", more=""):
    """Path of a config that names other parts than its sibling."""
    path = folder / "config.py"
    path.write_text(
        f"from lzn_jax import configuration\n\n\ndef get_config():\n"
        f"    config = configuration.sibling({str(TESTS / 'any.py')!r}, {name!r}, {changes!r})\n"
        f"    config.extensions = ({str(TESTS / 'tones.py')!r},)\n{more}    return config\n"
    )
    return str(path)


@pytest.fixture(scope="module", autouse=True)
def one_device():
    """Of eight, programs compile for longer."""
    with jax.set_mesh(devices.make_mesh(1, jax.devices()[:1])):
        yield


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    config = configuration.load(
        str(TESTS / "tones_config.py"), ["evaluation.measurements=('reconstruction',)"]
    )
    return small.untrained_run(tmp_path_factory.mktemp("tones"), config)


@pytest.fixture(scope="module")
def model(workdir):
    return lzn_jax.load(workdir)


@pytest.fixture(autouse=True)
def one_model(model, monkeypatch):
    """Commands and pages share the programs of a model, whose batches have a page's size."""
    monkeypatch.setattr(loading, "restore", lambda config, workdir: model)
    monkeypatch.setattr("lzn_jax.demo.answers._with_small_batches", lambda model: model)


@pytest.fixture
def run(workdir):
    """Flags of the run, and its folder."""
    return [f"--workdir={workdir}"], workdir


@pytest.fixture(scope="module")
def examples(model):
    return data.load(model.config.data, "train"), data.load(model.config.data, "test")


@pytest.fixture
def drawn(monkeypatch):
    """Arguments of the pictures that are drawn, by function, in place of pictures."""
    calls = {}
    names = ("sample_grid", "reconstructions", "interpolation", "predictions", "translations")
    for name in (*names, "tasks", "retrieval", "tsne", "classification", "latent_zones"):
        monkeypatch.setattr(plots, name, lambda *a, name=name, **_: calls.update({name: a[1:]}))
    return calls


@pytest.fixture
def two(tmp_path, examples):
    """A file of two tones of different classes, and these tones."""
    tones = examples[1].more["tones"][:2]
    np.save(tmp_path / "two.npy", tones)
    return str(tmp_path / "two.npy"), tones


def written_by(run, name, *flags):
    """Rows or arrays of a file that a mode of the run writes."""
    assert main.main([*run[0], *flags]) == 0
    if name.endswith(".npz"):
        return dict(np.load(run[1] / name))
    with open(run[1] / name, newline="") as file:
        return list(csv.DictReader(file))


def test_tones_and_texts_have_losses(model, examples):
    space, train = model.space, examples[0]
    batch = {"labels": train.labels, **space.columns(train)}
    _, metrics = jax.eval_shape(
        functools.partial(plan.loss, space.plan), model.model.variables, batch, jax.random.key(0)
    )
    assert set(metrics) >= {"tone_loss"}


def test_metrics_have_the_name_of_the_main_type_and_figures_show_spectrograms(run, drawn):
    assert main.main([*run[0], "--mode=evaluate"]) == 0
    summary = json.loads((run[1] / "summary.json").read_text())
    assert not [name for name in summary if "image" in name]
    ways = {f"retrieval_{way}_r1" for way in ("tone_to_text", "text_to_tone")}
    accuracies = {"test_accuracy", "tone_to_label_accuracy", "text_to_label_accuracy"}
    texts = {f"tone_to_text_{part}" for part in ("exact", "words")}
    assert set(summary) >= ways | accuracies | texts | {"text_to_tone_r1"}
    assert not [name for name in summary if name.endswith("_r10")]  # of ten tones and two texts
    assert summary["reconstruction_l2"] < 1e-4
    (rows,) = drawn["retrieval"]
    assert [asked.shape for asked, *_ in rows[:8]] == [(5, 4, 1)] * 8
    assert {found.shape for _, nearest, _ in rows[8:] for found in nearest} == {(5, 4, 1)}
    shown, again, *_ = drawn["reconstructions"]
    np.testing.assert_array_equal(shown, again)


def test_reconstructions_are_tones(run, drawn, two, model):
    path, tones = two
    mode = ("--mode=reconstruct", f"--input={path}")
    found = written_by(run, "input/reconstructions.npz", *mode)
    assert found["tones"].dtype == np.int16
    np.testing.assert_array_equal(found["tones"], tones)
    assert found["errors"].max() < 1e-4
    shown, again, _, title = drawn["reconstructions"]
    kind = model.space.types["tone"]
    np.testing.assert_array_equal(shown, kind.shown(tones))
    np.testing.assert_array_equal(again, kind.shown(found["tones"]))
    assert title == "Real tones and their reconstructions"
    samples_module.draw(Path("unused.png"), kind, tones, found | {"tones": tones[::-1]})
    np.testing.assert_array_equal(drawn["reconstructions"][1], kind.shown(tones)[::-1])


def test_what_lies_between_tones_leads_from_one_to_the_other(run, drawn, two, model, capsys):
    path, tones = two
    mode = ("--mode=interpolate", f"--input={path}")
    found = written_by(run, "input/interpolation.npz", *mode)
    assert found["tones"].dtype == np.int16
    np.testing.assert_array_equal(found["tones"][[0, -1]], tones)
    ends, between, weights, title = drawn["interpolation"]
    kind = model.space.types["tone"]
    np.testing.assert_array_equal(ends, kind.shown(tones))
    np.testing.assert_array_equal(between, kind.shown(found["tones"]))
    assert (len(weights), title) == (11, "From one tone to another")
    with pytest.raises(UserError, match="is between two tones, got 1"):
        model.interpolate(tones[:1])
    np.save(path, tones[:1])
    assert main.main([*run[0], *mode]) == 2
    assert "is between two tones, got 1" in capsys.readouterr().err


def test_the_class_of_a_tone_is_that_of_classify_where_none_is_given(model, examples):
    tones = examples[1].more["tones"]
    classes = model.classify(tones).classes
    given, found = model.reconstruct(tones, classes), model.reconstruct(tones)
    between, other = model.interpolate(tones[:2], classes[:2]), model.interpolate(tones[:2])
    np.testing.assert_array_equal(given["errors"], found["errors"])
    np.testing.assert_array_equal(between["tones"], other["tones"])


def test_classes_of_tones_have_the_file_and_show_spectrograms(run, drawn, two, model):
    path, tones = two
    rows = written_by(run, "input/predictions.csv", "--mode=classify", f"--input={path}")
    assert [row["file"] for row in rows] == [path, path]
    shown, *_, title = drawn["predictions"]
    np.testing.assert_array_equal(shown, model.space.types["tone"].shown(tones))
    assert title == "Tones and their predicted classes"
    rows = written_by(run, "predictions.csv", "--mode=classify")
    assert [(row["label"], row["file"]) for row in rows] == [("0", ""), ("1", "")] * 5


@pytest.mark.parametrize("target", ["label", "text"])
def test_translations_name_the_file(run, drawn, two, target, model):
    path, tones = two
    flags = ("--mode=translate", "--source=tone", f"--target={target}")
    rows = written_by(run, "translations.csv", *flags, f"--input={path}")
    expected = enumerate(model.translate(tones, "tone", target))
    assert [(*row.values(),) for row in rows] == [(str(i), path, str(each)) for i, each in expected]
    rows = written_by(run, "translations.csv", *flags)
    assert [row["source"] for row in rows] == list(map(str, range(10)))  # of no file


@pytest.mark.parametrize(
    ("source", "asked", "samples"),
    [("label", "high,low", [1, 0]), ("text", "a low tone", ["a low tone"])],
)
def test_labels_and_texts_become_tones(run, drawn, source, asked, samples, model):
    flags = ["--mode=translate", f"--source={source}", "--target=tone"]
    found = written_by(run, "translations.npz", *flags, f"--input={asked}")["tones"]
    assert found.dtype == np.int16
    np.testing.assert_array_equal(found, model.translate(samples, source, "tone"))
    assert drawn["translations"][1].shape == (len(found), 5, 4, 1)
    assert main.main([*run[0], *flags]) == 0  # of the test set


def test_the_other_modes_take_tones(run, drawn, capsys):
    samples = written_by(run, "samples.npz", "--mode=sample")
    assert samples["tones"].shape == (100, 32)
    assert drawn["sample_grid"][0].shape == (100, 5, 4, 1)
    assert written_by(run, "embeddings.npz", "--mode=embed")["features"].shape == (10, 4)
    assert main.main([*run[0], "--mode=check_data"]) == 0
    err = capsys.readouterr().err
    assert "test: 10 examples without images" in err
    assert "0 examples without a text" in err


def test_tones_are_exported(model):
    tasks = export.programs(model)
    assert {"embed_tone", "classify_tone", "translate_text_tone", "sample_tone"} <= set(tasks)
    exported = export.exported_program(tasks["sample_tone"], model.model)
    assert [output.shape[1:] for output in exported.out_avals] == [(32,)]


def test_strings_are_drawn_in_place_of_spectrograms(run, two, monkeypatch, model):
    path, _ = two
    kind = type(model.space.types["tone"])
    monkeypatch.setattr(kind, "shown", lambda self, tones: [f"from {s[0]}" for s in tones])
    for mode, name in (("reconstruct", "mode_reconstruct"), ("interpolate", "interpolation")):
        figure = run[1] / "input" / "figures" / f"{name}.png"
        figure.unlink(missing_ok=True)
        assert main.main([*run[0], f"--mode={mode}", f"--input={path}"]) == 0
        assert figure.stat().st_size > 0
    rows = written_by(run, "translations.csv", *TO_LABEL, f"--input={path}")
    assert [row["source"] for row in rows] == kind.shown(None, two[1])


def test_what_a_type_draws_is_shown_in_modes_and_on_the_page(run, drawn, monkeypatch, model):
    kind = type(model.space.types["tone"])
    monkeypatch.delattr(kind, "shown")
    monkeypatch.setattr(kind, "draw", lambda self, tone, axes: axes.plot(tone), raising=False)
    flags = ("--mode=translate", "--source=text", "--target=tone", "--input=a low tone")
    assert main.main([*run[0], *flags]) == 0
    texts, tones = drawn["translations"]
    assert (texts, tones.shape) == (["a low tone"], (1, 180, 240, 3))
    answers = Answers(model, None, None)
    assert answers.shows_images("tone")
    shown, _ = answers.translated("text", "tone", "a low tone", 0)
    assert shown.shape == (NUM_IMAGES, 180, 240, 3)


def test_the_page_shows_spectrograms(model, examples):
    answers = Answers(model, *reversed(examples))
    assert [answers.shows_images(name) for name in model.space.types] == [True, False, False]
    assert answers.examples("tone") == []
    assert set(answers.examples("text")) == {"a low tone", "a high tone"}
    shown, _ = answers.translated("text", "tone", "a low tone", 0)
    assert shown.shape == (NUM_IMAGES, 5, 4, 1)
    alone = Answers(model, None, None)
    assert [alone.shows_images(name) for name in model.space.types] == [True, False, False]


def test_the_page_reads_an_array(model, examples, two):
    path, tones = two
    answers = Answers(model, *reversed(examples))
    found, _ = answers.translated("tone", "label", path, 0)
    names = np.array(["low", "high"])[model.translate(tones[:1], "tone", "label")]
    assert list(found) == [*names] * NUM_IMAGES
    answers.model = small.stand_in(translate=lambda tones, *_, key: tones)
    shown, _ = answers.translated("tone", "tone", path, 0)
    expected = model.space.types["tone"].shown(tones[:1])
    np.testing.assert_array_equal(shown, expected.repeat(NUM_IMAGES, axis=0))


def test_a_type_brings_its_components(model, examples, monkeypatch):
    answers, played = Answers(model, *reversed(examples)), (8000, "of the component")
    kind = model.space.types["tone"]
    monkeypatch.setattr(kind, "displayed", lambda tones: [played] * len(tones))
    shown, _ = answers.translated("text", "tone", "a low tone", 0)
    assert shown.shape == (NUM_IMAGES, 5, 4, 1)
    monkeypatch.setattr(kind, "output_component", lambda: None)
    assert answers.translated("text", "tone", "a low tone", 0)[0] == [played] * NUM_IMAGES
    assert answers.examples("tone") == []  # nothing that can be typed
    monkeypatch.setattr(kind, "input_component", lambda value: None)
    assert answers.examples("tone") == [played] * NUM_IMAGES
    tone = kind.decoded(np.zeros((1, 32)))
    monkeypatch.setattr(kind, "written", lambda value: tone if value == played else None)
    names, _ = answers.translated("tone", "label", played, 0)
    assert set(names) <= {"low", "high"}
    with pytest.raises(UserError, match="write a tone first"):
        answers.translated("tone", "label", None, 0)


@pytest.mark.slow
@pytest.mark.parametrize("changes", [CLASSES, PAIRS], ids=["label", "text"])
def test_a_space_of_two_types_is_evaluated(tmp_path, monkeypatch, changes):
    small.without_pictures(monkeypatch)
    config = configuration.load(written(tmp_path, changes))
    flags = [f"--workdir={small.untrained_run(tmp_path / 'run', config)}"]
    for mode in ("evaluate", "interpolate"):
        assert main.main([*flags, f"--mode={mode}"]) == 0


TONES = """
    config.data.num_classes = 2
    config.tone = {"context_size": 12, "condition": "label"}
    config.text.alphabet = None
"""


def test_a_sibling_of_other_types_needs_no_deletion(tmp_path):
    full = {"types": ("tone", "label", "text"), "alignments": ("tone:label", "tone:text")}
    changes = {"study": None, "data.name": "tones", **full}
    config = configuration.load(written(tmp_path, changes, "digits_text", TONES))
    groups = set(config.keys())
    assert not {"encoder", "decoder"} & groups
    assert not {"captions", "image_size", "channels"} & set(config.data)
    assert config.text_decoder.sources == ("text", "tone")
    before = configuration.load("digits_text")
    assert config.alignment == before.alignment
    assert config.training.learning_rate.text_decoder == 2e-3
    assert config.evaluation.batch_sizes == before.evaluation.batch_sizes
    assert before == configuration.load("digits_text")


BAD = {
    "alignments must name 'label' without images, for example 'TYPE:label', got ()": (
        {**CLASSES, "alignments": ()}
    ),
    "tone.condition needs 'text' among types, got ('tone', 'label')": (
        {**CLASSES, "tone.condition": "text"}
    ),
    "text_decoder.sources must name a type, got ()": ({**PAIRS, "text_decoder.sources": ()}),
    "text_encoder.num_heads must divide text_encoder.features 8, got 3": (
        {**PAIRS, "text_encoder.num_heads": 3}
    ),
    "the config has no field text.max_length; the nearest is evaluation.measurements": (
        {**CLASSES, "text.max_length": 3}
    ),
}


def test_texts_may_train_by_the_alignment_alone(tmp_path):
    config = configuration.load(written(tmp_path, {**PAIRS, "training.text_weight": 0.0}))
    assert config.training.text_weight == 0


@pytest.mark.parametrize("message", BAD)
def test_what_does_not_fit_is_one_line(tmp_path, message):
    with pytest.raises(UserError) as caught:
        configuration.load(written(tmp_path, BAD[message]))
    assert str(caught.value) == message


def test_labels_need_their_number(tmp_path):
    path = written(tmp_path, CLASSES, more="    del config.data.num_classes\n")
    with pytest.raises(UserError, match=r"lacks the field data.num_classes"):
        configuration.load(path)
