"""Run files: metrics that survive a kill and a restart, valid JSON."""

import io
import json
import math
import os
import subprocess
import sys
import time
import warnings

import numpy as np
import pytest
from PIL import Image

from lzn_jax.errors import UserError
from lzn_jax.run import files
from lzn_jax.run import log as log_module


def _strict_json(text):
    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(text, parse_constant=refuse)


def _events(workdir):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TensorBoard's imports
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        accumulator = EventAccumulator(str(workdir / "tensorboard"))
        accumulator.Reload()
    return accumulator


def test_log_keeps_lines_up_to_the_step_byte_for_byte(tmp_path):
    kept = b'{"step":10,  "loss": 1.50}\n{"step": 20, "loss": 1e0}\n{"step": 20, "fid": 3}\n'
    dropped = b'{"step": 21, "loss": 0.5}\n{"step": 30, "loss": 0.4}\n'
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(kept + dropped + b'{"step": 40, "lo')
    with log_module.MetricLog(tmp_path, step=20):
        assert path.read_bytes() == kept


def test_log_completes_a_last_line_that_lacks_only_its_newline(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1, "loss": 2.0}')
    with log_module.MetricLog(tmp_path, step=1):
        assert path.read_bytes() == b'{"step": 1, "loss": 2.0}\n'


def test_has_knows_kept_and_written_metrics_only(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": 1}\n{"step": 1, "fid": null}\n{"step": 2, "fid": 3}\n')
    with log_module.MetricLog(tmp_path, step=1) as log:
        log.write(5, {"accuracy": 0.5})
        assert log.has(1, "loss")
        assert log.has(1, "fid")
        assert log.has(5, "accuracy")
        assert not log.has(2, "fid")
        assert not log.has(5, "loss")
        assert not log.has(1, "step")


def test_lines_outlive_a_killed_process(tmp_path):
    code = (
        "import os, signal, sys; from lzn_jax.run.log import MetricLog\n"
        "log = MetricLog(sys.argv[1], 0); log.write(1, {'loss': 0.25})\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)]).returncode == -9
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1, "loss": 0.25}\n'


def test_non_finite_metrics_are_null_in_the_file_and_nan_when_read(tmp_path):
    with log_module.MetricLog(tmp_path, step=0) as log:
        log.write(1, {"loss": math.nan, "norm": np.float32("inf"), "rate": np.float32(0.5)})
    line = (tmp_path / "metrics.jsonl").read_text()
    assert _strict_json(line) == {"step": 1, "loss": None, "norm": None, "rate": 0.5}
    metrics = log_module.read_metrics(tmp_path)
    assert math.isnan(metrics["loss"][1][0])
    assert math.isnan(metrics["norm"][1][0])


def test_a_metric_called_step_is_refused(tmp_path):
    with log_module.MetricLog(tmp_path, step=0) as log, pytest.raises(ValueError, match="'step'"):
        log.write(1, {"step": 3.0})


def test_read_metrics_gathers_each_name_over_the_lines(tmp_path):
    with log_module.MetricLog(tmp_path, step=0) as log:
        log.write(10, {"loss": 2.0, "rate": 5})
        log.write(20, {"loss": 1.0})
        log.write(20, {"fid": 7.5})
    with open(tmp_path / "metrics.jsonl", "ab") as file:
        file.write(b"[" * 100_000 + b"\n")
        file.write(b'{"step": 30, "loss": 0.')
    metrics = log_module.read_metrics(tmp_path)
    assert {name: (s.tolist(), v.tolist()) for name, (s, v) in metrics.items()} == {
        "loss": ([10, 20], [2.0, 1.0]),
        "rate": ([10], [5.0]),
        "fid": ([20], [7.5]),
    }


def test_tensorboard_shows_a_restarted_run_once(tmp_path):
    picture = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)
    Image.fromarray(picture).save(tmp_path / "picture.png")
    with log_module.MetricLog(tmp_path, step=0) as log:
        for step in (1, 2, 3):
            log.write(step, {"loss": float(step)})
    with log_module.MetricLog(tmp_path, step=2) as log:
        log.write(3, {"loss": 30.0})
        log.image(3, "samples", tmp_path / "picture.png")
    events = _events(tmp_path)
    scalars = [(event.step, event.value) for event in events.Scalars("loss")]
    assert scalars == [(1, 1.0), (2, 2.0), (3, 30.0)]
    (image,) = events.Images("samples")
    shown = np.asarray(Image.open(io.BytesIO(image.encoded_image_string)))
    np.testing.assert_array_equal(shown, picture)
    assert image.step == 3


