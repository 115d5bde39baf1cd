"""The folder of a run: which code it was made by, and what happens to it while it runs."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
import small

from lzn_jax.errors import UserError
from lzn_jax.run import workdir as workdirs


def test_the_commit_is_that_of_the_launcher_or_of_git_or_unknown(monkeypatch, tmp_path):
    monkeypatch.setenv("LZN_COMMIT", "abc")
    assert workdirs.code_version()["commit"] == "abc"
    monkeypatch.delenv("LZN_COMMIT")
    # A copy that lies in a repository of something else.
    subprocess.run(["git", "init", "--quiet", tmp_path], check=True)
    copy = tmp_path / "workdir.py"
    copy.touch()
    with monkeypatch.context() as patch:
        patch.setattr(workdirs, "__file__", str(copy))
        assert workdirs.code_version()["commit"] is None
    with monkeypatch.context() as patch:
        patch.setenv("PATH", "")  # without git
        assert workdirs.code_version()["commit"] is None


def test_the_commit_of_a_checkout_is_its_head(monkeypatch):
    monkeypatch.delenv("LZN_COMMIT", raising=False)
    command = ["git", "-C", Path(workdirs.__file__).parent, "rev-parse", "HEAD"]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        pytest.skip("not a checkout")
    assert workdirs.code_version()["commit"].removesuffix("-dirty") == result.stdout.strip()


def _error(number, *path):
    return OSError(number, os.strerror(number), *path)


def test_errors_of_the_disk_and_in_the_folder_are_one_line(tmp_path):
    for error, reason in (
        (_error(errno.ENOSPC), "No space left on device"),
        (_error(errno.EROFS, "/elsewhere"), "Read-only file system"),
        (_error(errno.ENOENT, str(tmp_path / "figures" / "a.png")), "No such file"),
        (_error(errno.EACCES, tmp_path / "summary.json"), "Permission denied"),
    ):
        with (
            pytest.raises(UserError, match=f"{tmp_path} can no longer be written .{reason}"),
            workdirs.guarded(tmp_path),
        ):
            raise error


def test_other_errors_stay_what_they_are(tmp_path):
    for error in (_error(errno.ENOENT, "/elsewhere"), _error(errno.EPIPE), ValueError("no")):
        with pytest.raises(type(error)) as caught, workdirs.guarded(tmp_path):
            raise error
        assert caught.value is error


def test_a_second_process_does_not_train_in_the_same_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(workdirs, "LOCK_SECONDS", 0.0)
    code = f"""
import pathlib
from lzn_jax.run import workdir
with workdir.locked(pathlib.Path({str(tmp_path)!r})):
    print(flush=True)
    input()
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        other.stdout.readline()
        with (
            pytest.raises(UserError, match=f"another process trains in {tmp_path}"),
            workdirs.locked(tmp_path),
        ):
            pytest.fail("both train")
        other.kill()
        other.wait()
        with workdirs.locked(tmp_path):
            pass


def test_a_config_that_failed_before_its_first_update_is_no_run(tmp_path):
    workdirs.prepare(small.config(), tmp_path, is_training=True)
    assert not (tmp_path / "config.json").exists()
    workdirs.record(small.config(), tmp_path)
    other = small.config(latent__dim=5)
    workdirs.prepare(other, tmp_path, is_training=True)
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n')
    with pytest.raises(UserError, match=r"holds a run with latent\.dim=4"):
        workdirs.prepare(other, tmp_path, is_training=True)


def test_a_folder_that_has_gone_is_found(tmp_path):
    workdirs.check_there(tmp_path)
    with (
        pytest.raises(UserError, match="No such file or directory"),
        workdirs.guarded(tmp_path / "run"),
    ):
        workdirs.check_there(tmp_path / "run")
