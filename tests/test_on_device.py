"""benchmarks/on_device.py, shrunk, as a command."""

import functools
import importlib
import json
import math
import subprocess
import sys
from pathlib import Path

import jax
import pytest
import small

ROOT = Path(__file__).parent.parent
CONFIGS = [ROOT / "configs" / name for name in ("digits_repr.py", "digits_gen.py")]
SECTIONS = {
    "matmul": [["bfloat16"]],
    "zoning": [[64]],
    "training": [["digits_repr", "bfloat16"], ["digits_gen", "bfloat16"]],
    "sampling": [["digits_gen", "bfloat16"]],
}
QUANTITIES = "latents", "gradient"
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """The command's exit code, what it says, and the file it leaves."""
    shrunk = [flag for path in CONFIGS for flag in small.flags(path, "unused")[2:]]
    shrunk.append("--config.latent.enabled=False")  # a field of one of them; one network less
    folder = tmp_path_factory.mktemp("on_device")
    flags = [f"--folder={folder}", "--n", "64", "--repeats=1", "--matmul-size=64"]
    flags += ["--dtypes", "bfloat16", "--configs", *map(str, CONFIGS), *dict.fromkeys(shrunk)]
    command = [sys.executable, str(ROOT / "benchmarks" / "on_device.py"), *flags]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    said = result.stdout + result.stderr
    return result.returncode, said, json.loads((folder / "on_device.json").read_text())


@pytest.fixture
def on_device(monkeypatch):
    """The script as a module."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.chdir(ROOT)
    return importlib.import_module("on_device")


def test_every_section_has_its_rows_with_the_rates_and_errors_of_its_numbers(measured):
    code, said, found = measured
    assert code == 0, said
    assert found["not measured"] == {}
    for section, names in SECTIONS.items():
        rows = found[section]
        assert [list(row.values())[: len(names[0])] for row in rows] == names
        assert f"\n{section}, " in said
        numbers = [value for row in rows for value in row.values() if not isinstance(value, str)]
        assert all(math.isfinite(value) and value > 0 for value in numbers), rows
    (zoning,), (matmul,) = found["zoning"], found["matmul"]
    assert zoning["TFLOP/s"] * zoning["seconds"] * 1e12 == pytest.approx(40 * 14 * 64**2 * 256)
    assert all(zoning[f"{a} {b}"] < 1e-5 for a in ("soft", "Gaussian") for b in QUANTITIES)
    for row in found["training"] + found["sampling"]:
        assert row["images/s"] * row["seconds"] == pytest.approx(row["images"])
        assert row["share"] == pytest.approx(row["TFLOP/s"] / matmul["TFLOP/s"] / row["devices"])
    (row,) = found["sampling"]
    assert row["evaluations/s"] == pytest.approx(3 * row["images/s"])


def test_what_fails_is_a_line_and_the_rest_goes_on(on_device, tmp_path):
    def fails():
        raise jax.errors.JaxRuntimeError("UNIMPLEMENTED: no such product\nmore lines")

    # Addresses have 48 bits, so no machine holds these 4e16 bytes.
    large = functools.partial(on_device.measure_matmul, "float32", 10**8)
    runs = {"large": large, "bad": fails, "good": lambda: {"n": 1}, "stopped": pytest.fail}
    measurements = [("matmul", name, run) for name, run in runs.items()]
    with pytest.raises(pytest.fail.Exception):
        on_device.measure_all(measurements, tmp_path / "on_device.json", {})
    assert json.loads((tmp_path / "on_device.json").read_text()) == {
        "matmul": [{"n": 1}],
        "not measured": {
            "matmul, large": "does not fit in memory",
            "matmul, bad": "failed: UNIMPLEMENTED: no such product",
            "matmul, stopped": "the time was up",
        },
    }


def test_an_override_that_no_config_holds_is_an_error(on_device, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["on_device.py", "--config.encoder.hed_dim=4"])
    with pytest.raises(SystemExit, match="2"):
        on_device.parse()
    assert "none of the configs holds the field encoder.hed_dim" in capsys.readouterr().err
