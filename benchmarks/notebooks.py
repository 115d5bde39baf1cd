"""Runs the notebooks as in a fresh clone, and keeps their pictures.

    pip install -e '.[notebooks]'
    python benchmarks/notebooks.py [NAME ...] [--folder=results/notebook_pictures]

Each of `notebooks/*.ipynb`, or of the names, runs from its first cell to its last in a folder of
its own, so that it trains. An error ends the script. Prints seconds of wall and of processor time;
pictures go to FOLDER/NAME_CELL_OUTPUT.png. The notebooks themselves stay without outputs.

Measured: 153, 150 and 177 s of processors for generation, representation and joint.
"""

import argparse
import base64
import resource
import shutil
import tempfile
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).parent.parent
CELL_SECONDS = 3600


def run(file: Path, pictures: Path) -> None:
    """Runs one notebook; writes the pictures that its cells show."""
    notebook = nbformat.read(file, as_version=4)
    nbformat.validate(notebook)
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder)
        shutil.copytree(ROOT / "configs", clone / "configs")
        (clone / "notebooks").mkdir()
        where = {"metadata": {"path": str(clone / "notebooks")}}
        NotebookClient(notebook, timeout=CELL_SECONDS, resources=where).execute()
    pictures.mkdir(parents=True, exist_ok=True)
    for number, cell in enumerate(notebook.cells):
        for place, output in enumerate(cell.get("outputs", [])):
            if content := output.get("data", {}).get("image/png"):
                path = pictures / f"{file.stem}_{number:02d}_{place}.png"
                path.write_bytes(base64.b64decode(content))
            if output.get("name") == "stdout":
                print(output["text"], end="")


def processor_seconds() -> float:
    """Of the kernels that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    names = sorted(file.stem for file in (ROOT / "notebooks").glob("*.ipynb"))
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(names))
    parser.add_argument("--folder", type=Path, default=Path("results/notebook_pictures"))
    arguments = parser.parse_args()
    for name in arguments.names or names:
        started, before = time.perf_counter(), processor_seconds()
        run(ROOT / "notebooks" / f"{name}.ipynb", arguments.folder)
        wall, busy = time.perf_counter() - started, processor_seconds() - before
        print(f"{name}: {wall:.0f} s, {busy:.0f} s of processors", flush=True)


if __name__ == "__main__":
    main()
