"""Mutants still fit the package and name tests that are there."""

import ast
import subprocess
import sys
from pathlib import Path

import mutants
import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("file", sorted({mutant.file for mutant in mutants.MUTANTS}))
def test_each_mutant_is_one_change_that_parses(file):
    source = (ROOT / "lzn_jax" / file).read_text()
    tree = ast.dump(ast.parse(source))
    for mutant in mutants.MUTANTS:
        if mutant.file == file:
            assert source.count(mutant.text) == 1, mutant.text
            assert ast.dump(ast.parse(mutant.applied(source))) != tree, mutant.text


@pytest.mark.slow
def test_tests_run_without_a_cache():
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-n", "0", "-q"]
    command += ["tests/test_mutants.py", "-k", "selection"]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=120)


def test_each_selection_has_its_file():
    files = {mutant.tests.split()[0].partition("::")[0] for mutant in mutants.MUTANTS}
    assert {file for file in files if not (ROOT / "tests" / file).is_file()} == set()
