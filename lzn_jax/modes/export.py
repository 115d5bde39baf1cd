"""--mode=export: the tasks of a run as StableHLO, for use without this package."""

import logging
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from lzn_jax.configuration import UserError, parse_json
from lzn_jax.loading import restore
from lzn_jax.release import programs, safetensors_files
from lzn_jax.release.programs import MANIFEST
from lzn_jax.run import processes, reporting, sharding
from lzn_jax.trained_model import TrainedModel

README, WEIGHTS = "README.md", "weights.safetensors"
MADE_BY = "lzn_jax --mode=export"
_PARTIAL, _PREVIOUS = ".export.partial", ".export.previous"  # folders of an export under way
_EXAMPLES = ("classify", "sample", "encode")  # tasks for the example in README.md, the best first

_log = logging.getLogger(__name__)


def export(config: ConfigDict, workdir: Path) -> None:
    """Writes `export/`: a program for each task, their weights, a manifest and README.md.

    Readers find the previous export or the new one, complete. Raises UserError if `export/` holds
    files that this mode did not write, and if the run has no task that can be exported.
    """
    folder, partial = workdir / "export", workdir / _PARTIAL
    _check_own(folder)
    trained = restore(config, workdir)
    tensors = sharding.fetch(safetensors_files.by_name(trained.model))
    if not processes.is_writer():
        return
    _clean(workdir)
    partial.mkdir()
    try:
        safetensors_files.write(partial / WEIGHTS, tensors)
        manifest = _manifest(trained) | _write_programs(trained, partial)
        reporting.write_bytes(partial / README, _readme(manifest).encode())
        names = [MANIFEST, *(path.name for path in partial.iterdir())]
        reporting.write_json(partial / MANIFEST, manifest | {"files": sorted(names)})
        _check_own(folder)
        if folder.exists():
            folder.rename(workdir / _PREVIOUS)
        partial.rename(folder)
    finally:
        _clean(workdir)
    _log.info("%s: how to call the programs", folder / README)


def _clean(workdir: Path) -> None:
    """Removes what an interrupted export left; a previous export gets its name again."""
    folder, previous = workdir / "export", workdir / _PREVIOUS
    shutil.rmtree(workdir / _PARTIAL, ignore_errors=True)
    if previous.exists() and not folder.exists():
        previous.rename(folder)
    shutil.rmtree(previous, ignore_errors=True)


def _check_own(folder: Path) -> None:
    """Raises UserError unless the folder is absent or holds only files of an earlier export."""
    if not folder.exists() and not folder.is_symlink():
        return
    try:
        manifest = parse_json((folder / MANIFEST).read_text())
        own = set(manifest["files"]) if manifest["made_by"] == MADE_BY else set()
    except (OSError, ValueError, KeyError, TypeError):
        own = set()
    if not own or folder.is_symlink():
        raise UserError(f"{folder} was not written by --mode=export: move it away")
    if others := sorted(
        path.name for path in folder.iterdir() if not (path.name in own and path.is_file())
    ):
        raise UserError(
            f"{folder} holds {', '.join(others)}, not written by --mode=export: move it"
        )


def _manifest(trained: TrainedModel) -> dict[str, Any]:
    types = {name: each.sample_format() for name, each in trained.space.types.items()}
    for name, each in types.items():
        if "vocabulary" in each:
            each["vocabulary"] = f"{name}_vocabulary.json"
    return {
        "made_by": MADE_BY,
        "jax": jax.__version__,
        "run": repr(trained),
        "step": trained.step,
        "platforms": programs.PLATFORMS,
        "weights": WEIGHTS,
        "types": types,
    }


def _write_programs(trained: TrainedModel, folder: Path) -> dict[str, Any]:
    """Writes programs and vocabularies; returns the programs' part of the manifest."""
    for name, each in trained.space.types.items():
        if vocabulary := each.sample_format().get("vocabulary"):
            reporting.write_json(folder / f"{name}_vocabulary.json", vocabulary)
    written: dict[str, Any] = {}
    left_out: dict[str, str] = {}
    for name, program in programs.programs(trained).items():
        start = time.monotonic()
        try:
            exported = programs.exported(program, trained.model)
            content = bytes(exported.serialize())
        except (NotImplementedError, ValueError) as error:  # such as a callback of a user's part
            left_out[name] = " ".join(str(error).split())[:200]
            _log.warning("%s is left out, as JAX cannot export it: %s", name, left_out[name])
            continue
        file = f"{name}.stablehlo"
        reporting.write_bytes(folder / file, content)
        written[name] = {"file": file, "bytes": len(content), **_described(program, exported)}
        seconds = time.monotonic() - start
        _log.info("export/%s: %.1f s, %.0f kB", file, seconds, len(content) / 1000)
    if not written:
        raise UserError(f"{trained!r} has no task that can be exported")
    return {"programs": written, "left_out": left_out}


