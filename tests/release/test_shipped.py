"""The trained model in the package: what it answers, and where its results go."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
import small

import lzn_jax
from lzn_jax import data, files, loading, share
from lzn_jax import main as command_line
from lzn_jax.errors import UserError
from lzn_jax.release import shared_model

NAME = "digits_text"
FOLDER = loading.SHIPPED / NAME


@pytest.fixture(scope="module")
def model():
    return lzn_jax.load(NAME)


def test_the_file_gives_the_numbers_of_its_card(model):
    card = json.loads((FOLDER / "summary.json").read_text())
    test = data.load(model.config.data, "test")
    classes = model.classify(test.images).classes
    of_texts = model.classify(test.texts, source="text").classes
    texts = np.array(model.translate(test.images, "image", "text"))
    one = 1 / len(test.labels)  # rounding may decide one image differently
    assert np.mean(classes == test.labels) == pytest.approx(card["test_accuracy"], abs=one)
    expected = card["text_to_label_accuracy"]
    assert np.mean(of_texts == test.labels) == pytest.approx(expected, abs=one)
    assert np.mean(texts == test.texts) == pytest.approx(card["image_to_text_exact"], abs=2 * one)
    shown = f"| test_accuracy | {card['test_accuracy']:.4g} |"
    assert shown in (FOLDER / "README.md").read_text().splitlines()


def test_it_is_small_and_intact():
    size = sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file())
    assert size < 6e6
    assert shared_model.verified(FOLDER) == FOLDER
    kinds = {path.suffix for path in FOLDER.rglob("*") if path.is_file()}
    assert kinds <= {".safetensors", ".json", ".md", ".png", ""}
    stored = files.read_tensors(FOLDER / "weights.safetensors")
    assert {a.dtype.name for a in stored.values()} == {"float16", "int32"}


def test_weights_in_half_precision_become_float32(model):
    assert {a.dtype.name for a in jax.tree.leaves(model.model)} <= {"float32", "int32"}


def test_a_folder_of_its_name_wins(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert loading.find(NAME) == FOLDER
    assert loading.find(f"results/{NAME}") == Path("results") / NAME
    Path(NAME).mkdir()
    assert loading.find(NAME) == Path(NAME)
    with pytest.raises(UserError, match="digits_text is no run"):
        lzn_jax.load(NAME)


def test_modes_write_beside_the_user_and_not_into_the_package(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in FOLDER.rglob("*")}
    flags = [f"--workdir={NAME}", "--mode=translate", "--source=text", "--target=label"]
    assert command_line.main([*flags, "--input=a bold seven leaning left"]) == 0
    table = Path("results/shared_digits_text/translations.csv").read_text().splitlines()
    assert table[1:] == ["0,a bold seven leaning left,7"]
    assert {path: path.stat().st_mtime_ns for path in FOLDER.rglob("*")} == before
    # Its config may be named, too, but no other config.
    assert command_line.main([*flags, f"--config={NAME}", "--input=a thin one"]) == 0
    assert command_line.main([*flags, "--config=digits_text_alone", "--input=a thin one"]) == 2
    assert "digits_text holds a run with" in capsys.readouterr().err


def test_training_does_not_start_from_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert command_line.main([f"--workdir={NAME}"]) == 2
    assert "digits_text is no run" in capsys.readouterr().err
    assert not Path("results").exists()


def test_half_precision_halves_the_weights_of_a_shared_model(tmp_path):
    workdir = small.untrained_run(tmp_path / "run", small.config())
    run, half, whole = lzn_jax.load(workdir), workdir / "half", workdir / "shared"
    assert share.main([f"--workdir={workdir}", "--half"]) == 0
    whole.rename(half)
    assert share.main([f"--workdir={workdir}"]) == 0
    sizes = [
        sum(a.nbytes for a in files.read_tensors(folder / "weights.safetensors").values())
        for folder in (half, whole)
    ]
    assert 2 * sizes[0] == pytest.approx(sizes[1], abs=8)
    for ours, there in zip(
        jax.tree.leaves(lzn_jax.load(half).model),
        jax.tree.leaves(run.model),
        strict=True,
    ):
        np.testing.assert_allclose(ours, there, rtol=1e-3, atol=1e-4)
        assert ours.dtype == there.dtype
