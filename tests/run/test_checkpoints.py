"""Checkpoints: what is damaged is found and named, and the newest good one is used."""

import errno
import json
import logging
import os
import shutil
import subprocess
import sys
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lzn_jax.errors import UserError
from lzn_jax.run import checkpoints, devices
from lzn_jax.run import files as files_module
from lzn_jax.run.checkpoints import Checkpoints


def _items(step):
    params = {"encoder": {"w": jax.random.normal(jax.random.key(step), (40, 50))}}
    return {
        "params": params,
        "ema": {"params": params, "constants": {"encoder": {"f": jnp.arange(3.0)}}},
        "optimizer": optax.adam(1e-3).init(params),
        "context": {"anchors": jnp.full((4, 2), step, jnp.bfloat16)},
    }


def _targets(names=("params", "ema", "optimizer", "context")):
    mesh = devices.make_mesh(1, jax.devices()[:1])
    return devices.placed({name: _items(0)[name] for name in names}, mesh)


def _save(workdir, *steps):
    with Checkpoints(workdir, 5) as saved:
        for step in steps:
            saved.save(step, _items(step), {"step": step, "skipped": 0})
    return workdir / "checkpoints"


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """A folder with checkpoints 1 and 2, to be copied."""
    workdir = tmp_path_factory.mktemp("two")
    _save(workdir, 1, 2)
    return workdir


@pytest.fixture
def workdir(two, tmp_path):
    shutil.copytree(two, tmp_path / "run")
    return tmp_path / "run"


def _restore(workdir, names=("params", "ema", "optimizer", "context")):
    with Checkpoints(workdir) as saved:
        return saved.restore(_targets(names))


def _assert_holds(items, step):
    assert items["progress"] == {"step": step, "skipped": 0}
    for name in items.keys() - {"progress"}:
        jax.tree.map(np.testing.assert_array_equal, items[name], _items(step)[name])


def _flip(path, position):
    content = bytearray(path.read_bytes())
    content[int(position * (len(content) - 1))] ^= 4
    path.write_bytes(content)


def _files(folder):
    return [path for path in sorted(folder.rglob("*")) if path.is_file()]


def test_what_is_saved_comes_back_and_other_tools_can_verify_it(workdir, caplog):
    step, items = _restore(workdir)
    assert step == 2
    _assert_holds(items, 2)
    assert not caplog.records
    folder = workdir / "checkpoints" / "2"
    result = subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=folder, capture_output=True)
    assert result.returncode == 0
    listed = (folder / "SHA256SUMS").read_text().splitlines()
    assert len(listed) == len(_files(folder)) - 1  # every file but the list itself


@pytest.mark.parametrize("position", [0.0, 0.5, 1.0])
def test_a_changed_byte_in_any_file_is_found_and_the_file_named(position, workdir, caplog):
    folder = workdir / "checkpoints" / "2"
    files = _files(folder)
    assert len(files) > 20
    for path in files:
        whole = path.read_bytes()
        _flip(path, position)
        caplog.clear()
        step, items = _restore(workdir)
        assert step == 1, path
        _assert_holds(items, 1)
        (line,) = [record.getMessage() for record in caplog.records]
        assert line.startswith("checkpoint 2 is skipped: ")
        if path.name != "SHA256SUMS":
            assert f"file {path.relative_to(folder)} " in line
        path.write_bytes(whole)
    assert _restore(workdir)[0] == 2


def _largest(newest, pattern):
    files = (path for path in newest.glob(pattern) if path.is_file())
    return max(files, key=lambda path: path.stat().st_size)


def _truncate(pattern, share):
    def damage(newest, _):
        path = _largest(newest, pattern)
        path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])

    return damage


def _remove(pattern):
    def damage(newest, _):
        for path in newest.glob(pattern):
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    return damage


def _take_from_older(item):
    def damage(newest, older):
        shutil.rmtree(newest / item)
        shutil.copytree(older / item, newest / item)

    return damage


def _zero_a_block(newest, _):
    path = _largest(newest, "params/d/*")
    content = path.read_bytes()
    path.write_bytes(content[:-512] + bytes(512))


def _zero_all(newest, _):
    for path in _files(newest):
        path.write_bytes(bytes(path.stat().st_size))


def _swap_two(newest, _):
    first, second = _largest(newest, "params/d/*"), _largest(newest, "optimizer/d/*")
    whole = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(whole)


def _older_progress_without_a_list(newest, older):
    _take_from_older("progress")(newest, older)
    (newest / "SHA256SUMS").unlink()


