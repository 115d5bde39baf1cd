"""Notebooks are sources without outputs, and every cell of them runs, on shrunk configs."""

import ast
import importlib
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PATHS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SHRINK = """
import small
import lzn_jax
import lzn_jax.main as command

whole, fit = command.main, lzn_jax.fit
command.main = lambda flags: whole([*flags, *small.overrides(flags[0].partition("=")[2])])
lzn_jax.fit = lambda config, *given, **changes: fit(
    config, *given, **(changes | small.shrunk(config) | {"steps": 2})
)
"""


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_notebooks_are_sources_without_outputs(path):
    notebook = json.loads(path.read_text())
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert path.stat().st_size < 20_000
    assert f"`{path.name}`" in (ROOT / "README.md").read_text()
    assert len({cell["id"] for cell in notebook["cells"]}) == len(notebook["cells"])
    for cell in notebook["cells"]:
        assert cell["cell_type"] in ("markdown", "code")
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            assert cell["execution_count"] is None
            assert_imports_exist("".join(cell["source"]))


def assert_imports_exist(source):
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module.startswith("lzn_jax"):
            module = importlib.import_module(node.module)
            for alias in node.names:
                if not hasattr(module, alias.name):
                    importlib.import_module(f"{node.module}.{alias.name}")


@pytest.mark.slow
@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_notebooks_run(path, tmp_path, monkeypatch):
    """In a kernel, as Jupyter does, beside configs as in the repository."""
    nbclient = pytest.importorskip("nbclient", reason="pip install -e '.[notebooks]'")
    nbformat = pytest.importorskip("nbformat", reason="pip install -e '.[notebooks]'")
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "tests"))
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    (tmp_path / "notebooks").mkdir()
    notebook = nbformat.read(path, as_version=4)
    notebook.cells.insert(0, nbformat.v4.new_code_cell(SHRINK))
    resources = {"metadata": {"path": str(tmp_path / "notebooks")}}
    nbclient.NotebookClient(notebook, timeout=300, resources=resources).execute()
    for cell in notebook.cells:
        if cell.cell_type == "code" and ("Image(" in cell.source or "subplots(" in cell.source):
            outputs = [output.get("data", {}) for output in cell.outputs]
            assert any("image/png" in data for data in outputs), cell.source
