"""The commands that a run suggests after training."""

import importlib.util
import shlex
from pathlib import Path

import pytest
import small

from lzn_jax import data
from lzn_jax import main as command_line
from lzn_jax.latent_space import LatentSpace
from lzn_jax.modes.next_steps import next_steps, translations
from lzn_jax.run import devices

pytestmark = pytest.mark.usefixtures("restored_once")


@pytest.fixture
def without_a_page(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)


def test_the_page_is_the_third_where_it_can_be_had(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name == "gradio")
    config = small.config("configs/digits_joint.py")
    lines = next_steps(LatentSpace(config, devices.make_mesh(1)), Path("a folder"))
    assert len(lines) == 7
    assert lines[-1] == "    python -m lzn_jax.demo '--workdir=a folder'"


def commands(name, workdir="unused", **changes):
    """Flags of the commands that are shown for a config."""
    space = LatentSpace(small.config(f"configs/{name}.py", **changes), devices.make_mesh(1))
    first, *lines = next_steps(space, Path(workdir))
    assert first == "next steps:"
    assert all(line.endswith(":") for line in lines[::2])
    split = [shlex.split(line) for line in lines[1::2]]
    assert all(
        command[:4] == ["python", "-m", "lzn_jax.main", f"--workdir={workdir}"] for command in split
    )
    return [command[3:] for command in split]


EXPECTED = {
    ("digits_text",): ["--target=text", "--source=label", "--source=text"],
    ("digits_joint",): ["--source=label", "--mode=sample", "--mode=classify"],
    ("digits_gen",): ["--mode=sample", "--mode=reconstruct", "--mode=embed"],
    ("digits_alone",): ["--source=label", "--mode=sample", "--mode=classify"],
    ("digits_repr",): ["--mode=embed", "--mode=evaluate", "--config.training.num_steps=4"],
    ("digits_joint", "latent__enabled=False"): [
        "--mode=sample", "--mode=reconstruct", "--config.training.num_steps=4",
    ],
    ("digits_joint", "training__generation_weight=0"): [
        "--mode=classify", "--mode=embed", "--config.training.num_steps=4",
    ],
    ("digits_text", "objective=infonce"): ["--mode=embed", "--config.training.num_steps=4"],
}  # fmt: skip


@pytest.mark.parametrize("case", EXPECTED)
def test_each_space_is_asked_what_it_can_do(case, without_a_page, monkeypatch):
    monkeypatch.setattr(data, "load", None)  # without a look at the data
    name, *changes = case
    shown = commands(name, **dict(change.split("=") for change in changes))
    for flags, expected in zip(shown, EXPECTED[case], strict=True):
        assert expected in flags
        assert len({flag.partition("=")[0] for flag in flags}) == len(flags)


@pytest.mark.parametrize(
    ("name", "example"), [("digits_joint", "0,1"), ("fashion_joint", "T-shirt/top,trouser")]
)
def test_labels_are_suggested_by_the_names_of_the_data(name, example, without_a_page):
    assert f"--input={example}" in commands(name)[0]


def test_a_translation_without_types_lists_the_commands_of_the_run(digits, capsys):
    assert command_line.main([f"--workdir={digits}", "--mode=translate"]) == 2
    out, error = capsys.readouterr()
    start = f"python -m lzn_jax.main --workdir={digits} --mode=translate"
    assert out.splitlines() == [
        "data types: image, label",
        "translations:",
        f"  {start} --source=image --target=label",
        f"  {start} --source=label --target=image --input=0,1",
    ]
    assert error == "error: --mode=translate needs --source=TYPE and --target=TYPE, as above\n"


def test_a_run_without_translations_says_so():
    space = LatentSpace(small.config("configs/digits_repr.py"), devices.make_mesh(1))
    assert translations(space, Path("a")) == ["data types: image", "translations:", "  none"]


def test_the_commands_work(digits, without_a_page):
    for flags in commands("digits_joint", digits):
        assert command_line.main(flags) == 0, flags


@pytest.mark.slow
def test_the_commands_of_texts_work(without_a_page, tmp_path):
    small.untrained_run(tmp_path, small.config("configs/digits_text.py"))
    for flags in commands("digits_text", tmp_path):
        assert command_line.main(flags) == 0, flags
