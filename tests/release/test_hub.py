"""Released checkpoints from a local server that speaks the Hub's protocol: cached and checked."""

import hashlib
import sys

import hub_server
import pytest

from lzn_jax import convert
from lzn_jax.errors import UserError
from lzn_jax.release import hub

NAME, FILE = "cifar10_gen", hub.FILES["cifar10_gen"]
CONTENT = bytes(range(256)) * 4096
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def server(place, client):
    server = hub_server.Hub(hub.REPOSITORY, place[0])
    server.files[FILE] = CONTENT
    yield server
    server.close()


def test_a_checkpoint_is_downloaded_once_and_named_by_its_checksum(server):
    first, again = hub.fetch(NAME), hub.fetch(NAME)
    assert first == again
    assert first.path.read_bytes() == CONTENT
    assert first.origin == {
        "repository": "microsoft/latent-zoning-networks",
        "revision": hub_server.REVISION,
        "file": "lzn1/case_study_1_cifar10/000002000-000050000.pt",
        "sha256": DIGEST,
    }
    assert server.requests.count(("GET", FILE, "")) == 1


def test_the_cache_does_without_the_hub(server):
    first = hub.fetch(NAME)
    server.status = 503
    assert hub.fetch(NAME) == first


def test_a_download_that_breaks_off_goes_on_where_it_was(server):
    server.files[FILE] = content = CONTENT * 24  # the client takes pieces of 10 MiB
    server.cuts = 1
    assert hub.fetch(NAME).path.read_bytes() == content
    asked = [place for method, name, place in server.requests if (method, name) == ("GET", FILE)]
    assert asked == ["", f"bytes={10 * 2**20}-"]


def test_a_damaged_file_leaves_the_cache(server):
    server.checksum = "0" * 64
    with pytest.raises(UserError, match=f"damaged: its sha256 is {DIGEST}, the Hub's 0{{64}}"):
        hub.fetch(NAME)
    server.checksum = None
    assert hub.fetch(NAME).path.read_bytes() == CONTENT


def test_a_file_that_changes_in_the_cache_is_fetched_anew(server):
    path = hub.fetch(NAME).path
    path.resolve().write_bytes(CONTENT[:-1])
    with pytest.raises(UserError, match="damaged"):
        hub.fetch(NAME)
    assert hub.fetch(NAME).path.read_bytes() == CONTENT


def refusal(tmp_path, capsys, *flags):
    """The one line with which the command ends."""
    arguments = [f"--workdir={tmp_path / 'run'}", *flags]
    assert convert.main(arguments) == 2
    *_, line = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: ")
    assert not (tmp_path / "run").exists()
    return line


@pytest.mark.usefixtures("client")
def test_without_a_network_one_line_says_what_else_can_be_done(tmp_path, capsys):
    line = refusal(tmp_path, capsys, f"--released={NAME}")
    assert f"{FILE} cannot be fetched from microsoft/latent-zoning-networks" in line
    assert "Connection refused" in line
    assert "--checkpoint=FILE.pt" in line


# What goes wrong, what the server does, and what the line says of it.
TROUBLE = {
    "download that always breaks": ({"cuts": 100}, "cannot be fetched"),
    "checksum": ({"checksum": "1" * 64}, "it was removed from the cache: run the same command"),
    "no such file": ({"files": {}}, "404"),
    "private": ({"status": 401}, "401"),
    "broken server": ({"status": 500}, "500"),
    "another server": ({"is_hub": False}, "cannot be fetched"),
    "no checkpoint": ({"files": {FILE: b"<html>"}}, "000002000-000050000.pt"),
}


@pytest.mark.parametrize("case", TROUBLE)
def test_trouble_of_the_hub_is_one_line(case, server, tmp_path, capsys):
    changes, expected = TROUBLE[case]
    for name, value in changes.items():
        setattr(server, name, value)
    assert expected in refusal(tmp_path, capsys, f"--released={NAME}")


BAD_FLAGS = {
    "unknown name": (["--released=cifar"], "--released: invalid choice: 'cifar' (choose from "),
    "one of ours": (["--released=digits_gen"], "--released: invalid choice: 'digits_gen'"),
    "two files": (
        [f"--released={NAME}", "--checkpoint=x.pt"],
        "not allowed with argument --released",
    ),
    "no config": (["--checkpoint=x.pt"], "name the config of the checkpoint with --config"),
    "nothing": ([], "one of the arguments --checkpoint --released is required"),
    "field": ([f"--released={NAME}", "--config.latent.dimm=1"], "the nearest is latent.dim"),
}


@pytest.mark.parametrize("case", BAD_FLAGS)
def test_bad_flags_are_one_line_before_anything_is_fetched(case, server, tmp_path, capsys):
    flags, expected = BAD_FLAGS[case]
    assert expected in refusal(tmp_path, capsys, *flags)
    assert server.requests == []


def test_a_folder_with_checkpoints_is_refused_before_anything_is_fetched(server, tmp_path, capsys):
    (tmp_path / "checkpoints" / "1").mkdir(parents=True)
    assert convert.main([f"--workdir={tmp_path}", f"--released={NAME}"]) == 2
    assert "already has checkpoints" in capsys.readouterr().err
    assert server.requests == []


def test_the_package_that_is_missing_is_named(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    line = refusal(tmp_path, capsys, f"--released={NAME}")
    assert "pip install -e '.[hub]'" in line
