"""The folder of a run: which code it was made by, and what happens to it while it runs."""

import contextlib
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
    command = ["git", "-C", Path(workdirs.__file__).parent, "rev-parse", "HEAD"]
    if (result := subprocess.run(command, capture_output=True, text=True)).returncode == 0:
        assert workdirs.code_version()["commit"].removesuffix("-dirty") == result.stdout.strip()
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


def _error(number, *path):
    return OSError(number, os.strerror(number), *path)


ONE_LINE = "cannot be written"


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (_error(errno.ENOSPC), f"{ONE_LINE} .No space left on device"),
        (_error(errno.EROFS, "/elsewhere"), f"{ONE_LINE} .Read-only file system"),
        (_error(errno.ENOENT, "run"), f"{ONE_LINE} .No such file"),  # the folder has gone
        (_error(errno.ENOENT, "run/figures/a.png"), f"{ONE_LINE} .No such file"),
        (_error(errno.EACCES, Path("run/summary.json")), f"{ONE_LINE} .Permission denied"),
        (_error(errno.ENOENT, "/elsewhere"), None),
        (_error(errno.EPIPE), None),
        (_error(errno.ENAMETOOLONG, "run/long"), None),
        (ValueError("no"), None),
    ],
)
def test_errors_of_the_disk_and_in_the_folder_are_the_users_and_others_stay(error, reason):
    kind = UserError if reason else type(error)
    with pytest.raises(kind, match=reason) as caught, workdirs.guarded(Path("run")):
        raise error
    assert reason or caught.value is error


def test_a_second_process_does_not_train_in_the_same_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(workdirs, "LOCK_SECONDS", 0.0)
    code = f"""
import fcntl
file = open({str(tmp_path / workdirs.LOCK_FILE)!r}, "w")
fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
print(flush=True)
input()
"""
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        with (
            pytest.raises(UserError, match=f"another process trains in {tmp_path}"),
            workdirs.locked(tmp_path),
        ):
            pytest.fail("both train")
        other.kill()
        other.wait()
        with workdirs.locked(tmp_path):
            refused = subprocess.run(command, capture_output=True, text=True)
    assert "BlockingIOError" in refused.stderr


def test_solvers_of_a_pair_are_free_at_inference_as_those_of_the_group_are(tmp_path):
    fields = {"solver": "dpm", "num_steps": 7, "cutoff": 0.5}
    workdirs.record(small.config(), tmp_path)
    for name, value in fields.items():
        config = small.config(**{f"alignment__image_to_label__{name}": value})
        refused = pytest.raises(UserError, match=f"run with alignment.image_to_label.{name}=None")
        with refused:
            workdirs.check_same_run(config, tmp_path)
        with refused if name == "cutoff" else contextlib.nullcontext():
            workdirs.check_same_run(config, tmp_path, workdirs._FREE_AT_INFERENCE)


def test_a_config_that_failed_before_its_first_update_is_no_run(tmp_path):
    workdirs.prepare(small.config(), tmp_path, is_training=True)
    assert not (tmp_path / "config.json").exists()
    workdirs.record(small.config(), tmp_path)
    other = small.config(latent__dim=5)
    workdirs.prepare(other, tmp_path, is_training=True)
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n')
    with pytest.raises(UserError, match=r"holds a run with latent\.dim=4"):
        workdirs.prepare(other, tmp_path, is_training=True)
