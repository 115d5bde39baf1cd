"""The command line: modes, files, exit codes, one clear line for bad input."""

import contextlib
import csv
import io
import json
import pkgutil
import shlex
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import jax
import numpy as np
import pytest
import small
from PIL import Image

import lzn_jax
from lzn_jax import data, loading, train
from lzn_jax import main as command_line
from lzn_jax.data import digits
from lzn_jax.data.user_images import find_images
from lzn_jax.release import shared_model
from lzn_jax.run import devices

ROOT = Path(__file__).parent.parent
CONFIG, REPRESENTATION = "configs/digits_joint.py", "configs/digits_repr.py"
# Settings that the runs of other files leave alone.
HAS_WANDB = find_spec("wandb") is not None
SETTINGS = {f"evaluation__{name}": "(7,)" for name in ("noise_scales", "batch_sizes")}
SETTINGS |= {"reporting__wandb_project": "zones"} if HAS_WANDB else {}
SETTINGS |= {"training__batch_size": 60}  # six batches of test images
CLASSIFIER = {"training__generation_weight": 0}  # trains and evaluates faster


@pytest.fixture(scope="module", autouse=True)
def in_repository():
    """Training and modes are on one device, and share the programs of a space."""
    mesh = devices.make_mesh(1, jax.devices()[:1])
    with pytest.MonkeyPatch.context() as patch, jax.set_mesh(mesh):
        small.share_spaces(patch)
        patch.chdir(ROOT)
        patch.setenv("WANDB_MODE", "offline")
        yield


def _run(workdir, *extra, **changes):
    return command_line.main([*small.flags(CONFIG, workdir, **SETTINGS | changes), *extra])


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """The folder of a run, and the lines that its training wrote."""
    workdir = tmp_path_factory.mktemp("run")
    with contextlib.redirect_stderr(io.StringIO()) as said:
        assert _run(workdir) == 0
    return workdir, said.getvalue().splitlines()


@pytest.fixture(scope="module")
def run(told):
    """The folder of a run, for tests to read or to copy."""
    return told[0]


@pytest.fixture
def trained(run, tmp_path_factory):
    return shutil.copytree(run, tmp_path_factory.mktemp("trained"), dirs_exist_ok=True)


@pytest.fixture(scope="module")
def classified(run, tmp_path_factory):
    """Predictions by the config of the run, in a folder without configs."""
    workdir = shutil.copytree(run, tmp_path_factory.mktemp("classified"), dirs_exist_ok=True)
    with contextlib.chdir(workdir):
        assert command_line.main(["--workdir=.", "--mode=classify"]) == 0
    return _predictions(workdir)


def _contents(folder):
    return {p: p.read_bytes() for p in sorted(Path(folder).rglob("*")) if p.is_file()}


