"""Draws docstrings of the package and sentences of the docs, to judge their English.

python benchmarks/drawn_sentences.py [--seed 0] [--count 40]
"""

import ast
import random
import re
from pathlib import Path

import shared


def docstrings() -> list[str]:
    """All docstrings, with the places of their definitions."""
    found = []
    for path in sorted(Path("lzn_jax").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            defines = isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Module)
            if defines and (text := ast.get_docstring(node)):
                found.append(f"{path}:{getattr(node, 'name', '')}: {text}")
    return found


def sentences() -> list[str]:
    """All sentences of README and docs outside of tables, code and headings."""
    found = []
    for path in [Path("README.md"), *sorted(Path("docs").glob("*.md"))]:
        text = re.sub(r"```.*?```", "", path.read_text(), flags=re.DOTALL)
        prose = "\n".join(line for line in text.splitlines() if not re.match(r"[|#!<]", line))
        for part in re.split(r"\n\s*\n|\n(?=\* |- |\d\. )", prose):
            whole = re.split(r"(?<=[.:;]) (?=[A-Z`*0-9])", " ".join(part.split()))
            found += [f"{path}: {sentence}" for sentence in whole if len(sentence) > 20]
    return found


def main() -> None:
    """Prints both draws."""
    parser = shared.parser(__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=40)
    flags = parser.parse_args()
    for found in (docstrings(), sentences()):
        for text in random.Random(flags.seed).sample(found, flags.count):
            print(f"* {text}")


if __name__ == "__main__":
    main()
