"""The Hub's client with a local server's address and an empty cache."""

import shutil
import socket
import sys
import time

import pytest


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """The port of the Hub and the folder of its client, which reads both when it is imported."""
    with socket.socket() as free, pytest.MonkeyPatch.context() as patch:
        free.bind(("127.0.0.1", 0))
        port, home = free.getsockname()[1], tmp_path_factory.mktemp("hub")
        patch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{port}")
        patch.setenv("HF_HOME", str(home))
        patch.setenv("HF_HUB_DISABLE_XET", "1")  # large files go by the protocol of Git LFS
        for name in ("HF_HUB_CACHE", "HF_HUB_OFFLINE", "HF_TOKEN"):
            patch.delenv(name, raising=False)
        for name in [name for name in sys.modules if name.startswith("huggingface_hub")]:
            patch.delitem(sys.modules, name)
        free.close()
        yield port, home


@pytest.fixture
def client(place, monkeypatch):
    """An empty cache, and no waiting between attempts."""
    shutil.rmtree(place[1] / "hub", ignore_errors=True)
    monkeypatch.setattr(time, "sleep", lambda _: None)
