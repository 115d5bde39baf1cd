"""Bad metadata, tokenizers, captions and options: code 2, one line, and no run is touched."""

import importlib.util
import shutil
from pathlib import Path

import pytest
import small

from lzn_jax import main

ROOT = Path(__file__).parents[1]
_SPEC = importlib.util.spec_from_file_location("cases", ROOT / "benchmarks" / "fault_cases.py")
cases = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(cases)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What the cases name, and runs of two configs that they could spoil."""
    folder = tmp_path_factory.mktemp("bad_texts")
    cases.make_bad_texts(folder)
    good = cases.make_good_pairs(folder / "good")
    own = {"image_text": {"data__path": good, "data__image_size": 8}, "digits_text": {}}
    for name, changes in own.items():
        config = small.config(ROOT / "configs" / f"{name}.py", **changes)
        small.untrained_run(folder / "runs" / name, config)
    return folder


def _contents(folder):
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {path: path.read_bytes() for path in files}


@pytest.mark.parametrize("case", [name for name, _, _ in cases.bad_texts(Path("bad"))])
def test_a_bad_input_is_one_line(case, folder, capsys, monkeypatch):
    pytest.importorskip("tokenizers", reason="the package tokenizers is not installed")
    monkeypatch.chdir(ROOT)
    found = {name: (config, flags) for name, config, flags in cases.bad_texts(folder)}
    config, flags = found[case]
    own = {"image_text": {"data__image_size": 8, "data__workers": 0}}.get(config, {})
    shutil.rmtree(folder / "new", ignore_errors=True)
    before = _contents(folder / "runs")
    arguments = small.flags(f"configs/{config}.py", folder / "runs" / config, **own)
    code = main.main([*arguments, *flags])
    lines = capsys.readouterr().err.splitlines()
    assert code == 2
    assert len([line for line in lines if line.startswith("error: ")]) == 1
    assert _contents(folder / "runs") == before
    assert not (folder / "new" / "config.json").exists()
