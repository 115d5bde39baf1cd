"""The accuracy of solvers, of one's own as well: the example of docs/zoning.md."""

import re
from pathlib import Path

import jax
import numpy as np
import oracle
import pytest

from lzn_jax import zoning
from lzn_jax.zoning.flow import Mixture

PAGE = Path(__file__).parents[2] / "docs" / "zoning.md"


@pytest.fixture(scope="module")
def runge_kutta():
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)
    names = {}
    exec(code.partition("\nprint(")[0], names)
    return names["RungeKutta"]


def test_an_own_solver_has_its_order_and_few_lines(runge_kutta):
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)
    solver = code[code.index("@dataclasses") : code.index("\nprint(")]
    assert len([line for line in solver.splitlines() if line.strip()]) <= 20
    found = zoning.accuracy(runge_kutta(120))
    assert found.evaluations == 120
    assert 2.7 < found.order < 3.6
    assert found.error < 2e-3


def test_a_table_is_that_of_the_example_on_two_anchors():
    anchors, latent = np.float32([[-2], [2]]), np.float32([[1]])
    mixture = Mixture(anchors, np.zeros(2, np.float32))
    table = zoning.Euler(2).towards_anchors(mixture)(None, None)
    columns = [np.ravel(a) for a in (table.r_SxP, table.weights_SxDxP, table.end_weights_SxP)]
    np.testing.assert_allclose(columns, [[0, 1], [1, 0], [0, 1]], atol=1e-12)
    assert table.t_end == 0
    end = zoning.decode(latent, anchors, solver=zoning.Euler(2))
    np.testing.assert_allclose(end, [[2 * np.tanh(2)]], rtol=1e-6)


def test_an_own_solver_takes_its_steps(runge_kutta, x64):
    anchors, noise = np.random.default_rng(0).normal(size=(2, 6, 3))
    latents = np.asarray(zoning.compute_latents(anchors, noise, solver=runge_kutta(30)))
    expected = oracle.compute_latents(anchors, noise, solver=runge_kutta(30))
    np.testing.assert_allclose(latents, expected, rtol=1e-7)
    ends = zoning.decode(latents, anchors, solver=runge_kutta(30))
    expected = oracle.decode(latents, anchors, solver=runge_kutta(30))
    np.testing.assert_allclose(ends, expected, rtol=1e-7)


def test_eulers_errors_are_those_of_its_latents():
    anchors = np.random.default_rng(2).normal(size=(40, 4))
    found = zoning.accuracy(zoning.Euler(16), anchors, noise_scale=0.45, seed=1)
    noise = 0.45 * np.random.default_rng(1).standard_normal(anchors.shape)
    with jax.enable_x64(True):
        latents, exact = (
            np.asarray(zoning.compute_latents(anchors, noise, solver=solver))
            for solver in (zoning.Euler(16), zoning.AdamsBashforth(640))
        )
        ends = zoning.classify(exact, anchors, solver=zoning.Euler(16))
    assert found.error == pytest.approx(np.linalg.norm(latents - exact) / np.linalg.norm(exact))
    assert found.order == pytest.approx(1, abs=0.2)
    assert found.astray == pytest.approx(np.mean(np.asarray(ends) != np.arange(40)))
