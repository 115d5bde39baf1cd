"""The folder of a run: which code it was made by."""

import subprocess
from pathlib import Path

import pytest

from lzn_jax import workdir


def test_the_commit_is_that_of_the_launcher_or_of_git_or_unknown(monkeypatch, tmp_path):
    monkeypatch.setenv("LZN_COMMIT", "abc")
    assert workdir.code_version()["commit"] == "abc"
    monkeypatch.delenv("LZN_COMMIT")
    # A copy that lies in a repository of something else.
    subprocess.run(["git", "init", "--quiet", tmp_path], check=True)
    copy = tmp_path / "workdir.py"
    copy.touch()
    with monkeypatch.context() as patch:
        patch.setattr(workdir, "__file__", str(copy))
        assert workdir.code_version()["commit"] is None
    with monkeypatch.context() as patch:
        patch.setenv("PATH", "")  # without git
        assert workdir.code_version()["commit"] is None


def test_the_commit_of_a_checkout_is_its_head(monkeypatch):
    monkeypatch.delenv("LZN_COMMIT", raising=False)
    command = ["git", "-C", Path(workdir.__file__).parent, "rev-parse", "HEAD"]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        pytest.skip("not a checkout")
    assert workdir.code_version()["commit"].removesuffix("-dirty") == result.stdout.strip()
