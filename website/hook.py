"""The repository's files as pages of the site, at their own paths: links work in both."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
PAGES = (
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "launch/README.md",
    "examples/*/README.md",
    "docs/*.md",
)
LINK = re.compile(r"\]\((?!https?:)([^)#]+)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds pages, what they link to, README's limits and the notebooks to the site's own files."""
    pages = [path for pattern in PAGES for path in sorted(ROOT.glob(pattern))]
    for path in sorted({*pages, *linked(pages)}):
        uri = path.relative_to(ROOT).as_posix()
        files.append(File(uri, str(ROOT), config.site_dir, config.use_directory_urls))
    for path in sorted(ROOT.glob("notebooks/*.ipynb")):
        page = notebook_page(path, execute=config.extra["execute_notebooks"])
        files.append(File.generated(config, f"notebooks/{path.stem}.md", content=page))
    files.append(File.generated(config, "limits.md", content=limits()))
    return files


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
    """A notebook in Markdown, with its outputs where it is executed."""
    notebook = json.loads(path.read_text(encoding="utf-8"))
    if execute:
        import nbclient
        import nbformat

        resources = {"metadata": {"path": str(path.parent)}}
        notebook = nbclient.execute(nbformat.read(path, 4), resources=resources, timeout=None)
    return "\n\n".join(part for cell in notebook["cells"] for part in cell_parts(cell))


def cell_parts(cell: dict[str, Any]) -> Iterator[str]:
    """What a cell says, and what it showed."""
    source = "".join(cell["source"])
    yield source if cell["cell_type"] == "markdown" else fenced(source, "python")
    for output in cell.get("outputs", []):
        data = output.get("data", {})
        if "image/png" in data:
            yield f"![](data:image/png;base64,{''.join(data['image/png'].split())})"
        elif text := "".join(output.get("text", data.get("text/plain", ""))):
            yield fenced(text, "text")


def fenced(text: str, language: str) -> str:
    """A block of code."""
    return f"```{language}\n{text.rstrip()}\n```"
