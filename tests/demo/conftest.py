"""Answers of untrained runs."""

from pathlib import Path

import pytest
import small

import lzn_jax
from lzn_jax import data
from lzn_jax.demo.answers import Answers

CONFIGS = Path(__file__).parents[2] / "configs"
# The solver is defined by the example.
COLOURS = "../examples/own_images/config latent.solver=midpoint alignment.solver=midpoint"


@pytest.fixture(scope="session")
def answers_of(tmp_path_factory):
    """Function from "NAME FIELD=VALUE ..." to `Answers` of an untrained run with these fields.

    NAME is a config in `configs/`, or a path from there.
    """
    made = {}

    def make(case):
        if case not in made:
            name, *changes = case.split()
            fields = dict(change.replace(".", "__").split("=") for change in changes)
            path = CONFIGS / f"{name}.py"
            config = small.config(path, **fields)
            run = small.untrained_run(tmp_path_factory.mktemp(Path(name).name), config)
            train, test = data.load_data(config)
            extensions = [str(path.parent / each) for each in config.extensions]
            made[case] = Answers(lzn_jax.load(run, extensions), test, train)
        return made[case]

    return make


@pytest.fixture(scope="session")
def answers(answers_of):
    return answers_of("digits_text")


@pytest.fixture(scope="session")
def colours(answers_of):
    """Answers of a run on RGB images."""
    return answers_of(f"{COLOURS} data.image_size=32")
