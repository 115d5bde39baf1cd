"""The Hugging Face Hub as a dict of files, behind its client's functions and their signatures."""

import contextlib
import fnmatch
import hashlib
import os
from types import SimpleNamespace
from unittest import mock

import huggingface_hub
import pytest

REVISION = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """One repository with the contents `files`; `error` is raised for what the cache lacks."""

    def __init__(self, cache):
        self.cache, self.files, self.fetched, self.commits = cache, {".gitattributes": b""}, [], 0
        self.error = self.checksum = self.is_private = None

    def hf_hub_download(self, repo_id, filename):
        return str(self._snapshot([filename]) / filename)

    def snapshot_download(self, repo_id, *, allow_patterns):
        return str(self._snapshot([name for name in self.files if name in allow_patterns]))

    def _snapshot(self, names):
        """Links of a snapshot lead to files that are named by their checksums."""
        folder = self.cache / "snapshots" / REVISION
        for path in [folder / name for name in names if not (folder / name).exists()]:
            self._fail()
            name = path.relative_to(folder).as_posix()
            blob = self.cache / (self.checksum or hashlib.sha256(self.files[name]).hexdigest())
            path.parent.mkdir(parents=True, exist_ok=True)
            blob.write_bytes(self.files[name])
            path.symlink_to(os.path.relpath(blob, path.parent))
            self.fetched.append(name)
        return folder

    def _fail(self):
        if self.error:
            raise self.error

    def create_repo(self, api, repo_id, *, private, exist_ok):
        self._fail()
        self.is_private = bool(private) if self.is_private is None else self.is_private
        return f"https://hub/{repo_id}"

    def model_info(self, api, repo_id):
        names = [SimpleNamespace(rfilename=name) for name in self.files]
        return SimpleNamespace(siblings=names, private=self.is_private, sha=REVISION)

    def upload_folder(
        self, api, *, repo_id, folder_path, commit_message, parent_commit, delete_patterns
    ):
        for name in list(self.files):
            if any(fnmatch.fnmatchcase(name, pattern) for pattern in delete_patterns):
                del self.files[name]
        for path in folder_path.rglob("*"):
            if path.is_file():
                self.files[path.relative_to(folder_path).as_posix()] = path.read_bytes()
        self.commits += 1


@pytest.fixture
def server(tmp_path):
    """The Hub in place of its client's functions, with an empty cache."""
    hub, api = Hub(tmp_path / "cache"), ("create_repo", "model_info", "upload_folder")
    functions = [(huggingface_hub, name) for name in ("hf_hub_download", "snapshot_download")]
    with contextlib.ExitStack() as stack:
        for owner, name in functions + [(huggingface_hub.HfApi, name) for name in api]:
            effect = getattr(hub, name)
            stack.enter_context(mock.patch.object(owner, name, autospec=True, side_effect=effect))
        yield hub