@pytest.mark.parametrize("enabled", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_a_run_leaves_its_files(enabled, run, tmp_path):
    workdir = run if enabled else tmp_path
    assert enabled or _run(workdir, latent__enabled=False) == 0
    figures = {"curves.png", "samples.png", "reconstructions.png"}
    if enabled:
        figures |= {"zones.png", "classification.png", "unconditional_samples.png", "tasks.png"}
    assert {p.name for p in (workdir / "figures").iterdir()} == figures
    assert {f"figures/{name}" for name in figures} <= shared_model.PICTURES.keys()
    summary = json.loads((workdir / "summary.json").read_text())
    assert summary["step"] == 2
    assert summary["reconstruction_l2"] > 0
    assert ("test_accuracy" in summary) == enabled
    assert set(json.loads((workdir / "goodput.json").read_text())) == {
        "init", "compile", "data", "step", "eval", "save", "restore", "other", "starts"
    }  # fmt: skip
    assert (workdir / "checkpoints" / "2").is_dir()
    assert any((workdir / "tensorboard").iterdir())
    watched = list(workdir.glob("wandb/offline-run-*"))
    assert len(watched) == HAS_WANDB
    assert all(path.name.endswith((workdir / "wandb_id.txt").read_text()) for path in watched)
    stored = json.loads((workdir / "config.json").read_text())
    assert stored["latent"]["enabled"] is enabled


def test_a_run_says_what_it_does_and_what_may_follow(told):
    workdir, lines = told
    compiled = lines.index("compiling: a minute or so at first, seconds once it is cached")
    assert lines[compiled + 2].startswith("compiled in ")
    metrics = len(json.loads((workdir / "summary.json").read_text()))
    shown = next(i for i, line in enumerate(lines) if line.startswith("step 2 on "))
    assert lines[shown].startswith(
        f"step 2 on 360 test examples, 5 of {metrics - 5} metrics"
    )  # step and four rates
    assert [line.split()[0] for line in lines[shown + 1 :][:2]] == [
        "test_accuracy", "sample_accuracy"
    ]  # fmt: skip
    (evaluating,) = [line for line in lines if line.startswith("evaluating 360 test examples: ")]
    assert "classification, tasks; none starts after" in evaluating
    (_,) = [line for line in lines if line.startswith("classification took ")]
    assert "assignment accuracy 0." in "".join(lines)
    done = lines.index(f"done: results are in {workdir}")
    assert lines[done + 1] == "next steps:"
    commands = [shlex.split(line) for line in lines[done + 3 :: 2]]
    assert len(commands) == 3
    assert commands[0] == [
        "python", "-m", "lzn_jax.main", f"--workdir={workdir}", "--mode=translate",
        "--source=label", "--target=image", "--input=0,1",
    ]  # fmt: skip


@pytest.mark.slow
def test_a_run_with_a_validation_split_never_reads_the_test_set(tmp_path, monkeypatch):
    load = digits.load

    def load_no_test(config, split):
        assert split != "test"
        return load(config, split)

    monkeypatch.setattr(digits, "load", load_no_test)
    small.without_pictures(monkeypatch)
    changes = {"data__validation": 37, "latent__context_size": 1437} | CLASSIFIER
    assert _run(tmp_path, **changes) == 0
    trained = json.loads((tmp_path / "summary.json").read_text())
    assert trained["validation_examples"] == 37
    assert "test_examples" not in trained
    assert json.loads((tmp_path / "config.json").read_text())["latent"]["context_size"] == 1400
    assert len(loading.load(tmp_path).model.context["image"].anchors) == 1400
    assert _run(tmp_path, "--mode=evaluate", **changes) == 0
    again = json.loads((tmp_path / "summary.json").read_text())
    assert again["test_accuracy"] == pytest.approx(trained["test_accuracy"])
    assert again["validation_examples"] == 37


@pytest.mark.slow
def test_evaluate_makes_the_same_summary_from_the_checkpoint(trained):
    before = json.loads((trained / "summary.json").read_text())
    metrics = (trained / "metrics.jsonl").read_bytes()
    assert _run(trained, "--mode=evaluate") == 0
    after = json.loads((trained / "summary.json").read_text())
    assert after == pytest.approx({name: before[name] for name in after}, rel=1e-6)
    assert (trained / "metrics.jsonl").read_bytes() == metrics


def test_a_trained_run_may_be_solved_anew_but_not_trained_on(trained, classified, capsys):
    config = (trained / "config.json").read_bytes()
    anew = {"latent__solver": "dpm", "latent__num_steps": 3, "alignment__solver": "dpm"}
    assert _run(trained, "--mode=classify", **anew) == 0
    assert _predictions(trained) != classified
    assert (trained / "config.json").read_bytes() == config
    assert _run(trained, **anew) == 2
    assert "holds a run with alignment.solver=euler" in capsys.readouterr().err


def test_a_mode_refuses_what_does_not_fit_its_run(run, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where no configs are
    mode = [f"--workdir={run}", "--mode=classify"]
    before = _contents(run)
    for extra, expected in {
        "--config.latent.dim=5": "holds a run with latent.dim=4, this command has 5",
        "--config.latent.dimm=5": "the nearest is latent.dim",
        f"--workdir={tmp_path}": f"{tmp_path} is no run: name the folder that holds config.json",
    }.items():
        capsys.readouterr()
        assert command_line.main([*mode, extra]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert expected in line
    assert _contents(run) == before
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_run_goes_on_by_the_name_of_its_folder(trained, monkeypatch):
    monkeypatch.setattr(train, "_evaluate_once", lambda *_: None)  # for time
    assert command_line.main([f"--workdir={trained}", "--config.training.num_steps=3"]) == 0
    assert (trained / "checkpoints" / "3").is_dir()
    stored = json.loads((trained / "config.json").read_text())
    assert stored["training"]["num_steps"] == 3
    assert stored["latent"]["dim"] == 4


@pytest.mark.slow
def test_a_folder_of_ones_own_trains_and_its_modes_know_it(tmp_path, monkeypatch, capsys):
    rng = np.random.default_rng(0)
    for index in range(48):
        path = tmp_path / "images" / ("dark" if index % 2 else "light") / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(128, size=(9, 9, 3)) + 128 * (1 - index % 2)
        Image.fromarray(pixels.astype(np.uint8)).save(path)
    own = [f"--config.{field}" for field in ("data.name=image_folder", "data.path=images")]
    shrunk = [a for a in small.overrides(CONFIG, **CLASSIFIER) if "context_size" not in a]
    small.without_pictures(monkeypatch)
    with monkeypatch.context() as patch:
        patch.chdir(tmp_path)
        assert command_line.main(["--config=digits_joint", "--workdir=run", *own, *shrunk]) == 0
    lines = capsys.readouterr().err.splitlines()
    images = tmp_path / "images"
    assert lines[0].startswith(f"from the images in {images}: image_size=9, channels=3, num_cl")
    workdir = tmp_path / "run"
    stored = json.loads((workdir / "config.json").read_text())
    expected = {"path": str(images), "num_classes": 2, "holdout": 4, "workers": None}
    assert expected.items() <= stored["data"].items()
    assert stored["latent"]["context_size"] == 44
    images.joinpath("dark", "more.png").write_bytes(images.joinpath("dark", "1.png").read_bytes())
    assert command_line.main([f"--workdir={workdir}", "--mode=classify"]) == 0
    assert len(_predictions(workdir)) == 4


def test_sample_writes_classes_in_equal_shares_that_do_not_depend_on_their_number(trained):
    figures = _contents(trained / "figures")
    assert _run(trained, "--mode=sample", evaluation__num_samples=30) == 0
    assert figures.items() <= _contents(trained / "figures").items()  # evaluation's stay
    many = dict(np.load(trained / "samples.npz"))
    assert many["images"].shape == (30, 8, 8, 1)
    assert many["images"].dtype == np.uint8
    assert np.bincount(many["labels"]).tolist() == [3] * 10
    assert _run(trained, "--mode=sample", evaluation__num_samples=10) == 0
    few = dict(np.load(trained / "samples.npz"))
    np.testing.assert_array_equal(few["images"], many["images"][:10])


def _predictions(workdir):
    with open(workdir / "predictions.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_classify_gives_one_image_the_answer_it_has_among_others(trained, classified, tmp_path):
    assert [int(row["index"]) for row in classified] == list(range(360))
    accuracy = np.mean([row["label"] == row["prediction"] for row in classified])
    summary = json.loads((trained / "summary.json").read_text())
    assert accuracy == pytest.approx(summary["test_accuracy"])

    _, test = data.load_data(small.config())
    for index in (0, 7, 100):
        Image.fromarray(test.images[index, ..., 0]).save(tmp_path / f"{index}.png")
    assert _run(trained, "--mode=classify", f"--input={tmp_path / '7.png'}") == 0
    (alone,) = _predictions(trained / "input")
    assert alone["label"] == ""
    assert alone["prediction"] == classified[7]["prediction"]
    assert float(alone["probability"]) == pytest.approx(
        float(classified[7]["probability"]), abs=1e-5
    )
    folder = find_images(str(tmp_path), small.config().data)[:]
    assert folder.shape == (3, 8, 8, 1)


def test_reconstruct_gives_images_and_errors(trained, tmp_path):
    assert _run(trained, "--mode=reconstruct") == 0
    found = dict(np.load(trained / "reconstructions.npz"))
    assert found["images"].shape == (360, 8, 8, 1)
    summary = json.loads((trained / "summary.json").read_text())
    assert found["errors"].mean() == pytest.approx(summary["reconstruction_l2"], rel=1e-5)

    _, test = data.load_data(small.config())
    Image.fromarray(test.images[0, ..., 0]).save(tmp_path / "0.png")
    assert _run(trained, "--mode=reconstruct", f"--input={tmp_path}") == 0
    alone = dict(np.load(trained / "input" / "reconstructions.npz"))
    assert alone["images"].shape == (1, 8, 8, 1)


def test_interpolate_goes_from_one_test_image_to_one_of_another_class(trained, tmp_path):
    model = loading.restore(small.config(**SETTINGS), trained)
    assert _run(trained, "--mode=interpolate") == 0
    found = dict(np.load(trained / "interpolation.npz"))
    _, test = data.load_data(small.config())
    second = int(np.argmax(test.labels != test.labels[0]))
    # The places are those of a pair, so that noise is theirs as well.
    ends = model.reconstruct(test.images[[0, second]], test.labels[[0, second]])["images"]
    np.testing.assert_allclose(found["images"][[0, -1]].astype(int), ends, atol=1)
    assert found["latents"].shape == (11, 4)
    np.testing.assert_allclose(found["weights"], np.arange(11) / 10, atol=1e-6)
    assert (trained / "figures" / "interpolation.png").stat().st_size > 0

    for name, index in (("a", 5), ("b", 6)):
        Image.fromarray(test.images[index, ..., 0]).save(tmp_path / f"{name}.png")
    assert _run(trained, "--mode=interpolate", f"--input={tmp_path}") == 0
    again = np.load(trained / "input" / "interpolation.npz")["images"]
    ends = model.reconstruct(test.images[5:7])["images"]
    np.testing.assert_allclose(again[[0, -1]].astype(int), ends, atol=1)


def test_embed_of_a_joint_run_has_anchors_and_latents(trained):
    assert _run(trained, "--mode=embed") == 0
    found = dict(np.load(trained / "embeddings.npz"))
    assert {name: array.shape for name, array in found.items()} == {
        "features": (360, 4), "labels": (360,), "latent": (360, 4), "latent_centre": (360, 4)
    }  # fmt: skip
    assert (trained / "figures" / "mode_embed.png").stat().st_size > 0


def test_embed_of_views_writes_four_features_and_labels(tmp_path, capsys):
    workdir = small.untrained_run(tmp_path / "run", small.config(REPRESENTATION))
    flags = small.flags(REPRESENTATION, workdir)
    assert command_line.main([*flags, "--mode=embed"]) == 0
    found = dict(np.load(workdir / "embeddings.npz"))
    shapes = {name: array.shape for name, array in found.items()}
    anchor = (360, 4)
    assert shapes == {
        "features": (360, 16), "labels": (360,), "head": anchor, "latent": anchor,
        "latent_centre": anchor,
    }  # fmt: skip
    _, test = data.load_data(small.config())
    np.testing.assert_array_equal(found["labels"], test.labels)

    Image.fromarray(test.images[7, ..., 0]).save(tmp_path / "7.png")
    assert command_line.main([*flags, "--mode=embed", f"--input={tmp_path / '7.png'}"]) == 0
    alone = dict(np.load(workdir / "input" / "embeddings.npz"))
    assert alone["labels"].tolist() == [-1]
    np.testing.assert_allclose(alone["features"][0], found["features"][7], rtol=1e-4, atol=1e-5)
    assert (workdir / "figures" / "mode_embed.png").stat().st_size > 0
    assert command_line.main([*flags, "--mode=sample"]) == 2  # there is no decoder
    assert "the run does not generate image; it translates nothing" in capsys.readouterr().err


# Flags, after those of the run; and a part of the line.
BAD_INPUT = """
--config.latent.dimm=3 | latent.dim
--config.training.batch_size=many | training.batch_size
--mode=fly | invalid choice: 'fly'
--worddir=x | arguments: --worddir=x; the nearest is --workdir
--steps=5 | --steps=5; the nearest field is set by --config.training.num_steps
--num_steps=5 | set by --config.training.num_steps
--epochs=5 | set by --config.training.num_steps
--batch_size=5 | set by --config.training.batch_size
--lr=5 | set by --config.training.learning_rate.default
--image_size=5 | set by --config.data.image_size
--seed.x=5 | --seed.x=5; a field is set by --config.seed.x=5
--config.latent.dim=3 5 | 5; a flag reads --NAME=VALUE
--input=x.png | --mode=embed or classify or reconstruct
--mode=interpolate --input={new}/one.png | two images
--mode=classify --input= | --input is empty
--mode=classify --input=/nowhere.png | /nowhere.png
--config.latent.context_size=1438 --workdir={new} | 1437
--config.training.batch_size=1438 --workdir={new} | training.batch_size must be at most 1437
--mode=translate --source=label --target=image --input=11 | no class 11, the run has classes 0 to 9
--config.latent.dim=5 | latent.dim=4
--mode=evaluate --workdir={new} | no checkpoint in {new}
--mode=sample --workdir={new} | no checkpoint in {new}
--workdir={new}/file/run | cannot be written
--workdir=gs://bucket/run | mount the bucket
--slice=v5e:1 | --slice goes with --mode=compile or --mode=check_data
--source=image | --source=TYPE, --target=TYPE and --mode=translate go together
--mode=translate --source=image | --source=TYPE, --target=TYPE and --mode=translate go together
--config.evaluation.clip_path=/nowhere | None for grey images
--config.seed=1 | seed
--config.training.ema_decay=1.5 | training.ema_decay
--config.alignment.form=logarithm | alignment.form
--config.data.name=digit | data.name
--config.data.name=fashion --config.data.path=/nowhere | data
--config=configs/digit_joint.py | configs/digits_joint.py
--config={new}/broken.py | broken.py
--config={new}/no_config.py | no_config.py
--workdir=/{long} | is too long
--config={long} | is too long
--mode=classify --input={long} | is too long
--config.data.name=image_folder --config.data.path={long} | is too long
"""
BAD_INPUT = [tuple(line.split(" | ")) for line in BAD_INPUT.strip().splitlines()]
# What every mode refuses, and those that read images.
for _mode in ("train", "evaluate", "sample", "embed", "classify", "check_data", "export"):
    BAD_INPUT += [(f"--mode={_mode} {flag}", part) for flag, part in BAD_INPUT[:2]]
for _mode in ("reconstruct", "classify", "export"):
    BAD_INPUT.append((f"--mode={_mode} --workdir={{new}}", "no checkpoint in"))
for _mode, _name in {
    "embed": "nowhere.png",
    "reconstruct": "no_image.png",
    "classify": "empty",
}.items():
    BAD_INPUT.append((f"--mode={_mode} --input={{new}}/{_name}", _name))


@pytest.mark.parametrize(("flags", "expected"), BAD_INPUT)
def test_bad_input_is_one_line_and_touches_nothing(flags, expected, run, tmp_path, capsys):
    for name, content in {"file": "in the way", "broken.py": "def get_config(:", "no_config.py": "",
                          "no_image.png": "no image"}.items():  # fmt: skip
        (tmp_path / name).write_text(content)
    (tmp_path / "empty").mkdir()
    Image.new("L", (8, 8)).save(tmp_path / "one.png")
    before = _contents(run)
    flags = [flag.format(new=tmp_path, long="long/" * 1000) for flag in flags.split()]
    assert _run(run, *flags) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: ")
    assert expected.format(new=tmp_path) in line
    assert _contents(run) == before
    assert not (tmp_path / "config.json").exists()


@pytest.mark.parametrize(
    ("number", "mode", "expected"),
    [
        ("SIGINT", "train", (75, "interrupted\n")),
        *small.slow(
            ("SIGTERM", "train", (75, "")), ("SIGINT", "show_config", (130, "interrupted\n"))
        ),
    ],
)
def test_a_signal_before_there_is_anything_to_save_ends_at_once(number, mode, expected, tmp_path):
    config = tmp_path / "terminated.py"
    config.write_text(f"""
import os, signal, sys
from lzn_jax import convert
def get_config():
    assert not {{"wandb", "huggingface_hub"}} & sys.modules.keys()  # slow imports
    os.kill(os.getpid(), signal.{number})
""")
    command = [sys.executable, "-m", "lzn_jax", f"--config={config}", f"--mode={mode}"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (result.returncode, result.stderr) == expected


def test_without_arguments_the_configs_are_listed_with_a_command_to_start_with(capsys):
    assert command_line.main([]) == 2
    captured = capsys.readouterr()
    lines = [line.split(maxsplit=1) for line in captured.out.splitlines()[1:]]
    assert [name for name, _ in lines] == sorted(p.stem for p in (ROOT / "configs").glob("*.py"))
    assert dict(lines)["digits_joint"].startswith("Case study 3 (paper section 5")
    (line,) = captured.err.splitlines()
    assert line.startswith("error: name a config")
    assert "python -m lzn_jax.main --config=digits_joint " in line


def test_a_command_of_the_package_says_its_version(capsys):
    with pytest.raises(SystemExit, match="0"):
        command_line.main(["--version"])
    assert capsys.readouterr().out == f"lzn_jax {lzn_jax.__version__}\n"
    (setup,) = [
        line for line in (ROOT / "setup.py").read_text().splitlines() if "=lzn_jax." in line
    ]
    name, _, function = setup.split('"')[3].partition("=")
    assert (name, pkgutil.resolve_name(function)) == ("lzn_jax", command_line.command)
    assert f"\nversion: {lzn_jax.__version__}\n" in (ROOT / "CITATION.cff").read_text()


def test_a_mode_without_a_config_is_bad_input(capsys):
    assert command_line.main(["--mode=sample"]) == 2
    assert "--config" in capsys.readouterr().err


def test_help_says_of_each_mode_what_it_writes(capsys):
    with pytest.raises(SystemExit, match="0"):
        command_line.main(["--help"])
    text = capsys.readouterr().out
    for mode, meaning in command_line.MODES.items():
        assert f"  {mode:<12} {meaning}\n" in text
