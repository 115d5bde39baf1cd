"""Answers of untrained runs."""

from pathlib import Path

import pytest
import small

import lzn_jax
from lzn_jax import data
from lzn_jax.demo.answers import Answers

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.fixture(scope="session")
def answers_of(tmp_path_factory):
    """Answers of an untrained run of a config."""
    made = {}

    def make(name):
        if name not in made:
            config = small.config(CONFIGS / f"{name}.py")
            run = small.untrained_run(tmp_path_factory.mktemp(name), config)
            made[name] = Answers(lzn_jax.load(run), data.load(config.data, "test"))
        return made[name]

    return make


@pytest.fixture(scope="session")
def answers(answers_of):
    return answers_of("digits_text")
