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


def told(monkeypatch, folder, *flags):
    """Gives the script these flags; returns the path of its file."""
    monkeypatch.setattr(sys, "argv", ["on_device.py", f"--folder={folder}", *flags])
    return folder / "on_device.json"


def test_every_section_has_its_rows_of_finite_positive_numbers(measured):
    code, said, found = measured
    assert code == 0, said
    assert found["not measured"] == {}
    for section, names in SECTIONS.items():
        rows = found[section]
        assert [list(row.values())[: len(names[0])] for row in rows] == names
        assert section in said.splitlines()
        for row in rows:
            assert row["compile s"] > 0
            numbers = [value for value in row.values() if not isinstance(value, str)]
            assert all(math.isfinite(value) and value > 0 for value in numbers), row


def test_rates_are_operations_and_images_by_time(measured):
    _, _, found = measured
    for row in found["zoning"]:
        assert row["TFLOP/s"] * row["seconds"] * 1e12 == pytest.approx(40 * 14 * 64**2 * 256)
    for row in found["training"] + found["sampling"]:
        assert row["images/s"] * row["seconds"] == pytest.approx(row["images"])
        assert row["images"] == 15
        [best] = [r["TFLOP/s"] for r in found["matmul"] if r["dtype"] == row["dtype"]]
        assert row["share"] == pytest.approx(row["TFLOP/s"] / best / row["devices"])
    for row in found["sampling"]:
        assert row["evaluations/s"] == pytest.approx(3 * row["images/s"])


def test_errors_are_those_of_float32(measured):
    _, _, found = measured
    for name in ("soft latents", "soft gradient", "Gaussian latents", "Gaussian gradient"):
        assert found["zoning"][0][name] < 1e-5


def test_without_time_all_is_skipped_in_lines_that_say_so(on_device, monkeypatch, tmp_path, capsys):
    flags = ["--minutes=0", "--n", "64", "128", "--configs", "configs/digits_gen.py"]
    path = told(monkeypatch, tmp_path, *flags)
    assert on_device.main() == 0
    said, found = capsys.readouterr().out, json.loads(path.read_text())
    assert len(found["not measured"]) == 2 + 2 + 4
    for name, reason in found["not measured"].items():
        assert reason == "skipped: 0 s are left"
        assert f"{name}: {reason}" in said.splitlines()
    assert not any(found[section] for section in SECTIONS)


def test_what_fails_is_a_line_and_the_rest_goes_on(on_device, monkeypatch, tmp_path, capsys):
    def fails():
        raise jax.errors.JaxRuntimeError("UNIMPLEMENTED: no such product\nmore lines")

    runs = {
        # Addresses have 48 bits, so no machine holds these 4e16 bytes.
        "large": functools.partial(on_device.measure_matmul, "float32", 10**8),
        "unknown": fails,
        "small": functools.partial(on_device.measure_matmul, "float32", 16),
    }
    measurements = [on_device.Measurement("matmul", name, name, 1, runs[name]) for name in runs]
    monkeypatch.setattr(on_device, "plan", lambda arguments: measurements)
    path = told(monkeypatch, tmp_path)
    assert on_device.main() == 1
    said = capsys.readouterr().out.splitlines()
    assert "matmul, large: does not fit in memory" in said
    assert "matmul, unknown: failed: UNIMPLEMENTED: no such product" in said
    found = json.loads(path.read_text())
    assert [row["size"] for row in found["matmul"]] == [16]
    assert list(found["not measured"]) == ["matmul, large", "matmul, unknown"]


def test_what_is_expected_to_take_longer_is_not_begun(on_device):
    never = on_device.Measurement("zoning", "n = 8", "", 1, pytest.fail)
    said = on_device.attempt(never, 10, 20)
    assert said == "skipped: 10 s are left and it takes about 20 s"


def test_what_takes_longer_than_expected_ends_the_run_and_the_file_says_so(on_device, tmp_path):
    program = f"""
import argparse, pathlib, time, on_device
arguments = argparse.Namespace(folder=pathlib.Path({str(tmp_path)!r}), repeats=1)
slow = [on_device.Measurement("zoning", "slow", "", 1, lambda: time.sleep(100))]
on_device.plan = lambda arguments: slow
on_device.measure_all(arguments, time.monotonic() + 1, {{}})
print("not reached")
"""
    command = [sys.executable, "-c", program]
    result = subprocess.run(
        command, capture_output=True, text=True, timeout=60, cwd=ROOT / "benchmarks"
    )
    assert (result.returncode, result.stdout) == (0, "zoning, slow: not finished, the time is up\n")
    found = json.loads((tmp_path / "on_device.json").read_text())
    assert found == {"zoning": [], "not measured": {"zoning, slow": "the time was up"}}


def test_an_override_that_no_config_holds_is_an_error(on_device, monkeypatch, tmp_path, capsys):
    path = told(monkeypatch, tmp_path, "--config.encoder.hed_dim=4")
    with pytest.raises(SystemExit, match="2"):
        on_device.main()
    assert not path.exists()
    assert "none of the configs holds the field encoder.hed_dim" in capsys.readouterr().err
