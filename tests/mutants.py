"""Whether tests notice subtle bugs: each mutant has one, at which a selection of tests must fail.

    python tests/mutants.py [--only SUBSTRING] [--list]

The mutants stand in mutants.txt. They are tried on a copy of package and tests. Exit code 1 if a
mutant survives or cannot be made.
"""

import argparse
import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
COPIED = ("lzn_jax", "tests", "configs", "docs", "examples", "pyproject.toml")
A_RUN = 300  # seconds; a mutant that takes longer is dead


class Mutant(NamedTuple):
    """A bug, and the tests that must notice it."""

    file: str  # below lzn_jax/
    text: str  # which is there exactly once
    becomes: str
    tests: str  # below tests/, with arguments of pytest

    def applied(self, source: str) -> str:
        """The file's source with the bug."""
        if source.count(self.text) != 1:
            raise SystemExit(f"{self.file} has not once but {source.count(self.text)}: {self.text}")
        return source.replace(self.text, self.becomes)


def read(table: str) -> list[Mutant]:
    """Mutants from lines "  `text` -> `becomes` tests" below the name of a file."""
    mutants, file = [], ""
    for line in table.splitlines():
        if not line.startswith(" "):
            file = line
            continue
        row = re.fullmatch(r"  `(.+?)` -> `(.*?)` (.+)", line)
        if row is None:
            raise SystemExit(f"no mutant: {line}")
        text, becomes, tests = row.groups()
        mutants.append(Mutant(file, *(a.replace(r"\n", "\n") for a in (text, becomes)), tests))
    return mutants


MUTANTS = read(Path(__file__).with_suffix(".txt").read_text(encoding="utf-8"))


def first_failure(folder: Path, tests: str) -> str | None:
    """The first test of a selection that fails; None if none does."""
    command = [sys.executable, "-m", "pytest", "-n", "0", "-x", "-q", "--tb=no"]
    command += shlex.split(f"tests/{tests}")
    place: Any = {"cwd": folder, "env": {**os.environ, "PYTHONPATH": str(folder)}}
    try:
        run = subprocess.run(command, **place, capture_output=True, text=True, timeout=A_RUN)
    except subprocess.TimeoutExpired:
        return f"{A_RUN} s"
    failed = re.search(r"^FAILED tests/(\S+::\w+)", run.stdout, re.MULTILINE)
    if run.returncode != 0 and not failed:
        raise SystemExit(f"{tests} did not run:\n{run.stdout}{run.stderr}")
    return failed and failed[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="mutants with this in one of their fields")
    parser.add_argument("--list", action="store_true", help="show them and run nothing")
    arguments = parser.parse_args()
    mutants = [m for m in MUTANTS if any(arguments.only in field for field in m)]
    if arguments.list:
        print(*("  |  ".join(mutant) for mutant in mutants), sep="\n")
        return
    died = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        subprocess.run(["cp", "-r", *COPIED, name], cwd=ROOT, check=True)
        for tests in dict.fromkeys(mutant.tests for mutant in mutants):
            if failed := first_failure(folder, tests):
                raise SystemExit(f"{failed} fails without a mutant")
        for mutant in mutants:
            path, began = folder / "lzn_jax" / mutant.file, time.monotonic()
            whole = path.read_text()
            path.write_text(mutant.applied(whole))
            killer = first_failure(folder, mutant.tests)
            path.write_text(whole)
            died += killer is not None
            seconds = f"{time.monotonic() - began:3.0f} s"
            print(seconds, *mutant[:3], killer or "SURVIVED", sep="  |  ", flush=True)
    print(f"{died} of {len(mutants)} mutants died")
    sys.exit(died < len(mutants))


if __name__ == "__main__":
    main()
