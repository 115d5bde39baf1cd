"""What the modes say and write: of a run on a folder of two classes."""

import csv
import os
from pathlib import Path

import numpy as np
import pytest
import small
from PIL import Image

from lzn_jax import data, loading, plots
from lzn_jax import main as command_line
from lzn_jax.data.pixels import EncodedImages

ROOT = Path(__file__).parents[2]
FIGURES = {"samples", "unconditional_samples", "reconstructions", "zones", "tasks"}
FIGURES |= {"classification", "retrieval", "embedding", "curves"}  # of evaluations

pytestmark = pytest.mark.usefixtures("restored_once")


@pytest.fixture(scope="module")
def run(tmp_path_factory, config_of_folder):
    """Flags of an untrained run, its folder, and the test images by name."""
    folder = tmp_path_factory.mktemp("cats_and_dogs")
    rng = np.random.default_rng(0)
    for split, count in (("train", 10), ("test", 12)):
        for name in ("cat", "dog"):
            (folder / split / name).mkdir(parents=True)
            for place in range(count):
                pixels = rng.integers(0, 256, (8, 8), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f"{place:02}.png")
    last = folder / "test" / "dog" / "11.png"
    last.rename(os.fsdecode(os.fsencode(last.with_suffix("")) + b"\xff.png"))  # no Unicode
    path = config_of_folder(folder / "config.py", folder, "digits_joint", channels=1)
    workdir = small.untrained_run(folder / "run", small.config(path))
    return small.flags(path, workdir), workdir, sorted((folder / "test").rglob("*.png"))


def lines_of(capsys, flags, *extra):
    """What a command logs."""
    assert command_line.main([*flags, *extra]) == 0
    return capsys.readouterr().err.splitlines()


def table(workdir):
    with open(workdir / "predictions.csv", newline="", errors="surrogateescape") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def drawn(monkeypatch):
    """Arguments of the pictures that are drawn, by function, in place of pictures."""
    calls = {}
    for name in ("sample_grid", "reconstructions", "interpolation", "predictions", "tsne"):

        def draw(*arguments, name=name, **options):
            calls[name] = (arguments, options)

        monkeypatch.setattr(plots, name, draw)
    monkeypatch.setattr(plots, "translations", lambda *a, **b: calls.update(translations=(a, b)))
    return calls


def test_classify_names_classes_and_files(run, capsys, drawn):
    flags, workdir, files = run
    lines = lines_of(capsys, flags, "--mode=classify")
    rows = table(workdir)
    columns = ["index", "label", "prediction", "probability", "file", "class", "far"]
    assert list(rows[0]) == columns
    assert [row["file"] for row in rows] == list(map(str, files))
    assert [row["label"] for row in rows] == ["0"] * 12 + ["1"] * 12
    assert {row["prediction"] for row in rows} <= {"0", "1"}
    assert [row["class"] for row in rows] == [["cat", "dog"][int(r["prediction"])] for r in rows]
    first = lines.index(next(line for line in lines if str(files[0]) in line))
    for row, line in zip(rows[:20], lines[first : first + 20], strict=True):
        share = f"{100 * float(row['probability']):.1f}"
        answer, _, mark = line.partition(", ")
        assert answer.split() == [row["class"], share, "%", row["file"]]
        assert mark == {"True": "far from the training data", "False": ""}[row["far"]]
    assert len({line.index("%") for line in lines[first : first + 20]}) == 1
    assert lines[first + 20 : first + 22] == [
        "... and 4 more in predictions.csv",
        f"{workdir}/figures/predictions.png: images and their classes",
    ]
    assert drawn["predictions"][1]["class_names"] == ["cat", "dog"]


def test_classify_names_the_files_of_its_input(run, capsys, drawn):
    flags, workdir, files = run
    own = workdir / "predictions.csv"
    own.write_text("of the test set")
    lines = lines_of(capsys, flags, "--mode=classify", f"--input={files[3]}")
    (row,) = table(workdir / "input")
    assert own.read_text() == "of the test set"
    assert (row["label"], row["file"]) == ("", str(files[3]))
    assert any(str(files[3]) in line and "%" in line for line in lines)
    assert not any("more in" in line or "of 1 images" in line for line in lines)


@pytest.mark.parametrize("invert", [None, *small.slow(False, True)])
def test_a_seven_in_black_on_white_is_read_as_in_the_data(digits, tmp_path, capsys, drawn, invert):
    own = data.load(small.config().data, "test").images[3, ..., 0]
    scan = Image.fromarray(255 - own).resize((80, 80), Image.Resampling.NEAREST)
    scan.save(tmp_path / "seven.png")
    flags = [f"--workdir={digits}", f"--config.data.invert_input={invert}"]
    lines = lines_of(capsys, flags, "--mode=classify", f"--input={tmp_path / 'seven.png'}")
    (_, (image,), *_), _ = drawn["predictions"]
    expected = 255 - own if invert is False else own
    moved = [np.roll(expected.astype(int), column, axis=1) for column in (-1, 0, 1)]
    assert min(np.abs(image[..., 0] - each).mean() for each in moved) < 30  # it is centred
    (counts,) = [line for line in lines if line.startswith("of 1 images: 1 cropped to the ink")]
    assert ("1 inverted to the background" in counts) == (invert is not False)
    (path, (given,), (read,), *_), _ = drawn["translations"]
    assert path.parts[-3:] == ("input", "figures", "read.png")
    np.testing.assert_array_equal(read, image)
    assert np.abs(given[12::16, 12::16, 0].astype(int) - (255 - own)).mean() < 30  # as it was


