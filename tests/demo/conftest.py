"""Answers of untrained runs."""

import functools

import pytest
import small

from lzn_jax.demo.answers import Answers

# The solver is defined by the example.
COLOURS = "../examples/own_images/config latent.solver=midpoint alignment.solver=midpoint"


@pytest.fixture(scope="session", autouse=True)
def one_space():
    """Answers share the programs of a model, whose batches are small."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lzn_jax.demo.answers._with_small_batches", lambda model: model)
        yield


@pytest.fixture(scope="session")
def answers_of():
    """Function from "NAME FIELD=VALUE ..." to `Answers` of an untrained run with these fields.

    NAME is a config in `configs/`, or a path from there.
    """

    def make(case):
        name, *changes = case.split()
        fields = dict(change.replace(".", "__").split("=") for change in changes)
        world = small.world(name, **fields)
        train, test = world.digits
        return Answers(world.model, test, train)

    return functools.cache(make)


@pytest.fixture(scope="session")
def answers(answers_of):
    return answers_of("digits_text")


@pytest.fixture(scope="session")
def colours(answers_of):
    """Answers of a run on RGB images."""
    return answers_of(f"{COLOURS} data.image_size=32")
