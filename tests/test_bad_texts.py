"""Bad metadata, tokenizers, captions and options: code 2, one line, and no run is touched."""

import json
import shutil
from pathlib import Path

import pytest
import small
from PIL import Image

from lzn_jax import main

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
_ANOTHER = {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}


def make_pairs(folder, files):
    """A folder of images with these files of texts beside them."""
    for number, name in enumerate(_NAMES):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (9 * number, 0, 0)).save(folder / name)
    for name, content in files.items():
        (folder / name).write_bytes(content.encode(errors="surrogateescape"))
    return folder


def make_bad_texts(folder):
    """The files and folders that `bad_texts` names."""
    for name, files in _METADATA.items():
        make_pairs(folder / "pairs" / name, files)
    another = {"model": _ANOTHER, "added_tokens": []}
    (folder / "another.json").write_text(json.dumps(another))
    (folder / "empty.txt").write_text("\n \n")
    (folder / "latin.txt").write_bytes("caf\u00e9".encode("latin-1"))


def bad_texts(bad):
    """Names, configs and additional flags of commands about texts that must end with code 2.

    Where none of the flags is a folder, the run that they could spoil is one of the config; `bad`
    is what `make_bad_texts` has made.
    """
    new = f"--workdir={bad / 'new'}"
    for name in _METADATA:
        path = f"--config.data.path={bad / 'pairs' / name}"
        yield f"metadata: {name}", "image_text", [path]
    path = f"--config.data.tokenizer_path={bad / 'another.json'}"
    yield "tokenizer of another run", "digits_text", [path, "--config.text.alphabet=None"]
    for flag in (
        "text.alphabet=",
        "text.alphabet=xyz",
        "text.max_length=1",
        "text.max_length=9",
        "text_encoder.num_heads=3",
        "text_decoder.latents=('sound',)",
        "text_decoder.latents=()",
        "decoder.latents=()",
        "decoder.condition=sound",
        "training.text_weight=0",
        "sampling.top_p=0",
        "sampling.temperature=-1",
        "objective=clip",
        "data.captions=False",
        "data.tokenizer_path=x.json",
    ):
        yield f"option: {flag}", "digits_text", [f"--config.{flag}", new]
    for flag in (
        "text_decoder.latents=('label',)",
        "data.captions=False",
    ):
        yield f"emoji: {flag}", "emoji_text", [f"--config.{flag}", new]
    translate = ["--mode=translate", "--source=text", "--target=image"]
    files = [str(bad / name) for name in ("empty.txt", "latin.txt", "nowhere.txt")]
    for text in ("", "a bold 7", "a bold seven " * 9, *files):
        yield f"input: {Path(text).name[:20]!r}", "digits_text", [*translate, f"--input={text}"]
    yield "translate: no target", "digits_text", translate[:2]
    yield "translate: no such type", "image_text", [*translate[:2], "--target=label"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What the cases name, and runs of two configs that they could spoil."""
    folder = tmp_path_factory.mktemp("bad_texts")
    make_bad_texts(folder)
    good = make_pairs(folder / "good", {"metadata.jsonl": _lines(*_ROWS)})
    own = {"image_text": {"data__path": good, "data__image_size": 8}, "digits_text": {}}
    for name, changes in own.items():
        config = small.config(ROOT / "configs" / f"{name}.py", **changes)
        small.untrained_run(folder / "runs" / name, config)
    return folder


def _contents(folder):
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {path: path.read_bytes() for path in files}


@pytest.mark.parametrize("case", [name for name, _, _ in bad_texts(Path("bad"))])
def test_a_bad_input_is_one_line(case, folder, capsys, monkeypatch):
    pytest.importorskip("tokenizers", reason="the package tokenizers is not installed")
    monkeypatch.chdir(ROOT)
    found = {name: (config, flags) for name, config, flags in bad_texts(folder)}
    config, flags = found[case]
    own = {"image_text": {"data__image_size": 8, "data__workers": 0}}.get(config, {})
    shutil.rmtree(folder / "new", ignore_errors=True)
    before = _contents(folder / "runs")
    arguments = small.flags(f"configs/{config}.py", folder / "runs" / config, **own)
    code = main.main([*arguments, *flags])
    lines = capsys.readouterr().err.splitlines()
    assert code == 2
    assert len([line for line in lines if line.startswith("error: ")]) == 1
    assert _contents(folder / "runs") == before
    assert not (folder / "new" / "config.json").exists()
