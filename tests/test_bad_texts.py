"""Bad metadata, tokenizers, captions and options: code 2, one line, and no run is touched."""

import functools
import json
import shutil
from pathlib import Path

import pytest
import small
from PIL import Image

from lzn_jax import loading, main
from lzn_jax.data_types import Model
from lzn_jax.latent_space import LatentSpace
from lzn_jax.run import devices
from lzn_jax.run import workdir as workdirs
from lzn_jax.trained_model import TrainedModel

ROOT = Path(__file__).parents[1]
_IMAGES = {"train": 20, "test": 8}
_NAMES = [f"{split}/{number}.png" for split, count in _IMAGES.items() for number in range(count)]
_ROWS = [{"file_name": name, "text": f"the picture {name}"} for name in _NAMES]


def _lines(*rows):
    return "".join(f"{json.dumps(row)}\n" for row in rows)


# Files beside images, by what is wrong with them; malformed ones are in data/test_folder.py.
_METADATA = {
    "no metadata": {},
    "not in UTF-8": {"metadata.jsonl": '{"file_name": "train/1.png", "text": "caf\udce9"}\n'},
    "tests without texts": {"metadata.jsonl": _lines(*_ROWS[: _IMAGES["train"]])},
    "texts that are all too long": {
        "metadata.jsonl": _lines(*({**r, "text": "a" * 99} for r in _ROWS))
    },
}
_OPTIONS = """
text.alphabet= text.alphabet=xyz text.max_length=1 text.max_length=9 text_encoder.num_heads=3
text_decoder.sources=('sound',) text_decoder.sources=()
decoder.condition=sound training.text_weight=0 sampling.top_p=0 sampling.temperature=-1
objective=clip data.captions=False data.tokenizer_path=x.json
"""
_TRANSLATE = ["--mode=translate", "--source=text"]
_ANOTHER = {"model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}, "added_tokens": []}


def make_pairs(folder, files):
    """A folder of images with these files of texts beside them."""
    for number, name in enumerate(_NAMES):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (9 * number, 0, 0)).save(folder / name)
    for name, content in files.items():
        (folder / name).write_bytes(content.encode(errors="surrogateescape"))
    return folder


# Name, config and flags of commands about texts that must end with code 2, where {bad} is the
# fixture's folder. Without --workdir the run that they could spoil is one of the config.
BAD = [
    *(
        (f"metadata: {name}", "image_text", ["--config.data.path={bad}/pairs/" + name])
        for name in _METADATA
    ),
    ("tokenizer of another run", "digits_text",
     ["--config.data.tokenizer_path={bad}/another.json", "--config.text.alphabet=None"]),
    *(
        (f"option: {flag}", "digits_text", [f"--config.{flag}", "--workdir={bad}/new"])
        for flag in _OPTIONS.split()
    ),
    *(
        (f"input: {text[:20]!r}", "digits_text", [*_TRANSLATE, "--target=image", f"--input={text}"])
        for text in ("", "a bold 7", "a bold seven " * 9,
                     *(f"{{bad}}/{name}.txt" for name in ("empty", "latin", "nowhere")))
    ),
    ("translate: no target", "digits_text", _TRANSLATE),
    ("translate: no such type", "image_text", [*_TRANSLATE, "--target=label"]),
]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What the cases name, and runs of two configs that they could spoil, without weights."""
    folder = tmp_path_factory.mktemp("bad_texts")
    for name, files in _METADATA.items():
        make_pairs(folder / "pairs" / name, files)
    (folder / "another.json").write_text(json.dumps(_ANOTHER))
    (folder / "empty.txt").write_text("\n \n")
    (folder / "latin.txt").write_bytes("caf\u00e9".encode("latin-1"))
    good = make_pairs(folder / "good", {"metadata.jsonl": _lines(*_ROWS)})
    own = {"image_text": {"data__path": good, "data__image_size": 8}, "digits_text": {}}
    for name, changes in own.items():
        config = small.config(ROOT / "configs" / f"{name}.py", **changes)
        workdirs.record(config, folder / "runs" / name)
        (folder / "runs" / name / "checkpoints" / "2").mkdir(parents=True)
    return folder


@functools.cache
def arguments_of(config, folder):
    own = {"image_text": {"data__image_size": 8, "data__workers": 0}}.get(config, {})
    return small.flags(f"configs/{config}.py", folder, **own)


def without_weights(config, workdir):
    return TrainedModel(LatentSpace(config, devices.make_mesh(1)), Model({}, {}), 2)


def _contents(folder):
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {path: path.read_bytes() for path in files}


@pytest.mark.parametrize(("config", "flags"), [row[1:] for row in BAD], ids=[row[0] for row in BAD])
def test_a_bad_input_is_one_line(config, flags, folder, capsys, monkeypatch):
    pytest.importorskip("tokenizers", reason="the package tokenizers is not installed")
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(loading, "restore", without_weights)
    flags = [flag.replace("{bad}", str(folder)) for flag in flags]
    shutil.rmtree(folder / "new", ignore_errors=True)
    before = _contents(folder / "runs")
    code = main.main([*arguments_of(config, folder / "runs" / config), *flags])
    lines = capsys.readouterr().err.splitlines()
    assert code == 2
    assert len([line for line in lines if line.startswith("error: ")]) == 1
    assert _contents(folder / "runs") == before
    assert not (folder / "new" / "config.json").exists()