def test_write_json_keeps_order_and_writes_valid_json(tmp_path):
    path = tmp_path / "new" / "summary.json"
    value = {"z": 1, "a": {"rate": math.inf, "shape": (2, np.int64(3))}, "b": np.ones(2)}
    files.write_json(path, value)
    text = path.read_text()
    assert list(_strict_json(text)) == ["z", "a", "b"]
    assert _strict_json(text) == {"z": 1, "a": {"rate": None, "shape": [2, 3]}, "b": [1.0, 1.0]}
    assert text.startswith('{\n  "z": 1,\n')
    assert text.endswith("}\n")


def test_write_json_of_what_json_cannot_hold_leaves_the_file(tmp_path):
    path = tmp_path / "summary.json"
    files.write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        files.write_json(path, {"a": 2, "b": object()})
    assert json.loads(path.read_text()) == {"a": 1}


def test_a_write_that_is_cut_short_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    path = tmp_path / "summary.json"
    files.write_bytes(path, b"old")

    def fail(descriptor):
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        files.write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_ends_the_log_with_its_error_and_does_not_block(
    tmp_path, small_files_only, capfd
):
    noise = np.random.default_rng(0).integers(0, 256, (700, 700, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")

    def log_until_it_fails():
        with log_module.MetricLog(tmp_path, 0) as log:
            small_files_only()
            log.image(1, "noise", tmp_path / "noise.png")  # fails in TensorBoard's thread
            for step in range(2, 6000):
                log.write(step, {"loss": 1.0})
                time.sleep(0.01)

    with pytest.raises(OSError, match="File too large"):
        log_until_it_fails()
    assert capfd.readouterr().err == ""


def _damages():
    """Contents of damaged .npz files, and of files of other kinds."""
    whole, npy, objects = io.BytesIO(), io.BytesIO(), io.BytesIO()
    np.savez_compressed(whole, a=np.arange(4000) % 7, b=np.ones((30, 2)))
    np.save(npy, np.ones(3))
    np.savez(objects, a=np.array([print], object))
    content = whole.getvalue()
    for length in range(0, len(content), 60):
        yield f"cut at {length}", content[:length]
    for place in (26, 60, 70, 150):  # in names, headers and compressed data
        yield (
            f"byte {place}",
            content[:place] + bytes([content[place] ^ 255]) + content[place + 1 :],
        )
    yield "one array", npy.getvalue()
    yield "objects, which would run code", objects.getvalue()


@pytest.mark.parametrize(("kind", "content"), [pytest.param(*d, id=d[0]) for d in _damages()])
def test_a_damaged_file_of_arrays_is_one_line(kind, content, tmp_path):
    path = tmp_path / "arrays.npz"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"arrays\.npz cannot be read as \.npz: \S") as raised:
        files.read_arrays(path)
    assert "\n" not in str(raised.value)


def test_arrays_are_read_as_they_were_written(tmp_path):
    files.write_arrays(tmp_path / "a.npz", a=np.arange(3), b=np.array("text"))
    found = files.read_arrays(tmp_path / "a.npz")
    assert found["a"].tolist() == [0, 1, 2]
    assert str(found["b"]) == "text"
