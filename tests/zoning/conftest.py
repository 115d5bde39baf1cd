"""Fixtures of the latent zoning tests."""

import jax
import jaxtyping
import pytest


@pytest.fixture
def x64():
    """Arrays are float64 for the length of a test."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def unchecked_shapes():
    """Shape annotations are not enforced, so that a function's own checks are reached."""
    enforced = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", enforced)