def test_no_image_is_inverted_where_the_data_cannot_be_read(run, capsys, drawn, tmp_path):
    flags, _, _ = run
    Image.new("L", (8, 8), 255).save(tmp_path / "white.png")
    missing = f"--config.data.path={tmp_path / 'missing'}"
    lines = lines_of(capsys, flags, "--mode=embed", missing, f"--input={tmp_path / 'white.png'}")
    assert sum(line.startswith("no image is inverted, as training") for line in lines) == 1


def test_images_that_are_no_files_have_no_name(digits, capsys, drawn):
    lines = lines_of(capsys, [f"--workdir={digits}"], "--mode=classify")
    rows = table(digits)
    assert {row["file"] for row in rows} == {""}
    assert all(row["class"] == row["prediction"] for row in rows)
    assert lines[-2].startswith(f"{digits}/figures/predictions.png")
    (_, shown, *_), _ = drawn["predictions"]
    assert (len(rows), shown.shape) == (360, (60, 8, 8, 1))  # of those in the picture
    assert any(line.endswith("%  test image 19") for line in lines)


MODES = {
    "sample": "mode_sample", "reconstruct": "mode_reconstruct", "interpolate": "interpolation",
    "embed": "mode_embed",
}  # fmt: skip


@pytest.mark.parametrize("mode", MODES)
def test_a_mode_names_its_picture_which_is_none_of_evaluation(run, capsys, drawn, mode):
    flags, workdir, _ = run
    lines = lines_of(capsys, flags, f"--mode={mode}")
    ((arguments, _),) = drawn.values()
    path = arguments[0]
    assert path == workdir / "figures" / f"{MODES[mode]}.png"
    assert path.stem not in FIGURES
    assert lines[-2].startswith(f"{path}: ")
    if mode == "sample":
        count = len(np.load(workdir / "samples.npz")["images"])
        assert lines[-3] == f"{workdir}/samples.npz: {count} samples"
    if mode == "reconstruct":
        error = np.load(workdir / "reconstructions.npz")["errors"].mean()
        said = f"mean l2 error of 24 images: {error:.4g}"
        assert lines[-3] == f"{workdir}/reconstructions.npz: {said}"
    if mode in ("sample", "embed"):
        assert arguments[3] == ["cat", "dog"]


@pytest.mark.parametrize("asked", ["dog,cat,dog", "1, 0, 1"])
def test_labels_are_given_by_name_or_number(run, capsys, drawn, asked):
    flags, workdir, _ = run
    pair = ("--mode=translate", "--source=label", "--target=image")
    lines = lines_of(capsys, flags, *pair, f"--input={asked}")
    images = np.load(workdir / "translations.npz")["images"]
    np.testing.assert_array_equal(images, translated(run, [1, 0, 1]))
    (path, sources, _), _ = drawn["translations"]
    assert lines[-3] == f"{workdir}/translations.npz: 3 translations"
    assert lines[-2].startswith(f"{path}: ")
    assert list(sources) == ["dog", "cat", "dog"]


def translated(run, labels):
    model = loading.restore(small.config(run[0][0].partition("=")[2]), run[1])
    return model.translate(np.array(labels), "label", "image")


def test_labels_that_are_found_are_named_in_the_picture_and_numbers_in_the_file(run, capsys, drawn):
    flags, workdir, files = run
    pair = ["--mode=translate", "--source=image", "--target=label", f"--input={files[0].parent}"]
    assert command_line.main([*flags, *pair]) == 0
    with open(workdir / "translations.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    named = [["cat", "dog"][int(row["target"])] for row in rows]
    assert list(drawn["translations"][0][2]) == named
    lines = capsys.readouterr().err.splitlines()
    told = [f"{path}: {name}" for path, name in zip(files, named, strict=False)]
    first = lines.index(told[0])
    written = f"{workdir}/translations.csv: {len(rows)} translations"
    assert lines[first : first + len(rows) + 1] == [*told, written]


def test_test_images_are_not_decoded_all_at_once(run, drawn, monkeypatch):
    def decode(*_, **__):
        pytest.fail("all images are in memory")

    monkeypatch.setattr(EncodedImages, "__array__", decode)
    flags, workdir, files = run
    assert command_line.main([*flags, "--mode=translate", "--source=image", "--target=label"]) == 0
    with open(workdir / "translations.csv", errors="surrogateescape", newline="") as file:
        assert [row["source"] for row in csv.DictReader(file)] == list(map(str, files))


@pytest.mark.parametrize("asked", ["bird", "cat,,dog", "2"])
def test_other_labels_are_one_line(run, capsys, asked):
    pair = ["--mode=translate", "--source=label", "--target=image", f"--input={asked}"]
    assert command_line.main([*run[0], *pair]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    is_class = asked == "2"
    told = "there is no class 2, the run has classes 0 to 1: cat, dog"
    assert ("such as cat,dog" in line, line == f"error: {told}") == (not is_class, is_class)


def test_a_typo_in_a_class_name_gets_the_nearest(run, capsys):
    pair = ["--mode=translate", "--source=label", "--target=image", "--input=cat, dgo"]
    assert command_line.main([*run[0], *pair]) == 2
    assert capsys.readouterr().err.strip().endswith("got 'dgo'; the nearest name is dog")


@pytest.mark.parametrize("mode", command_line.MODES_WITH_INPUT)
def test_an_empty_input_is_refused(run, capsys, mode):
    pair = ["--source=image", "--target=label"] if mode == "translate" else []
    assert command_line.main([*run[0], f"--mode={mode}", *pair, "--input="]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: --input is empty")
