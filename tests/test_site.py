"""The site is built without a warning, its links and pictures are there, and a browser shows it."""

import dataclasses
import html
import html.parser
import importlib.util
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from PIL import Image

from lzn_jax import zoning
from lzn_jax.trained_model import TrainedModel

ROOT = Path(__file__).parent.parent
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")

pytestmark = pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in ("material", "mkdocstrings_handlers")),
    reason="the site is built with mkdocs-material and mkdocstrings: pip install -e '.[docs]'",
)
needs_browser = pytest.mark.skipif(
    CHROMIUM is None, reason="no chromium is installed: apt-get install chromium"
)


class Page(html.parser.HTMLParser):
    """What a page names: anchors of its own, links, and files that it loads."""

    def __init__(self, path):
        super().__init__()
        self.anchors, self.links, self.loads = set(), [], []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.anchors |= {values[name] for name in ("id", "name") if values.get(name)}
        address = values.get("href", values.get("src"))
        if address is not None:
            (self.links if tag == "a" else self.loads).append(address)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the built site."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder]
    environment = os.environ | {"EXECUTE_NOTEBOOKS": "false"}  # they take minutes
    built = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300
    )
    assert built.returncode == 0, built.stderr
    return folder


@pytest.fixture(scope="module")
def pages(site):
    """Pages by path. That of a server without an answer names files from the server's root."""
    paths = sorted(path for path in site.rglob("*.html") if path.name != "404.html")
    return {path: Page(path) for path in paths}


def test_the_repository_is_in_it(site, pages):
    names = {str(path.relative_to(site)) for path in pages}
    documents = [path.stem for path in (ROOT / "docs").glob("*.md")]
    notebooks = [path.stem for path in (ROOT / "notebooks").glob("*.ipynb")]
    interfaces = [path.stem for path in (ROOT / "website").glob("*.md")]
    examples = [path.parent.name for path in (ROOT / "examples").glob("*/README.md")]
    assert documents
    assert notebooks
    assert interfaces
    assert names == {
        *(f"docs/{name}.html" for name in documents),
        *(f"notebooks/{name}.html" for name in notebooks),
        *(f"examples/{name}/index.html" for name in examples),
        *("index.html", "launch/index.html", "CHANGELOG.html", "CONTRIBUTING.html"),
        *(f"website/{name}.html" for name in interfaces),
        "limits.html",
    }
    limits = (site / "limits.html").read_text()
    assert "No full-scale config was trained" in limits
    assert "Where things are" not in limits


def test_every_link_and_picture_is_there(site, pages):
    assert sum(len(page.links) for page in pages.values()) > 200
    for path, page in pages.items():
        for address in page.links + page.loads:
            parts = urlsplit(address)
            if parts.scheme:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            assert target.is_relative_to(site.resolve()), (path, address)
            assert target.is_file(), (path, address)
            if parts.fragment and target in pages:
                assert unquote(parts.fragment) in pages[target].anchors, (path, address)


def test_nothing_is_loaded_from_elsewhere(pages):
    schemes = {urlsplit(each).scheme for page in pages.values() for each in page.loads}
    assert schemes <= {"", "data"}


def test_docstrings_are_in_it(site, pages):
    anchors = pages[site / "website" / "zoning_functions.html"].anchors
    named = {name.split(".")[-1] for name in anchors if name.startswith("lzn_jax.zoning.")}
    assert set(zoning.__all__) - {"SOLVERS", "Solver"} <= named
    anchors = pages[site / "website" / "trained_model.html"].anchors
    fields = {each.name for each in dataclasses.fields(TrainedModel)}  # a list in its docstring
    public = [name for name in vars(TrainedModel).keys() - fields if not name.startswith("_")]
    assert {f"lzn_jax.trained_model.TrainedModel.{name}" for name in public} <= anchors
    assert "lzn_jax.loading.load" in anchors
    text = (site / "website" / "trained_model.html").read_text()
    signature = html.unescape(re.sub(r"<[^>]*>", "", text.partition(">fit<")[2])).partition(")")[0]
    assert "\n    steps: int | None = None,\n" in signature
    assert "Translates samples from one data type to another" in text


