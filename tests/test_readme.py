"""README's examples run as they stand."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_python_examples_run():
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert blocks
    for block in blocks:
        names: dict = {}
        exec(compile(block, "README.md", "exec"), names)
        if "accuracy" in names:  # the variant with an encoder of one's own
            assert names["accuracy"] > 0.93
            assert len(block.splitlines()) <= 40


def test_commands_name_files_that_exist():
    text = (ROOT / "README.md").read_text()
    for path in re.findall(r"(?:configs|benchmarks)/(?!NAME)\w+\.py", text):
        assert (ROOT / path).is_file(), path
    for config in (ROOT / "configs").glob("*.py"):
        assert f"configs/{config.name}" in text
