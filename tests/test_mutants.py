"""Mutants still fit the package and name tests that are there."""

import ast
import subprocess
import sys
from pathlib import Path

import mutants
import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("mutant", mutants.MUTANTS, ids=lambda m: f"{m.file}: {m.text}")
def test_each_mutant_is_one_change_that_parses(mutant):
    source = (ROOT / "lzn_jax" / mutant.file).read_text()
    assert source.count(mutant.text) == 1
    assert ast.dump(ast.parse(mutant.applied(source))) != ast.dump(ast.parse(source))


@pytest.mark.slow
def test_tests_run_without_a_cache():
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-n", "0", "-q"]
    command += ["tests/test_mutants.py", "-k", "selection"]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=120)


@pytest.mark.parametrize("tests", sorted({mutant.tests for mutant in mutants.MUTANTS}))
def test_each_selection_has_its_file(tests):
    assert (ROOT / "tests" / tests.split()[0].partition("::")[0]).is_file()
