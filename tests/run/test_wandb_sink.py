"""Weights & Biases beside TensorBoard: offline, the same run when it goes on, trouble in a line."""

import logging
import struct
import subprocess
import sys

import numpy as np
import pytest
import small
from PIL import Image

from lzn_jax.errors import UserError
from lzn_jax.run import log as log_module

SETTING = {"reporting__wandb_project": "zones"}
BLOCK = 32768


@pytest.fixture(autouse=True)
def nowhere_to_send(monkeypatch, tmp_path):
    """Neither a network nor an account, whatever this machine has."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("NETRC", str(tmp_path / "no_account"))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)


def logged(workdir):
    """Records of each of its processes, in the order of their starts."""
    import wandb
    from wandb.proto.wandb_internal_pb2 import Record

    wandb.teardown()  # its process ends, and has written
    files = sorted(workdir.glob("wandb/offline-run-*/*.wandb"))
    return [[Record.FromString(each) for each in stored(path.read_bytes())] for path in files]


def stored(content):
    """What a file holds in LevelDB's log format, after its header."""
    place, parts = 7, []
    while place + 7 <= len(content):
        left = BLOCK - place % BLOCK
        if left < 7:  # no room for the head of a part
            place += left
            continue
        _, length, kind = struct.unpack("<IHB", content[place : place + 7])
        parts.append(content[place + 7 : place + 7 + length])
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield b"".join(parts)
            parts = []


def history(records):
    """Values by metric of all steps."""
    items = [item for record in records for item in record.history.item]
    return [("/".join(item.nested_key) or item.key, item.value_json) for item in items]


def test_a_run_goes_on_as_the_same_run_with_metrics_config_and_pictures(tmp_path):
    config = small.config(**SETTING)
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "picture.png")
    for step in (0, 2):
        sink = log_module.start(config, tmp_path)
        with log_module.MetricLog(tmp_path, step, sink) as log:
            log.write(step + 1, {"loss": 0.25 + step})
            log.image(step + 2, "samples", tmp_path / "picture.png")
            log.write(step + 2, {"loss": 0.5 + step})
    first, second = logged(tmp_path)
    for start, records in ((0.0, first), (2.0, second)):
        (run,) = (record.run for record in records if record.HasField("run"))
        assert run.run_id == (tmp_path / log_module.ID_FILE).read_text()
        assert run.project == "zones"
        assert any(item.key == "latent" for item in run.config.update)
        losses = [float(value) for name, value in history(records) if name == "loss"]
        assert losses == [0.25 + start, 0.5 + start]
        steps = [int(value) for name, value in history(records) if name == "_step"]
        assert steps == [start + 1, start + 2]
        pictured = [record.history for record in records if "samples" in str(record.history)]
        assert [history.step.num for history in pictured] == [start + 2]
    assert log_module.read_metrics(tmp_path)["loss"][1].tolist() == [0.25, 0.5, 2.25, 2.5]


def test_nothing_is_imported_unless_it_is_asked_for(tmp_path):
    code = (
        "import sys; from lzn_jax import convert, loading, train; "
        "sys.exit(bool({'wandb', 'huggingface_hub'} & sys.modules.keys()))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert log_module.start(small.config(), tmp_path) is None
    assert list(tmp_path.iterdir()) == []


def refused(workdir, **setting):
    with pytest.raises(UserError) as caught:
        log_module.start(small.config(**(setting or SETTING)), workdir)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_bad_name_a_missing_account_and_a_missing_package_are_one_line(tmp_path, monkeypatch):
    import wandb

    assert "Invalid project name" in refused(tmp_path, reporting__wandb_project="a/b")

    def without_account(**_):
        raise wandb.errors.UsageError("No API key configured.\nUse `wandb login` to log in.")

    monkeypatch.setattr(wandb, "init", without_account)
    assert "(No API key configured. Use `wandb login` to log in.): run" in refused(tmp_path)
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert "pip install -e '.[wandb]'" in refused(tmp_path)


def test_a_service_that_ends_ends_no_run(tmp_path, caplog):
    class Ended:
        def log(self, *_, **__):
            raise ConnectionResetError("Connection lost")

        finish = log

    caplog.set_level(logging.WARNING, "lzn_jax")
    with log_module.MetricLog(tmp_path, 0, log_module.WandbSink(Ended(), str)) as log:
        for step in (1, 2):
            log.write(step, {"loss": 0.5})
    assert log_module.read_metrics(tmp_path)["loss"][0].tolist() == [1, 2]
    (record,) = caplog.records
    assert "continues without it" in record.getMessage()
