"""The repository's files as pages of the site, at their own paths, so that links work in both."""

import hashlib
import importlib.util
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.plugins import get_plugin_logger
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
CACHE = ROOT / "build" / "notebooks"
PAGES = (
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "launch/README.md",
    "examples/*/README.md",
    "docs/*.md",
    "website/*.md",
)
LINK = re.compile(r"\]\((?!https?:)([^)#]+)")
SOURCE = re.compile(r"^\* \[`(lzn_jax[\w.]+)`\]\(.*\.py\)$", re.MULTILINE)
log = get_plugin_logger("notebooks")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds pages, the files that they link to, README's limits and the notebooks."""
    pages = [path for pattern in PAGES for path in sorted(ROOT.glob(pattern))]
    for path in sorted({*pages, *linked(pages)}):
        uri = path.relative_to(ROOT).as_posix()
        files.append(File(uri, str(ROOT), config.site_dir, config.use_directory_urls))
    for path in sorted(ROOT.glob("notebooks/*.ipynb")):
        page = notebook_page(path, execute=config.extra["execute_notebooks"])
        files.append(File.generated(config, f"notebooks/{path.stem}.md", content=page))
    files.append(File.generated(config, "limits.md", content=limits()))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Docstrings in place of the links to their sources, which GitHub shows."""
    del page, config, files
    return SOURCE.sub(r"::: \1\n", markdown)


def linked(pages: list[Path]) -> Iterator[Path]:
    """Files that pages link to or show."""
    for page in pages:
        for link in LINK.findall(page.read_text(encoding="utf-8")):
            path = (page.parent / link).resolve()
            if path.is_file():
                yield path


def limits() -> str:
    """README's section of that name as a page."""
    _, _, section = (ROOT / "README.md").read_text(encoding="utf-8").partition("\n## Limits\n")
    return "# Limits\n" + section.partition("\n## ")[0]


def notebook_page(path: Path, *, execute: bool) -> str:
    """A notebook in Markdown, with its outputs if `execute`."""
    notebook = executed(path) if execute else json.loads(path.read_text(encoding="utf-8"))
    return "\n\n".join(part for cell in notebook["cells"] for part in cell_parts(cell))


def executed(path: Path) -> dict[str, Any]:
    """A notebook with outputs, executed unless it was since it or the package changed."""
    cached = CACHE / f"{path.stem}-{digest(path)}.json"
    if not cached.exists():
        if not all(importlib.util.find_spec(name) for name in ("nbclient", "ipykernel")):
            raise PluginError(
                "to execute the notebooks: pip install -e '.[docs,notebooks]'; "
                "to build without their outputs: EXECUTE_NOTEBOOKS=false mkdocs build"
            )
        import nbclient
        import nbformat

        log.info(f"executing {path.name}, which takes minutes; {CACHE} keeps its outputs")
        resources = {"metadata": {"path": str(path.parent)}}
        source = nbformat.read(path, 4)
        notebook = nbclient.NotebookClient(source, timeout=None, resources=resources).execute()
        CACHE.mkdir(parents=True, exist_ok=True)
        for older in CACHE.glob(f"{path.stem}-*.json"):
            older.unlink()
        cached.write_text(nbformat.writes(notebook), encoding="utf-8")
    loaded: dict[str, Any] = json.loads(cached.read_text(encoding="utf-8"))
    return loaded


def digest(notebook: Path) -> str:
    """Hash of a notebook and of the sources that its outputs depend on."""
    sources = [*ROOT.glob("lzn_jax/**/*.py"), *ROOT.glob("configs/*.py")]
    contents = b"".join(path.read_bytes() for path in [notebook, *sorted(sources)])
    return hashlib.sha256(contents).hexdigest()[:16]


def cell_parts(cell: dict[str, Any]) -> Iterator[str]:
    """The source of a cell, then its outputs; progress bars and logs are left out."""
    source = "".join(cell["source"])
    yield source if cell["cell_type"] == "markdown" else fenced(source, "python")
    for output in cell.get("outputs", []):
        data = output.get("data", {})
        if output.get("name") == "stderr":
            continue
        if "image/png" in data:
            yield f"![](data:image/png;base64,{''.join(data['image/png'].split())})"
        elif text := "".join(output.get("text", data.get("text/plain", ""))):
            yield fenced(text, "text")


def fenced(text: str, language: str) -> str:
    """A block of code."""
    return f"```{language}\n{text.rstrip()}\n```"