def _described(program: programs.Program, exported: jax.export.Exported) -> dict[str, Any]:
    """Inputs and outputs of a program for the manifest; a batch axis of any size is "b"."""
    _, inputs = jax.tree.unflatten(exported.in_tree, exported.in_avals)
    outputs = jax.tree.unflatten(exported.out_tree, exported.out_avals)
    defaults = {name: {"default": value} for name, value in program.scalars.items()}
    return {
        "computes": program.description,
        "batch_size": program.batch_size or "any",
        "platforms": exported.platforms,
        "inputs": {name: _array(a) | defaults.get(name, {}) for name, a in inputs.items()},
        "outputs": {name: _array(a) for name, a in outputs.items()},
    }


def _array(a: Any) -> dict[str, Any]:
    shape = [size if isinstance(size, int) else str(size) for size in a.shape]
    return {"dtype": a.dtype.name, "shape": shape}


def _readme(manifest: Mapping[str, Any]) -> str:
    """README.md: an example that runs in the folder, and tables of programs and types."""
    entries = manifest["programs"]
    rows = [
        f"| `{name}` | {entry['computes']} | {_signature(entry['inputs'])} "
        f"| {_signature(entry['outputs'])} | {entry['batch_size']} |"
        for name, entry in entries.items()
    ]
    types = [
        f"* `{name}`: {each['description']} ({each.get('vocabulary', MANIFEST)})"
        for name, each in manifest["types"].items()
    ]
    return f"""\
# {manifest["run"]} as programs

StableHLO for {", ".join(manifest["platforms"])}, written by JAX {manifest["jax"]}. That version or
a later one runs it after `pip install jax numpy safetensors flatbuffers`. An example, run in this
folder:

```python
{_example(entries)}```

| program | computes | inputs | outputs | batch size |
|---|---|---|---|---|
{chr(10).join(rows)}

{chr(10).join(types)}
* `seed`, `index`: random numbers of a row follow from the seed and the row's index.
* `noise_scale`: α of latents; 0 gives the centres of zones.

b is any batch size of at least 1; row i of a result depends only on row i of the inputs. Where the
batch size is a number, the samples of the batch cut the zones. `{MANIFEST}` has all of this, and
defaults.
"""


def _signature(arrays: Mapping[str, Any]) -> str:
    return "; ".join(
        f"{name} {each['dtype']} ({', '.join(map(str, each['shape']))})"
        for name, each in arrays.items()
    )


def _example(entries: Mapping[str, Any]) -> str:
    """Python code that loads and calls the program of the most telling task."""
    tasks = {name.partition("_")[0]: name for name in reversed(list(entries))}
    name = next((tasks[task] for task in _EXAMPLES if task in tasks), next(iter(entries)))
    inputs = "".join(
        f"    {key}={_example_input(key, each)},\n" for key, each in entries[name]["inputs"].items()
    )
    return f"""\
import numpy as np
from jax import export
from safetensors.numpy import load_file

weights = load_file("{WEIGHTS}")
with open("{entries[name]["file"]}", "rb") as file:
    {name} = export.deserialize(bytearray(file.read()))
outputs = {name}.call(
    weights,
{inputs})
print({{key: value.shape for key, value in outputs.items()}})
"""


def _example_input(name: str, array: Mapping[str, Any]) -> str:
    dtype, shape = array["dtype"], array["shape"]
    if not shape:
        return f"np.{dtype}({array['default']})"
    size, *row = [2 if length == "b" else length for length in shape]
    if name == "index":
        return f"np.arange({size}, dtype=np.{dtype})"
    return f"np.zeros({(size, *row)}, np.{dtype})"