def test_interfaces_are_links_to_sources_on_github():
    hook = runpy.run_path(str(ROOT / "website" / "hook.py"))
    for path in (ROOT / "website").glob("*.md"):
        links = hook["SOURCE"].findall(path.read_text())
        assert links
        assert len(links) == path.read_text().count("\n* [`lzn_jax")
        for name, link in re.findall(
            r"^\* \[`lzn_jax[\w.]*?(\w+)`\]\((.*)\)", path.read_text(), re.M
        ):
            source = path.parent / link
            assert source.stem == name or re.search(rf"(def|class) {name}\b", source.read_text())


def test_cells_say_what_they_showed():
    hook = runpy.run_path(str(ROOT / "website" / "hook.py"))
    outputs = [
        {"output_type": "stream", "name": "stdout", "text": ["1\n", "2\n"]},
        {"output_type": "stream", "name": "stderr", "text": ["training: 50%\n"]},
        {"output_type": "execute_result", "data": {"text/plain": ["3"]}},
        {"output_type": "display_data", "data": {"image/png": "QUJD\n", "text/plain": "<Figure>"}},
    ]
    cell = {"cell_type": "code", "source": ["f()\n", "3"], "outputs": outputs}
    assert list(hook["cell_parts"](cell)) == [
        "```python\nf()\n3\n```",
        "```text\n1\n2\n```",
        "```text\n3\n```",
        "![](data:image/png;base64,QUJD)",
    ]
    assert list(hook["cell_parts"]({"cell_type": "markdown", "source": "# A"})) == ["# A"]


def test_outputs_of_notebooks_are_kept_until_the_notebook_changes(tmp_path):
    pytest.importorskip("nbclient", reason="pip install -e '.[notebooks]'")
    executed = runpy.run_path(str(ROOT / "website" / "hook.py"))["executed"]
    executed.__globals__["CACHE"] = tmp_path / "cache"
    path = tmp_path / "a.ipynb"

    def output(source):
        cell = {"cell_type": "code", "id": "a", "metadata": {}, "source": source}
        cell |= {"outputs": [], "execution_count": None}
        notebook = {"cells": [cell], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
        path.write_text(json.dumps(notebook))
        (ran,) = executed(path)["cells"]
        return "".join(ran["outputs"][0]["text"])

    source = "import uuid\nprint(uuid.uuid4())"
    first = output(source)
    assert output(source) == first
    assert output(f"{source}  # changed") != first
    assert len(list((tmp_path / "cache").iterdir())) == 1


def browse(address, tmp_path, *what):
    """What chromium prints of a page, after its scripts; fails where the page logs an error."""
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    options += ["--enable-logging=stderr", "--virtual-time-budget=10000"]
    options += ["--window-size=1400,1600", f"--user-data-dir={tmp_path / 'profile'}"]
    seen = subprocess.run(
        [CHROMIUM, *options, *what, address],
        env=os.environ | {"HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert seen.returncode == 0, seen.stderr
    assert [line for line in seen.stderr.splitlines() if "CONSOLE" in line] == []
    return seen.stdout


@needs_browser
def test_every_page_opens(site, pages, tmp_path):
    for path in pages:
        name = "-".join(path.relative_to(site).with_suffix(".png").parts)
        browse(path.as_uri(), tmp_path, f"--screenshot={tmp_path / name}")
        with Image.open(tmp_path / name) as picture:
            assert picture.size == (1400, 1600)
            assert len(picture.convert("L").getcolors()) > 100, name  # text has smooth edges


@needs_browser
def test_search_works_from_files(site, tmp_path):
    found = browse(f"{(site / 'index.html').as_uri()}?q=AdamsBashforth", tmp_path, "--dump-dom")
    assert "matching documents" in found
    assert 'href="website/zoning_functions.html' in found.partition("matching documents")[2]
