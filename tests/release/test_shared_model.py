"""Shared models: what is written, sent, fetched and refused."""

import getpass
import hashlib
import json
import re
import shutil
import socket
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import small
from PIL import Image

import lzn_jax
from lzn_jax import configuration, evaluation, extensions, loading, share
from lzn_jax import files as files_module
from lzn_jax.data.digit_captions import DIGITS, LEANS, WEIGHTS
from lzn_jax.errors import UserError
from lzn_jax.evaluation.headline import OF_EVALUATION
from lzn_jax.release import shared_model
from lzn_jax.run import devices

NAME = "me/digits"
NEEDED = ["SHA256SUMS", "config.json", "weights.safetensors"]
FILES = sorted([*NEEDED, "README.md", "figures/samples.png", "summary.json"])


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a run with metrics, a picture and a path of its machine."""
    config = small.config(evaluation__inception_path="/home/someone/weights/inception.pth")
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


@pytest.fixture(scope="module")
def model(run):
    return lzn_jax.load(run)


@pytest.fixture
def restored(model, monkeypatch):
    """The command shares a model that is there."""
    monkeypatch.setattr(loading, "restore", lambda config, workdir: model)


@pytest.fixture
def folder(run, tmp_path):
    """A copy of the shared model."""
    return shutil.copytree(run / "shared", tmp_path / "shared")


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


def test_a_model_from_the_hub_is_the_run(workdir, server, model, capsys):
    code, line = shared(workdir, capsys, f"--repo={NAME}")
    assert (code, line) == (0, f'uploaded to https://hub/{NAME}: lzn_jax.load("hub:{NAME}")')
    assert sorted(server.files) == [".gitattributes", *FILES]
    assert f'lzn_jax.load("hub:{NAME}")' in server.files["README.md"].decode()
    found, own = lzn_jax.load(f"hub:{NAME}"), model.config.to_dict()
    assert (found.step, model.step) == (2, 2)
    jax.tree.map(np.testing.assert_array_equal, found.model, model.model)
    own["evaluation"]["inception_path"] = "inception.pth"
    assert found.config.to_dict() == own


def test_only_what_a_model_needs_is_fetched_and_once(published, folder):
    published.files |= {"model.pkl": b"a pickle", "train.py": b"code"}
    lzn_jax.load(f"hub:{NAME}")
    published.error = ConnectionError("the cache does without the Hub")
    assert lzn_jax.load(f"hub:{NAME}").step == 2
    assert sorted(published.fetched) == NEEDED
    (folder / "README.md").write_text("better words")
    assert lzn_jax.load(folder).step == 2


def test_nothing_that_is_shared_names_the_machine_or_its_user(run):
    assert sorted([*files_module.files_below(run / "shared"), "SHA256SUMS"]) == FILES
    names = [str(run.parent), "someone", f"/{getpass.getuser()}/", socket.gethostname()]
    for name in FILES:
        content = (run / "shared" / name).read_bytes()
        if name.endswith(".safetensors"):  # numbers follow, in which short names are by chance
            content = content[: 8 + int.from_bytes(content[:8], "little")]
        assert not [each for each in names if each.encode() in content], name
    config = json.loads((run / "shared" / "config.json").read_text())
    assert config["evaluation"]["inception_path"] == "inception.pth"
    config["evaluation"]["inception_path"] = "/home/someone/weights/inception.pth"
    assert config == json.loads((run / "config.json").read_text())


def test_paths_keep_their_last_name_and_all_else_stays():
    values = dict(configuration.flatten(small.config("configs/digits_text.py").to_dict()))
    values = {**values, "text.alphabet": "/abc", "data.tokenizer_path": "../mine/words.json"}
    values["evaluation.measurements"] = ["/home/me/one", "two"]
    changed = {"data.tokenizer_path": "words.json", "evaluation.measurements": ["one", "two"]}
    assert shared_model.portable(values) == values | changed
    values = configuration.flatten(small.config("configs/fashion_joint.py").to_dict())
    assert values["data.path"].startswith("/")  # a default
    assert shared_model.portable(values) == values


def test_the_card_has_use_data_metrics_and_pictures(run, folder):
    card = (folder / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: lzn_jax\n")
    for text in (
        "after 2 updates. Data types: image, label.",
        "Translations: image to label, label to image.",
        'lzn_jax.load("FOLDER")',
        "Data set: `digits`. CC BY 4.0 (Optical Recognition of Handwritten Digits",
        "|---|---|\n| test_accuracy | 0.1235 |\n| fid | not finite |\n\n2 of 3 metrics in",
        "## Pictures\n\n![Samples](figures/samples.png)\n",
    ):
        assert text in card
    assert "converted" not in card
    assert card.count(".png)") == 1  # of the figures that are there


@pytest.mark.usefixtures("restored")
def test_the_card_shows_ten_metrics_figures_licence_and_origin(workdir, tmp_path, monkeypatch):
    monkeypatch.setattr("lzn_jax.data.digits.LICENCE", "Some licence.", raising=False)
    names = [*OF_EVALUATION[::-1], "own"]
    (workdir / "summary.json").write_text(json.dumps(dict.fromkeys(names, 10**400)))
    origin = {"repository": "them/theirs", "revision": "0123", "file": "x.pt", "sha256": "ab"}
    (workdir / "released.json").write_text(json.dumps(origin))
    (workdir / "figures" / "tasks").mkdir()
    for name in ("sampled", "reconstructed", "predictions", "curves", "tasks/tasks"):
        Image.new("L", (2, 2)).save(workdir / "figures" / f"{name}.png")
    (tmp_path / "link").symlink_to(workdir)  # of the work folder itself
    assert share.main([f"--workdir={tmp_path / 'link'}"]) == 0
    card = (workdir / "shared" / "README.md").read_text()
    table = [f"| {name} | {10**400} |" for name in OF_EVALUATION[:10]]
    assert "\n".join(["|---|---|", *table, "", f"10 of {len(names)} metrics"]) in card
    assert "Data set: `digits`. Some licence.\n" in card
    assert "from x.pt of https://huggingface.co/them/theirs (MIT licence), revision 0123." in card
    figures = [path.name for path in (workdir / "shared" / "figures").iterdir()]
    assert sorted(figures) == ["curves.png", "samples.png"]


def test_every_figure_of_evaluation_is_shared():
    sources = [path.read_text() for path in Path(evaluation.__file__).parent.glob("*.py")]
    drawn = {name for text in sources for name in re.findall(r'"(\w+\.png)"', text)}
    assert "tasks.png" in drawn
    assert {f"figures/{name}" for name in drawn} <= shared_model.PICTURES.keys()


@pytest.mark.usefixtures("restored")
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


def test_sharing_again_replaces_the_model_and_keeps_other_files(workdir, server, capsys):
    assert shared(workdir, capsys, f"--repo={NAME}")[0] == 0
    server.files |= {"LICENSE": b"mine", "figures/set/samples.png": b"mine"}
    (workdir / "figures" / "samples.png").rename(workdir / "figures" / "others.png")
    (workdir / "summary.json").unlink()
    assert shared(workdir, capsys, f"--repo={NAME}")[0] == 0
    kept = {*FILES, ".gitattributes", "LICENSE", "figures/set/samples.png"}
    assert server.files.keys() == kept - {"figures/samples.png", "summary.json"}
    for name in ("README.md", "SHA256SUMS"):
        assert server.files[name] == (workdir / "shared" / name).read_bytes()
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
    config = small.config("tests/demo/texts_config.py", **changes)
    workdir, texts = small.untrained_run(tmp_path / "run", config), ["a bold seven leaning left"]
    path.unlink()
    assert share.main([f"--workdir={workdir}"]) == 0
    folder = workdir / "shared"
    assert json.loads((folder / "config.json").read_text())["data"]["tokenizer_path"] == path.name
    kinds = [lzn_jax.load(path).space.types["text"] for path in (folder, workdir)]
    np.testing.assert_array_equal(*(kind.encoded(texts) for kind in kinds))
    (folder / "tokenizer.json").write_text("{}")
    assert "file tokenizer.json differs from its checksum" in refusal(folder)


def test_extensions_are_named_and_not_sent(workdir, tmp_path, capsys, monkeypatch):
    file = tmp_path / "mine.py"
    file.write_text("")
    digest = hashlib.sha256(b"").hexdigest()
    named = {"extensions": ["mine.py"], "extension_checksums": [digest]}
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


# What is done to the tensors of a shared folder, and the line's content.
UNFIT = {
    "missing": (lambda t: t.pop("step"), "config.json: 'step' is missing, not int32 ()"),
    "shape": (
        lambda t: t.update({"variables/label_anchors/params/anchors": np.zeros((1, 4), "f4")}),
        "'variables/label_anchors/params/anchors' is float32 (1, 4), not float32 (10, 4)",
    ),
    "type": (lambda t: t.update(step=np.float32(2)), "'step' is float32 (), not int32 ()"),
    "unknown": (
        lambda t: t.update({"two\nlines": np.zeros(3)}),
        "'two\\nlines' is float64 (3,), not expected",
    ),
}


@pytest.mark.parametrize("case", UNFIT)
def test_weights_that_do_not_fit_the_config_are_one_line(case, folder):
    change, expected = UNFIT[case]
    tensors = files_module.read_tensors(folder / "weights.safetensors")
    change(tensors)
    files_module.write_tensors(folder / "weights.safetensors", tensors)
    files_module.add_files(folder, ["weights.safetensors"])
    assert expected in refusal(folder)


# What a file of a shared folder becomes (None: it is removed), and the line's content.
BROKEN = {
    "other weights": ("weights.safetensors", b"x", "file weights.safetensors differs from its"),
    "no config": ("config.json", None, "file config.json is missing"),
    "no checksums": ("SHA256SUMS", None, "file config.json has no checksum"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_damaged_model_is_one_line_and_leaves_the_cache(case, folder, published):
    name, content, expected = BROKEN[case]
    intact = published.files.pop(name)
    (folder / name).unlink()
    if content is not None:
        published.files[name] = content
        (folder / name).write_bytes(content)
    for path in (folder, f"hub:{NAME}"):
        assert f"is damaged: {expected}" in refusal(path)
    published.files[name] = intact
    assert shared_model.fetch_model(NAME).joinpath(name).read_bytes() == intact


def test_what_cannot_be_fetched_is_one_line(server, workdir, capsys, monkeypatch):
    failure = "me/digits has no model that can be fetched"
    server.files = {"config.json": b"{}", "pytorch_model.bin": b"x"}
    assert f"{failure} (it holds no weights.safetensors): check the name" in refusal(f"hub:{NAME}")
    server.error, server.cache = ConnectionError("Connection refused"), server.cache / "other"
    assert f"{failure} (Connection refused): " in refusal(f"hub:{NAME}")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert "pip install -e '.[hub]'" in refusal(f"hub:{NAME}")
    assert "pip install -e '.[hub]'" in shared(workdir, capsys, f"--repo={NAME}")[1]
    assert shared(workdir, capsys)[0] == 0


@pytest.mark.parametrize("name", ["digits", "a/b/c", "", "../digits", "me/my digits"])
def test_a_repository_has_an_owner_and_a_name(name, workdir, server, capsys):
    expected = f"a repository is named OWNER/NAME, got {name!r}"
    assert expected in refusal(f"hub:{name}")
    assert shared(workdir, capsys, f"--repo={name}") == (2, f"error: {expected}")
    assert (server.fetched, server.commits) == ([], 0)


# What is wrong with the Hub, and the line's content.
NOT_SENT = {
    "foreign": (
        {"files": {"config.json": b"{}", "pytorch_model.bin": b"x"}},
        "me/digits holds other files than a shared model, such as 'config.json': choose another",
    ),
    "public": ({"is_private": False}, "me/digits is public: make it private in its settings"),
    "no token": (
        {"error": ConnectionError("401")},
        "shared cannot be uploaded to me/digits (401): check the name, log in with `hf auth login`",
    ),
}


@pytest.mark.usefixtures("restored")
@pytest.mark.parametrize("case", NOT_SENT)
def test_what_cannot_be_uploaded_is_one_line(case, server, workdir, capsys):
    changes, expected = NOT_SENT[case]
    vars(server).update(changes)
    code, line = shared(workdir, capsys, f"--repo={NAME}", "--private")
    assert code == 2
    assert expected in line
    assert server.commits == 0


@pytest.mark.usefixtures("restored")
def test_a_new_repository_is_private_on_demand(server, workdir, capsys):
    assert shared(workdir, capsys, f"--repo={NAME}", "--private")[0] == 0
    assert (server.is_private, server.commits) == (True, 1)


NUMBERS, TEXTS = ("summary.json", "numbers"), ("released.json", "texts")


@pytest.mark.usefixtures("restored")
@pytest.mark.parametrize(
    ("file", "content"),
    [
        *((NUMBERS, text) for text in ('{"path": "/home/someone"}', "[1]", "{", "[" * 100_000)),
        *((TEXTS, text) for text in ('{"repository": "", "revision": "", "file": 1}', "{}")),
    ],
)
def test_tables_that_cannot_be_shared_are_one_line(file, content, workdir, capsys):
    name, kind = file
    (workdir / name).write_text(content)
    code, line = shared(workdir, capsys)
    assert code == 2
    assert f"{name} is not a table of {kind}" in line
    assert not (workdir / "shared").exists()


def test_work_folders_that_cannot_be_shared_are_one_line(workdir, tmp_path, capsys):
    assert "is no run" in shared(tmp_path, capsys)[1]
    assert "--private goes with --repo" in shared(workdir, capsys, "--private")[1]
    shutil.rmtree(workdir / "checkpoints" / "2")
    code, line = shared(workdir, capsys)
    assert code == 2
    assert "there is no checkpoint" in line


@pytest.mark.usefixtures("restored")
@pytest.mark.parametrize(
    "name",
    ["notes.txt", "figures/SHA256SUMS", *small.slow("README.md", "figures/.notes")],
)
def test_a_changed_folder_is_not_replaced(name, workdir, capsys):
    assert shared(workdir, capsys)[0] == 0
    (workdir / "shared" / name).write_text("my words")
    code, line = shared(workdir, capsys)
    assert code == 2
    assert f"{workdir / 'shared'} would be replaced, but file {name} " in line
    assert (workdir / "shared" / name).read_text() == "my words"


def test_a_link_to_a_model_and_a_link_in_it_are_not_replaced(tmp_path):
    folder, link = tmp_path / "elsewhere", tmp_path / "shared"
    files_module.write_bytes(folder / "README.md", b"a card")
    files_module.add_files(folder, ["README.md"])
    shared_model._check_replaceable(folder)
    for target in (folder, "nowhere"):
        link.symlink_to(target)
        with pytest.raises(UserError, match="shared would be replaced, but it is not a folder: "):
            shared_model._check_replaceable(link)
        link.unlink()
    (folder / "notes").symlink_to("nowhere")
    with pytest.raises(UserError, match="elsewhere would be replaced, but file notes has no "):
        shared_model._check_replaceable(folder)
