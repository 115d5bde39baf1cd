"""Released checkpoints from the Hub: cached and checked, and what is refused."""

import hashlib
import sys

import pytest

from lzn_jax import convert
from lzn_jax.errors import UserError
from lzn_jax.release import hub

NAME, FILE = "cifar10_gen", hub.FILES["cifar10_gen"]
CONTENT = bytes(range(256))
DIGEST = hashlib.sha256(CONTENT).hexdigest()


def test_a_checkpoint_is_downloaded_once_and_named_by_its_checksum(server):
    server.files[FILE] = CONTENT
    first = hub.fetch(NAME)
    server.error = ConnectionError("the cache does without the Hub")
    assert hub.fetch(NAME) == first
    assert first.path.read_bytes() == CONTENT
    assert first.origin == {
        "repository": "microsoft/latent-zoning-networks",
        "revision": "0123456789abcdef0123456789abcdef01234567",
        "file": "lzn1/case_study_1_cifar10/000002000-000050000.pt",
        "sha256": DIGEST,
    }


@pytest.mark.parametrize("is_changed_later", [False, True])
def test_a_damaged_file_leaves_the_cache(is_changed_later, server):
    server.files[FILE] = CONTENT
    server.checksum = None if is_changed_later else "0" * 64
    if is_changed_later:
        hub.fetch(NAME).path.resolve().write_bytes(CONTENT[:-1])
    with pytest.raises(UserError, match=r"is damaged: its sha256 is .*, the Hub's"):
        hub.fetch(NAME)
    server.checksum = None
    assert hub.fetch(NAME).path.read_bytes() == CONTENT


REFUSALS = {  # flags, and contents of the line
    "no network": (
        [f"--released={NAME}"],
        f"{FILE} cannot be fetched from microsoft/latent-zoning-networks (Connection refused): run "
        "the same command again, or use a local file with --checkpoint=FILE.pt",
    ),
    "no client": ([f"--released={NAME}"], "pip install -e '.[hub]'"),
    "no checkpoint": ([f"--released={NAME}"], "cannot be read as a PyTorch file"),
    "no config": (["--checkpoint=x.pt"], "name the config of the checkpoint with --config"),
    "nothing": ([], "one of the arguments --checkpoint --released is required"),
    "full folder": ([f"--released={NAME}"], "already has checkpoints"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_what_cannot_be_converted_is_one_line(case, server, tmp_path, capsys, monkeypatch):
    flags, expected = REFUSALS[case]
    server.files[FILE] = b"<html>"
    monkeypatch.setattr(convert, "network_layouts", lambda config: {})  # takes seconds
    if case == "no network":
        server.error = ConnectionError("Connection refused")
    if case == "no client":
        monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    if case == "full folder":
        (tmp_path / "run" / "checkpoints" / "1").mkdir(parents=True)
    assert convert.main([f"--workdir={tmp_path / 'run'}", *flags]) == 2
    *_, line = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: ")
    assert expected in line
    assert server.fetched == ([FILE] if case == "no checkpoint" else [])
    assert (tmp_path / "run").exists() == (case == "full folder")