DAMAGE = {
    "half a file": _truncate("params/d/*", 0.5),
    "an empty file": _truncate("ema/d/*", 0.0),
    "a block of zeros": _zero_a_block,
    "zeros in all files": _zero_all,
    "a missing file": _remove("ema/manifest.ocdbt"),
    "a missing item": _remove("optimizer"),
    "an empty folder": _remove("*"),
    "two files in each other's place": _swap_two,
    "parameters of an older checkpoint": _take_from_older("params"),
    "progress of an older checkpoint": _older_progress_without_a_list,
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_one_line_and_the_one_before_is_used(kind, workdir, caplog):
    folder = workdir / "checkpoints"
    DAMAGE[kind](folder / "2", folder / "1")
    step, items = _restore(workdir)
    assert step == 1
    _assert_holds(items, 1)
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith("checkpoint 2 is skipped: ")


def test_a_list_of_files_that_is_none_is_named(workdir, caplog):
    (workdir / "checkpoints/2/SHA256SUMS").write_bytes(bytes(3000))
    assert _restore(workdir)[0] == 1
    assert "checkpoint 2 is skipped: file SHA256SUMS is not a list" in caplog.text


def test_a_renamed_checkpoint_is_not_taken_for_a_later_one(workdir, caplog):
    (workdir / "checkpoints" / "2").rename(workdir / "checkpoints" / "3")
    assert _restore(workdir)[0] == 1
    assert "checkpoint 3 is skipped: it belongs to step 2" in caplog.text


def test_inference_verifies_what_it_reads_and_nothing_else(workdir, caplog):
    optimizer = workdir / "checkpoints" / "2" / "optimizer"
    shutil.rmtree(optimizer)
    step, items = _restore(workdir, ("ema", "context"))
    assert step == 2
    _assert_holds(items, 2)
    _flip(next(path for path in _files(workdir / "checkpoints/2/ema/d")), 0.5)
    assert _restore(workdir, ("ema", "context"))[0] == 1
    assert "file ema/d/" in caplog.text


def test_reading_changes_nothing_even_beside_a_save_under_way(workdir):
    (workdir / "checkpoints" / "4.orbax-checkpoint-tmp").mkdir()
    _flip(workdir / "checkpoints/2/params/_METADATA", 0.5)
    before = {path: path.read_bytes() if path.is_file() else None for path in workdir.rglob("*")}
    assert _restore(workdir)[0] == 1
    after = {path: path.read_bytes() if path.is_file() else None for path in workdir.rglob("*")}
    assert after == before


def test_a_checkpoint_without_checksums_is_said_to_be_unverified(workdir, caplog):
    """Earlier versions had none, or those of arrays, in progress."""
    folder = workdir / "checkpoints" / "2"
    (folder / "SHA256SUMS").unlink()
    progress = folder / "progress" / "metadata"
    progress.write_text(json.dumps({**json.loads(progress.read_text()), "checksums": {"a": "0"}}))
    step, items = _restore(workdir)
    assert step == 2
    _assert_holds(items, 2)
    (line,) = [record.getMessage() for record in caplog.records]
    assert line == "checkpoint 2 has no SHA256SUMS and is not verified"


def test_where_none_is_good_nothing_starts_again(workdir):
    for step in (1, 2):
        shutil.rmtree(workdir / "checkpoints" / str(step))
        (workdir / "checkpoints" / str(step)).mkdir()
    with pytest.raises(UserError, match=r"no checkpoint in .* can be read"):
        _restore(workdir)
    assert _restore(workdir.parent / "new") is None
    assert not (workdir.parent / "new").exists()


def test_a_damaged_one_makes_way_and_is_kept(workdir):
    damaged = workdir / "checkpoints/2/params/_METADATA"
    _flip(damaged, 0.5)
    content = damaged.read_bytes()
    for _ in range(2):
        with Checkpoints(workdir, 2) as saved:
            step, _ = saved.restore(_targets())
            saved.set_aside_after(step)
            saved.save(2, _items(2), {"step": 2, "skipped": 0})
        assert _restore(workdir)[0] == 2
        _flip(damaged, 0.5)
    kept = sorted(path.name for path in (workdir / "checkpoints").iterdir())
    assert kept == ["1", "2", "2.damaged", "2.damaged.damaged"]
    assert (workdir / "checkpoints/2.damaged/params/_METADATA").read_bytes() == content


def _save_third(workdir, before=lambda: None, after=lambda saved: None):
    """A checkpoint of 4 MB, with something done before it and while it is being written."""
    large = {"params": np.random.default_rng(3).standard_normal((1000, 500))}
    with Checkpoints(workdir, 1) as saved:
        before()
        saved.save(3, large, {"step": 3})
        after(saved)


def _check_until_it_fails(saved):
    for _ in range(6000):  # a minute
        saved.check()
        time.sleep(0.01)


def test_a_save_that_fails_is_one_line_and_the_ones_before_it_stay(
    workdir, small_files_only, caplog, capfd
):
    with pytest.raises(UserError, match=r"checkpoint 3 could not .* \(File too large\)"):
        _save_third(workdir, small_files_only, _check_until_it_fails)
    with pytest.raises(UserError, match="checkpoint 3 could not"):  # at the end at the latest
        _save_third(workdir)
    assert _restore(workdir)[0] == 2
    assert not caplog.records
    assert capfd.readouterr().err == ""


FULL_DISK = """
import resource, signal, sys
import jax, numpy as np
from lzn_jax.run.checkpoints import Checkpoints
from lzn_jax.configuration import UserError

arrays = {str(i): jax.numpy.full((300, 300), i) for i in range(100)}
items = {"params": arrays, "ema": arrays, "optimizer": arrays}
try:
    with Checkpoints(sys.argv[1], 1) as saved:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
        saved.save(3, items, {"step": 3})
except UserError as error:
    print(error, file=sys.stderr)
"""


def test_many_arrays_that_cannot_be_written_are_one_line(workdir):
    result = subprocess.run([sys.executable, "-c", FULL_DISK, workdir], capture_output=True)
    assert result.returncode == 0
    lines = result.stderr.decode().splitlines()
    assert len(lines) == 1
    assert "checkpoint 3 could not be written" in lines[0]
    assert _restore(workdir)[0] == 2


def test_what_ends_a_run_is_not_hidden_by_a_failed_save(workdir, small_files_only, caplog):
    def fail(saved):
        raise KeyError

    with pytest.raises(KeyError):
        _save_third(workdir, small_files_only, fail)
    assert "checkpoint 3 could not" in caplog.text


def test_a_folder_that_has_gone_is_not_made_again(workdir):
    with pytest.raises(UserError, match="No such file or directory"):
        _save_third(workdir, lambda: shutil.rmtree(workdir))
    assert not workdir.exists()


def test_a_folder_that_has_gone_is_the_reason_even_where_orbax_made_it_again(workdir, monkeypatch):
    def vanish(*args, **kwargs):
        (workdir / "checkpoints").rename(workdir / "elsewhere")
        (workdir / "checkpoints").mkdir()
        raise ValueError("No ArrayMetadata found")

    monkeypatch.setattr(checkpoints.ocp.CheckpointManager, "save", vanish)
    with pytest.raises(UserError, match="No such file or directory"):
        _save_third(workdir)


def test_a_read_only_disk_is_one_line(workdir, monkeypatch):
    def refuse(*_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    with pytest.raises(UserError, match=r"Read-only file system.*run the same command"):
        _save_third(workdir, lambda: monkeypatch.setattr("os.mkdir", refuse))
    monkeypatch.undo()
    assert _restore(workdir)[0] == 2


def test_a_fault_of_ours_in_the_saving_thread_stays_one(workdir, monkeypatch, caplog):
    def fail(*_):
        raise ZeroDivisionError

    monkeypatch.setattr(files_module, "add_files", fail)
    with pytest.raises(ZeroDivisionError):
        _save_third(workdir)
    assert "checkpoint 3 could not be written" in caplog.text
    monkeypatch.undo()
    assert _restore(workdir)[0] == 2


def test_files_are_written_out_as_they_fill_up(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "FILE_SIZE", 1 << 17)
    rng = np.random.default_rng(0)
    arrays = {name: rng.standard_normal((64, 256), np.float32) for name in "abcdefghijklmnop"}
    with Checkpoints(tmp_path, keep=2) as saved:
        saved.save(1, {"params": arrays}, {"step": 1})
    sizes = [path.stat().st_size for path in _files(tmp_path / "checkpoints/1/params")]
    assert sum(sizes) > 16 * (1 << 15)  # random numbers do not get smaller by half
    assert max(sizes) <= 2 * (1 << 17)


def test_a_slow_save_is_reported_while_it_is_slow(workdir, monkeypatch, caplog):
    monkeypatch.setattr(checkpoints, "SLOW_SAVE_SECONDS", 0.1)
    reported = threading.Event()
    add_files = files_module.add_files

    def slow(*arguments):
        reported.wait(60)
        add_files(*arguments)

    class Handler(logging.Handler):
        def emit(self, record):
            reported.set()

    monkeypatch.setattr(files_module, "add_files", slow)
    handler = Handler()
    checkpoints._log.addHandler(handler)
    with Checkpoints(workdir, 2) as saved:
        saved.save(3, _items(3), {"step": 3, "skipped": 0})
    checkpoints._log.removeHandler(handler)
    assert caplog.text.count("writing checkpoint 3 has taken more than") == 1
    assert _restore(workdir)[0] == 3


def test_the_watch_for_a_slow_save_ends_with_it_though_nobody_has_waited(workdir):
    with Checkpoints(workdir, 2) as saved:
        saved.save(3, _items(3), {"step": 3, "skipped": 0})
        for timer in [t for t in threading.enumerate() if isinstance(t, threading.Timer)]:
            timer.join(30)
            assert not timer.is_alive()


def test_what_orbax_says_of_a_failed_write_is_left_out(tmp_path, caplog):
    with Checkpoints(tmp_path, 1):
        pass
    log = logging.getLogger("asyncio")
    log.error("Task exception was never retrieved, defined at lib/orbax/checkpoint/x.py")
    log.error("Task exception was never retrieved, defined at mine.py")
    assert [record.message.split()[-1] for record in caplog.records] == ["mine.py"]
