"""Checkpoints: what is damaged is found and named, and the newest good one is used."""

import errno
import functools
import os
import shutil
import subprocess
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import small

from lzn_jax import files as files_module
from lzn_jax.errors import UserError
from lzn_jax.run import checkpoints, devices
from lzn_jax.run.checkpoints import Checkpoints


@functools.cache
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
    assert len(listed) == len([path for path in _files(folder) if path.parent != folder])


@pytest.mark.parametrize("position", [0.5, *small.slow(0.0, 1.0)])
def test_a_changed_byte_in_any_file_is_found_and_the_file_named(position, workdir, caplog):
    folder = workdir / "checkpoints" / "2"
    files = [folder / "SHA256SUMS", *(p for p in _files(folder) if p.parent != folder)]
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


def _emptied(newest, _):
    shutil.rmtree(newest)
    newest.mkdir()


def _of_an_earlier_step(newest, older):
    shutil.copytree(older / "progress", newest / "progress", dirs_exist_ok=True)
    names = [path.relative_to(newest).as_posix() for path in _files(newest / "progress")]
    files_module.add_files(newest, names)


# What is done to the newest checkpoint, and what is said of it.
DAMAGE = {
    "missing file": (
        lambda newest, _: (newest / "ema/manifest.ocdbt").unlink(),
        "2 is skipped: file ema/manifest.ocdbt is missing",
    ),
    "missing item": (
        lambda newest, _: shutil.rmtree(newest / "optimizer"),
        "2 is skipped: item optimizer is missing",
    ),
    "empty folder": (_emptied, "2 is skipped: item "),
    "another step": (_of_an_earlier_step, "2 is skipped: it belongs to step 1"),
    "another name": (
        lambda newest, _: newest.rename(newest.with_name("3")),
        "3 is skipped: it belongs to step 2",
    ),
    "no list": (
        lambda newest, _: (newest / "SHA256SUMS").write_bytes(bytes(3000)),
        "2 is skipped: file SHA256SUMS is not a list",
    ),
    "no file of checksums": (
        lambda newest, _: (newest / "SHA256SUMS").unlink(),
        "2 is skipped: file context/_METADATA has no checksum",
    ),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_one_line_and_the_one_before_is_used(kind, workdir, caplog):
    folder = workdir / "checkpoints"
    damage, said = DAMAGE[kind]
    damage(folder / "2", folder / "1")
    step, items = _restore(workdir)
    assert step == 1
    _assert_holds(items, 1)
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith(f"checkpoint {said}")


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


# What libraries say beside the error may differ.
@pytest.mark.filterwarnings("ignore")
def test_a_save_that_fails_is_the_users_error_and_the_ones_before_it_stay(
    workdir, small_files_only
):
    with pytest.raises(UserError, match=r"checkpoint 3 could not .* \(File too large\)"):
        _save_third(workdir, small_files_only, _check_until_it_fails)
    with pytest.raises(UserError, match="checkpoint 3 could not"):  # at the end at the latest
        _save_third(workdir)
    assert _restore(workdir)[0] == 2


@pytest.mark.filterwarnings("ignore")
def test_what_ends_a_run_is_not_hidden_by_a_failed_save(workdir, small_files_only, caplog):
    def fail(saved):
        raise KeyError

    with pytest.raises(KeyError):
        _save_third(workdir, small_files_only, fail)
    assert "checkpoint 3 could not" in caplog.text


def test_a_disk_that_is_read_only_or_gone_is_the_users_error(workdir, monkeypatch):
    def refuse(*_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    with pytest.raises(UserError, match=r"Read-only file system.*run the same command"):
        _save_third(workdir, lambda: monkeypatch.setattr("os.mkdir", refuse))
    monkeypatch.undo()
    assert _restore(workdir)[0] == 2
    with pytest.raises(UserError, match="No such file or directory"):
        _save_third(workdir, lambda: shutil.rmtree(workdir))
    assert not workdir.exists()  # Orbax would make it again


def test_a_fault_of_ours_in_the_saving_thread_stays_one(workdir, monkeypatch):
    def fail(*_):
        raise ZeroDivisionError

    monkeypatch.setattr(files_module, "add_files", fail)
    with pytest.raises(ZeroDivisionError):
        _save_third(workdir)
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
