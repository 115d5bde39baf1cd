"""--mode=show_config: the plan, the resolved config and what it means, without a run."""

import ast
from pathlib import Path

import pytest

from lzn_jax import main
from lzn_jax.schema import schema_of

ROOT = Path(__file__).parents[2]
COMMAND = ["--config=configs/digits_gen.py", "--mode=show_config"]


@pytest.fixture(autouse=True)
def in_repository(monkeypatch):
    monkeypatch.chdir(ROOT)


def shown(capsys, *overrides):
    """What the mode prints of each field: name -> (is marked, value, meaning)."""
    assert main.main([*COMMAND, *(f"--config.{each}" for each in overrides)]) == 0
    plan, printed = capsys.readouterr().out.split("\n\n")
    assert plan.splitlines()[0].startswith("zones of image; latents by ")
    legend, *lines = printed.splitlines()
    assert legend.startswith("* differs from its default")
    fields = {}
    for line in lines:
        assert line[:2] in ("* ", "  ")
        name, value_and_meaning = line[2:].split(" = ", maxsplit=1)
        value, meaning = value_and_meaning.split("  # ")
        fields[name] = (line.startswith("*"), value.strip(), meaning)
    return fields


def test_each_field_is_shown_with_its_value_and_meaning(capsys):
    fields = shown(capsys)
    assert fields["latent.dim"] == (True, "64", "latent dimension q")  # without a default
    assert fields["latent.solver"] == (True, "'adams'", "solver of the encoder's flow")
    assert not fields["training.gradient_clip"][0]
    assert fields["training.schedule"] == (True, "'cosine'", "learning rate after warm-up")
    schema = schema_of({name: ast.literal_eval(value) for name, (_, value, _) in fields.items()})
    assert {name: meaning for name, (_, _, meaning) in fields.items()} == {
        name: field.help for name, field in schema.items()
    }


def test_overrides_move_the_mark(capsys):
    fields = shown(capsys, "latent.solver=euler", "training.schedule=constant")
    assert fields["latent.solver"][:2] == (True, "'euler'")
    assert fields["training.schedule"][:2] == (False, "'constant'")


def test_a_bad_value_is_the_users_error(capsys):
    assert main.main([*COMMAND, "--config.latent.dim=0"]) == 2
    assert capsys.readouterr().out == ""
