"""Sharing: what is written, sent, fetched and refused, with a local server as the Hub."""

import getpass
import hashlib
import json
import re
import shutil
import socket
import sys
from pathlib import Path

import hub_server
import jax
import numpy as np
import pytest
import small
from PIL import Image

import lzn_jax
from lzn_jax import configuration, data, evaluation, extensions, share
from lzn_jax.data.captions import DIGITS, LEANS, WEIGHTS
from lzn_jax.errors import UserError
from lzn_jax.release import shared_model
from lzn_jax.run import devices, log
from lzn_jax.run import files as files_module

# The client (2.4) uploads large files by a deprecated argument of its HTTP library.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
NAME = "me/digits"
FILES = [
    "README.md",
    "SHA256SUMS",
    "config.json",
    "figures/samples.png",
    "summary.json",
    "weights.safetensors",
]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a run with metrics, a picture and a path of its machine."""
    config = small.config(evaluation__clip_path="/home/someone/weights/clip.safetensors")
    workdir = small.untrained_run(tmp_path_factory.mktemp("run"), config)
    Image.new("L", (2, 2)).save(workdir / "figures" / "samples.png")
    metrics = {"step": 2, "test_accuracy": 0.123456, "fid": None}
    (workdir / "summary.json").write_text(json.dumps(metrics))
    assert share.main([f"--workdir={workdir}"]) == 0
    return workdir


@pytest.fixture
def workdir(run, tmp_path):
    """A copy of the run, without what was shared."""
    return shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("shared"))


@pytest.fixture
def folder(run, tmp_path):
    """A copy of the shared model."""
    return shutil.copytree(run / "shared", tmp_path / "shared")


@pytest.fixture
def server(place, client):
    server = hub_server.Hub(NAME, place[0])
    yield server
    server.close()


@pytest.fixture
def published(server, folder):
    """The server with the shared model."""
    server.files |= {name: (folder / name).read_bytes() for name in FILES}
    return server


def shared(workdir, capsys, *flags):
    """The exit code of the command, and the last line that it printed."""
    code = share.main([f"--workdir={workdir}", *flags])
    *_, line = capsys.readouterr().err.strip().splitlines()
    return code, line


def refusal(path, **options):
    """The one line with which loading ends."""
    with pytest.raises(UserError) as caught:
        lzn_jax.load(path, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_model_from_the_hub_is_the_run(workdir, server, place, capsys):
    server.is_there = False
    code, line = shared(workdir, capsys, f"--repo={NAME}")
    assert (code, line) == (
        0,
        f'uploaded to http://127.0.0.1:{place[0]}/{NAME}: lzn_jax.load("hub:{NAME}")',
    )
    assert server.commits == [(FILES, [])]
    assert f'lzn_jax.load("hub:{NAME}")' in server.files["README.md"].decode()
    model, run = lzn_jax.load(f"hub:{NAME}"), lzn_jax.load(workdir)
    assert (model.step, run.step) == (2, 2)
    jax.tree.map(np.testing.assert_array_equal, model.model, run.model)
    images = data.load(run.config.data, "test").images[:4]
    for ours, theirs in zip(model.classify(images), run.classify(images), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(model.sample(2).images, run.sample(2).images)


def test_only_what_a_model_needs_is_fetched_and_once(published):
    published.files |= {"model.pkl": b"a pickle", "train.py": b"code"}
    lzn_jax.load(f"hub:{NAME}")
    lzn_jax.load(f"hub:{NAME}")
    fetched = [name for method, name, _ in published.requests if method == "GET"]
    assert sorted(fetched) == ["SHA256SUMS", "config.json", "weights.safetensors"]


def test_a_cached_model_needs_no_hub(published):
    lzn_jax.load(f"hub:{NAME}")
    published.status = 503
    assert lzn_jax.load(f"hub:{NAME}").step == 2


def test_nothing_that_is_shared_names_the_machine_or_its_user(run):
    assert sorted([*files_module.files_below(run / "shared"), "SHA256SUMS"]) == FILES
    names = [str(run.parent), "someone", f"/{getpass.getuser()}/", socket.gethostname()]
    for name in FILES:
        content = (run / "shared" / name).read_bytes()
        assert not [each for each in names if each.encode() in content], name
    config = json.loads((run / "shared" / "config.json").read_text())
    assert config["evaluation"]["clip_path"] == "clip.safetensors"
    config["evaluation"]["clip_path"] = "/home/someone/weights/clip.safetensors"
    assert config == json.loads((run / "config.json").read_text())


def test_paths_keep_their_last_name_and_all_else_stays():
    values = dict(configuration.flatten(small.config("configs/digits_text.py").to_dict()))
    values = {**values, "text.alphabet": "/abc", "data.tokenizer_path": "../mine/words.json"}
    values["evaluation.measurements"] = ["/home/me/one", "two"]
    changed, names = shared_model.portable(values)
    assert {name: changed[name] for name in names} == {
        "data.tokenizer_path": "words.json",
        "evaluation.measurements": ["one", "two"],
    }
    assert {name for name in values if values[name] != changed[name]} == set(names)


def test_a_default_path_stays():
    values = configuration.flatten(small.config("configs/fashion_joint.py").to_dict())
    assert values["data.path"].startswith("/")
    assert shared_model.portable(values) == (values, [])


def test_the_card_has_use_data_metrics_and_pictures(run, folder):
    card = (folder / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: lzn_jax\n")
    for text in (
        "after 2 updates. Data types: image, label.",
        "Translations: image to label, label to image.",
        'lzn_jax.load("FOLDER")',
        "Data set: `digits`. Licence: unknown.",
        "|---|---|\n| test_accuracy | 0.1235 |\n| fid | not finite |\n\n2 of 3 metrics in",
        "\n\nSamples of the model.\n\n![Samples of the model.](figures/samples.png)\n",
    ):
        assert text in card
    assert "converted" not in card
    assert card.count(".png)") == 1  # of the figures that are there


def test_the_card_shows_the_ten_most_important_metrics(workdir):
    names = [*log.OF_EVALUATION[::-1], "own"]
    (workdir / "summary.json").write_text(json.dumps(dict.fromkeys(names, 10**400)))
    assert share.main([f"--workdir={workdir}"]) == 0
    card = (workdir / "shared" / "README.md").read_text()
    table = [f"| {name} | {10**400} |" for name in log.OF_EVALUATION[:10]]
    assert "\n".join(["|---|---|", *table, "", f"10 of {len(names)} metrics"]) in card


def test_the_card_names_the_licence_of_the_data(run, monkeypatch):
    model = lzn_jax.load(run)
    monkeypatch.setattr("lzn_jax.data.digits.LICENCE", "Some licence.", raising=False)
    assert "Data set: `digits`. Some licence.\n" in shared_model.text(model, {}, (), "FOLDER")


def test_pictures_of_evaluation_alone_are_shared(workdir):
    for name in ("sampled", "reconstructed", "predictions", "curves", "tasks/tasks"):
        path = workdir / "figures" / f"{name}.png"
        path.parent.mkdir(exist_ok=True)
        Image.new("L", (2, 2)).save(path)
    assert share.main([f"--workdir={workdir}"]) == 0
    shared = [path.name for path in (workdir / "shared" / "figures").iterdir()]
    assert sorted(shared) == ["curves.png", "samples.png"]


def test_every_figure_of_evaluation_has_a_caption():
    sources = [path.read_text() for path in Path(evaluation.__file__).parent.glob("*.py")]
    drawn = {name for text in sources for name in re.findall(r'"(\w+\.png)"', text)}
    assert "tasks.png" in drawn
    assert {f"figures/{name}" for name in drawn} <= shared_model.PICTURES.keys()


@pytest.mark.parametrize(
    "name", ["figures/samples.png", "figures", "summary.json", "released.json"]
)
def test_a_link_is_not_followed(name, workdir, tmp_path, capsys):
    secret = tmp_path / "secret"
    (workdir / name).rename(secret) if (workdir / name).exists() else secret.write_text("{}")
    (workdir / name).symlink_to(secret)
    code, line = shared(workdir, capsys)
    assert code == 2
    assert line.startswith(f"error: {workdir / name}")
    assert "is a link, which may lead to any file" in line
    assert not (workdir / "shared").exists()


def test_the_work_folder_itself_may_be_a_link(workdir, tmp_path, capsys):
    (tmp_path / "link").symlink_to(workdir)
    assert shared(tmp_path / "link", capsys)[0] == 0


def test_the_card_names_the_origin_of_converted_weights(workdir):
    origin = {"repository": "them/theirs", "revision": "0123", "file": "x.pt", "sha256": "ab"}
    (workdir / "released.json").write_text(json.dumps(origin))
    assert share.main([f"--workdir={workdir}"]) == 0
    card = (workdir / "shared" / "README.md").read_text()
    assert "from x.pt of https://huggingface.co/them/theirs (MIT licence), revision 0123." in card


def test_sharing_again_replaces_the_model_and_keeps_other_files(workdir, server, capsys):
    assert shared(workdir, capsys, f"--repo={NAME}")[0] == 0
    server.files |= {"LICENSE": b"mine", "figures/set/samples.png": b"mine"}
    (workdir / "figures" / "samples.png").rename(workdir / "figures" / "others.png")
    (workdir / "summary.json").unlink()
    assert shared(workdir, capsys, f"--repo={NAME}")[0] == 0
    assert server.commits[1][1] == ["figures/samples.png", "summary.json"]
    own = {name: content for name, content in server.files.items() if content != b"mine"}
    sent = workdir / "shared"
    assert own == {
        name: (sent / name).read_bytes() for name in [*files_module.files_below(sent), "SHA256SUMS"]
    }
    assert len(server.files) == len(own) + 2
    assert lzn_jax.load(f"hub:{NAME}").step == 2


def test_a_tokenizer_travels_with_its_model(tmp_path):
    package = pytest.importorskip("tokenizers")
    words = dict.fromkeys(" ".join(["[UNK] a", *WEIGHTS, *DIGITS, *LEANS]).split())
    vocabulary = {word: number for number, word in enumerate(words)}
    model = package.Tokenizer(package.models.WordLevel(vocabulary, unk_token="[UNK]"))
    model.pre_tokenizer = package.pre_tokenizers.Whitespace()
    path = tmp_path / "words.json"
    model.save(str(path))
    changes = {"data__tokenizer_path": path, "text__alphabet": None}
    config = small.config("configs/digits_text.py", **changes)
    workdir, texts = small.untrained_run(tmp_path / "run", config), ["a bold seven leaning left"]
    path.unlink()
    assert share.main([f"--workdir={workdir}"]) == 0
    folder = workdir / "shared"
    assert json.loads((folder / "config.json").read_text())["data"]["tokenizer_path"] == path.name
    latents = [lzn_jax.load(path).encode(texts, source="text") for path in (folder, workdir)]
    np.testing.assert_array_equal(*latents)
    (folder / "tokenizer.json").write_text("{}")
    assert "file tokenizer.json differs from its checksum" in refusal(folder)


def test_extensions_are_named_and_not_sent(workdir, tmp_path, capsys, monkeypatch):
    file = tmp_path / "mine.py"
    file.write_text("")
    named = {
        "extensions": ["mine.py"],
        "extension_checksums": [hashlib.sha256(b"").hexdigest()],
    }
    config = json.loads((workdir / "config.json").read_text())
    (workdir / "config.json").write_text(json.dumps({**config, **named}))
    monkeypatch.setattr(extensions, "_EXTENSIONS", {})
    assert "needs the extension mine.py (sha256 e3b0c44298fc)" in shared(workdir, capsys)[1]
    assert shared(workdir, capsys, f"--extensions={file}")[0] == 0
    folder = workdir / "shared"
    assert sorted([*files_module.files_below(folder), "SHA256SUMS"]) == FILES
    card = (folder / "README.md").read_text()
    assert """lzn_jax.load("FOLDER", extensions=('mine.py',))""" in card
    assert "not part of this repository: `mine.py` (sha256 e3b0c44298fc)." in card
    monkeypatch.setattr(extensions, "_EXTENSIONS", {})
    assert "extensions=('mine.py',) to lzn_jax.load" in refusal(folder)
    assert lzn_jax.load(folder, extensions=[str(file)]).step == 2


def test_weights_are_divided_over_devices_as_in_a_run(folder, monkeypatch):
    config = json.loads((folder / "config.json").read_text())
    config["training"]["shard_parameters"] = True
    (folder / "config.json").write_text(json.dumps(config))
    files_module.add_files(folder, ["config.json"])
    monkeypatch.setattr(devices, "MIN_SHARDED", 8)
    weights = jax.tree.leaves(lzn_jax.load(folder).model.variables)
    assert {leaf.is_fully_replicated for leaf in weights} == {True, False}


# What is done to a shared folder before its checksums are written again, and the line's content.
UNFIT = {
    "tensor missing": (lambda t, _: t.pop("step"), "config.json: step is missing"),
    "wrong shape": (
        lambda t, _: t.update({"variables/label_anchors/params/anchors": np.zeros((1, 4), "f4")}),
        "variables/label_anchors/params/anchors is float32 (1, 4), not float32 (10, 4)",
    ),
    "wrong type": (lambda t, _: t.update(step=np.float32(2)), "step is float32 (), not int32 ()"),
    "unknown tensor": (
        lambda t, _: t.update({"two\nlines": np.zeros(3)}),
        "config.json: 'two\\nlines' is unexpected",
    ),
    "another encoder": (
        lambda _, c: c["encoder"].update(features=8),
        "does not fit its config.json: variables/encoder/params/",
    ),
    "unknown field": (
        lambda _, c: c["latent"].update(dimm=4),
        "the config has no field latent.dimm; the nearest is latent.dim",
    ),
    "extension that is not given": (
        lambda _, c: c.update(extensions=["mine.py"], extension_checksums=["0" * 64]),
        "needs the extension mine.py (sha256 000000000000): pass --extensions=mine.py",
    ),
}


@pytest.mark.parametrize("case", UNFIT)
def test_weights_and_config_that_do_not_fit_are_one_line(case, folder):
    change, expected = UNFIT[case]
    tensors = files_module.read_tensors(folder / "weights.safetensors")
    config = json.loads((folder / "config.json").read_text())
    change(tensors, config)
    files_module.write_tensors(folder / "weights.safetensors", tensors)
    (folder / "config.json").write_text(json.dumps(config))
    files_module.add_files(folder, ["config.json", "weights.safetensors"])
    assert expected in refusal(folder)


# What a file of a shared folder becomes (None: it is removed), and the line's content.
BROKEN = {
    "other weights": ("weights.safetensors", b"x", "file weights.safetensors differs from its"),
    "other config": ("config.json", b"{}", "file config.json differs from its checksum"),
    "no config": ("config.json", None, "file config.json is missing"),
    "no checksums": ("SHA256SUMS", None, "file config.json has no checksum"),
    "no list": ("SHA256SUMS", b"<html>", "file SHA256SUMS is not a list of checksums"),
    "no weights": ("weights.safetensors", None, "there is no checkpoint"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_damaged_folder_is_one_line(case, folder):
    name, content, expected = BROKEN[case]
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(content)
    assert expected in refusal(folder)


def test_weights_that_are_no_safetensors_are_one_line(folder):
    (folder / "weights.safetensors").write_bytes(b"\x80\x04}.")  # a pickle
    files_module.add_files(folder, ["weights.safetensors"])
    assert "cannot be read as a safetensors file" in refusal(folder)


def test_a_card_may_be_edited_on_the_hub(folder):
    (folder / "README.md").write_text("better words")
    assert lzn_jax.load(folder).step == 2


def test_a_damaged_download_leaves_the_cache(published, folder):
    published.files["weights.safetensors"] = b"cut"
    expected = f"{NAME} is damaged: file weights.safetensors differs from its checksum; it was"
    assert expected in refusal(f"hub:{NAME}")
    published.files["weights.safetensors"] = (folder / "weights.safetensors").read_bytes()
    assert lzn_jax.load(f"hub:{NAME}").step == 2


# What is wrong with the Hub, and the line's content.
NOT_FETCHED = {
    "foreign repository": (
        {"files": {"config.json": b"{}", "pytorch_model.bin": b"x"}},
        "me/digits has no model that can be fetched (Client error '404 Not Found'",
    ),
    "list of other files": (
        {"files": {"SHA256SUMS": f"{'0' * 64}  other.bin\n".encode()}},
        "the model of me/digits cannot be fetched (Client error '404 Not Found'",
    ),
    "empty": ({"files": {}}, "check the name of the model"),
    "private": ({"status": 401}, "401 Unauthorized"),
    "broken server": ({"status": 500}, "500 Internal Server Error"),
    "another server": ({"is_hub": False}, "me/digits has no model that can be fetched"),
}


@pytest.mark.parametrize("case", NOT_FETCHED)
def test_what_cannot_be_fetched_is_one_line(case, published):
    changes, expected = NOT_FETCHED[case]
    for name, value in changes.items():
        setattr(published, name, value)
    assert expected in refusal(f"hub:{NAME}")


@pytest.mark.usefixtures("client")
def test_without_a_network_one_line_says_so(workdir, capsys):
    assert "Connection refused" in refusal(f"hub:{NAME}")
    code, line = shared(workdir, capsys, f"--repo={NAME}")
    assert code == 2
    assert f"shared cannot be uploaded to {NAME} (" in line
    assert "Connection refused" in line


@pytest.mark.parametrize("name", ["digits", "a/b/c", "", "../digits", "me/", "me/my digits"])
def test_a_repository_has_an_owner_and_a_name(name, workdir, server, capsys):
    expected = "a repository is named OWNER/NAME, got "
    assert expected in refusal(f"hub:{name}")
    code, line = shared(workdir, capsys, f"--repo={name}")
    assert code == 2
    assert line.startswith(f"error: {expected}")
    assert server.requests == []


def test_the_package_that_is_missing_is_named(monkeypatch, workdir, capsys):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert "pip install -e '.[hub]'" in refusal(f"hub:{NAME}")
    assert "pip install -e '.[hub]'" in shared(workdir, capsys, f"--repo={NAME}")[1]
    assert share.main([f"--workdir={workdir}"]) == 0


# What is wrong with the Hub, further flags, and the line's content.
NOT_SENT = {
    "foreign repository": (
        {"files": {"config.json": b"{}", "pytorch_model.bin": b"x"}},
        "me/digits holds other files than a shared model, such as 'config.json': choose another",
    ),
    "public": ({"files": {}}, "me/digits is public: make it private in its settings"),
    "read only": ({"is_private": True, "read_only": True}, "403 Forbidden"),
    "no token": ({"status": 401}, "log in with `hf auth login` and a token that may write"),
    "broken server": ({"status": 500}, "cannot be uploaded to me/digits"),
}


@pytest.mark.parametrize("case", NOT_SENT)
def test_what_cannot_be_uploaded_is_one_line_and_changes_nothing(case, server, folder):
    changes, expected = NOT_SENT[case]
    for name, value in changes.items():
        setattr(server, name, value)
    files = dict(server.files)
    with pytest.raises(UserError) as caught:
        shared_model.upload(folder, NAME, private=True)
    assert "\n" not in str(caught.value)
    assert expected in str(caught.value)
    assert (server.commits, server.files) == ([], files)


def test_a_new_repository_is_private_on_demand(server, workdir, capsys):
    server.is_there = False
    assert shared(workdir, capsys, f"--repo={NAME}", "--private")[0] == 0
    assert server.is_private
    assert len(server.commits) == 1


def test_work_folders_that_cannot_be_shared_are_one_line(workdir, tmp_path, capsys):
    assert "is no run" in shared(tmp_path, capsys)[1]
    assert "--private goes with --repo" in shared(workdir, capsys, "--private")[1]
    (workdir / "summary.json").write_text('{"path": "/home/someone"}')
    assert "summary.json is not a table of numbers" in shared(workdir, capsys)[1]
    (workdir / "summary.json").write_text("{")
    assert "summary.json is not JSON" in shared(workdir, capsys)[1]
    (workdir / "summary.json").write_text("[" * 100_000)
    assert "summary.json is not JSON: too deeply nested" in shared(workdir, capsys)[1]
    (workdir / "summary.json").unlink()
    (workdir / "released.json").write_text('{"file": "x.pt"}')
    assert "released.json does not name the origin of weights" in shared(workdir, capsys)[1]
    assert not (workdir / "shared").exists()
    shutil.rmtree(workdir / "checkpoints" / "2")
    code, line = shared(workdir, capsys)
    assert code == 2
    assert "there is no checkpoint" in line


@pytest.mark.parametrize(
    "name", ["README.md", "notes.txt", ".notes", "figures/.notes", "figures/SHA256SUMS"]
)
def test_a_changed_folder_is_not_replaced(name, workdir, capsys):
    assert shared(workdir, capsys)[0] == 0
    (workdir / "shared" / name).write_text("my words")
    code, line = shared(workdir, capsys)
    assert code == 2
    assert f"shared would be replaced, but file {name} " in line
    assert (workdir / "shared" / name).read_text() == "my words"


@pytest.mark.parametrize("kind", ["link", "broken link", "file"])
def test_what_is_not_a_folder_is_not_replaced(kind, workdir, tmp_path, capsys):
    assert shared(workdir, capsys)[0] == 0
    (workdir / "shared").rename(tmp_path / "elsewhere")
    if kind == "file":
        (workdir / "shared").write_text("my words")
    else:
        (workdir / "shared").symlink_to(tmp_path / ("elsewhere" if kind == "link" else "gone"))
    code, line = shared(workdir, capsys)
    assert code == 2
    assert f"{workdir / 'shared'} would be replaced, but it is not a folder" in line


def test_files_of_one_revision_are_fetched(published, monkeypatch):
    old, needed = dict(published.files), shared_model.needed_files

    def publish(folder):
        published.older[published.revision] = old
        published.revision = "1" * 40
        published.files["config.json"] = b"{}"
        return needed(folder)

    monkeypatch.setattr(shared_model, "needed_files", publish)
    assert lzn_jax.load(f"hub:{NAME}").step == 2
