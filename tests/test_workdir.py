"""The folder of a run, while it runs."""

import errno
import os

import pytest

from lzn_jax import workdir as workdirs
from lzn_jax.configuration import UserError


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


def test_a_folder_that_has_gone_is_found(tmp_path):
    workdirs.check_there(tmp_path)
    with (
        pytest.raises(UserError, match="No such file or directory"),
        workdirs.guarded(tmp_path / "run"),
    ):
        workdirs.check_there(tmp_path / "run")
