"""What benchmarks/faults.py tries: kinds of damage to a checkpoint, and bad command lines."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from PIL import Image

Damage = Callable[[Path, Path], None]  # of the newest checkpoint's folder; an older one beside it


def _files(folder: Path, pattern: str) -> list[Path]:
    return sorted(path for path in folder.glob(pattern) if path.is_file())


def _largest(folder: Path, pattern: str) -> Path:
    return max(_files(folder, pattern), key=lambda path: path.stat().st_size)


def _flip_bit(path: Path, position: float = 0.5) -> None:
    content = bytearray(path.read_bytes())
    content[int(position * (len(content) - 1))] ^= 16
    path.write_bytes(content)


def _flip(pattern: str, position: float = 0.5) -> Damage:
    return lambda newest, older: _flip_bit(_largest(newest, pattern), position)


def _truncate(pattern: str, share: float) -> Damage:
    def damage(newest: Path, older: Path) -> None:
        path = _largest(newest, pattern)
        path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])

    return damage


def _remove(pattern: str) -> Damage:
    def damage(newest: Path, older: Path) -> None:
        for path in newest.glob(pattern):
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    return damage


def _take_from_older(item: str) -> Damage:
    """Item and list of files as of the older checkpoint: each file fits the list."""

    def damage(newest: Path, older: Path) -> None:
        shutil.rmtree(newest / item)
        shutil.copytree(older / item, newest / item)
        (newest / "SHA256SUMS").unlink()

    return damage


def _zero_a_block(newest: Path, older: Path) -> None:
    path = _largest(newest, "params/d/*")
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 512] = bytes(len(content[middle : middle + 512]))
    path.write_bytes(content)


def _zero_all(newest: Path, older: Path) -> None:
    for path in _files(newest, "**/*"):
        path.write_bytes(bytes(path.stat().st_size))


def _swap_two(newest: Path, older: Path) -> None:
    first, second = _largest(newest, "params/d/*"), _largest(newest, "optimizer/d/*")
    contents = first.read_bytes(), second.read_bytes()
    second.write_bytes(contents[0])
    first.write_bytes(contents[1])


def _rename_older(newest: Path, older: Path) -> None:
    shutil.rmtree(newest)
    shutil.copytree(older, newest)


def _flip_without_list(newest: Path, older: Path) -> None:
    (newest / "SHA256SUMS").unlink()
    _flip_bit(_largest(newest, "ema/d/*"))


DAMAGE: dict[str, Damage] = {
    "bit in the parameters": _flip("params/d/*"),
    "bit in the averages": _flip("ema/d/*", 0.9),
    "bit in the optimizer's state": _flip("optimizer/d/*", 0.1),
    "bit in the context anchors": _flip("context/d/*"),
    "bit in an array index": _flip("params/manifest.ocdbt"),
    "bit in an item's metadata": _flip("optimizer/_METADATA"),
    "bit in the shardings": _flip("params/_sharding"),
    "bit in the progress": _flip("progress/metadata", 0.1),
    "bit in the checkpoint's metadata": _flip("_CHECKPOINT_METADATA"),
    "bit in the list of files": _flip("SHA256SUMS", 0.0),
    "bit in the averages, no list of files": _flip_without_list,
    "half a file": _truncate("params/d/*", 0.5),
    "an empty file": _truncate("ema/d/*", 0.0),
    "a block of zeros": _zero_a_block,
    "zeros in all files": _zero_all,
    "a missing file": _remove("ema/manifest.ocdbt"),
    "a missing item": _remove("optimizer"),
    "an empty folder": _remove("*"),
    "two files in each other's place": _swap_two,
    "parameters of an older checkpoint": _take_from_older("params"),
    "progress of an older checkpoint": _take_from_older("progress"),
    "an older checkpoint by this name": _rename_older,
}

WITH_INPUT = ("reconstruct", "interpolate", "embed", "classify")
MODES = ("train", "evaluate", "sample", *WITH_INPUT, "check_data", "replay")


def make_bad_files(folder: Path) -> None:
    """The files and folders that `bad_input` names."""
    folder.mkdir()
    (folder / "file").write_text("in the way")
    (folder / "no_image.png").write_text("no image")
    (folder / "empty").mkdir()
    (folder / "broken.py").write_text("def get_config(:\n")
    (folder / "no_config.py").write_text("x = 1\n")


def bad_input(run: Path, damaged: Path, bad: Path) -> Iterator[tuple[str, list[str]]]:
    """Names and additional flags of command lines that must end with exit code 2.

    Args:
      run: the folder of a run, which all of them could spoil.
      damaged: one of a run whose checkpoints are all damaged.
      bad: what `make_bad_files` has made.
    """
    for mode in MODES:
        for name, flag in (
            ("unknown field", "--config.latent.dimm=3"),
            ("wrong type", "--config.training.batch_size=many"),
            ("unknown flag", "--wordkir=x"),
            ("missing config", "--config=configs/digit_joint.py"),
        ):
            yield f"{mode}: {name}", [f"--mode={mode}", flag]
    for mode in ("evaluate", "sample", "reconstruct", "classify"):
        yield f"{mode}: no run", [f"--mode={mode}", f"--workdir={bad / 'empty'}"]
        yield f"{mode}: damaged checkpoints", [f"--mode={mode}", f"--workdir={damaged}"]
    for mode in WITH_INPUT:
        for name in ("nowhere.png", "no_image.png", "empty"):
            yield f"{mode}: {name}", [f"--mode={mode}", f"--input={bad / name}"]
    for name, flags in {
        "damaged checkpoints": [f"--workdir={damaged}"],
        "unwritable folder": [f"--workdir={bad / 'file' / 'run'}"],
        "another run": ["--config.latent.dim=5"],
        "another seed": ["--config.seed=1"],
        "out of range": ["--config.training.ema_decay=1.5"],
        "not a choice": ["--config.alignment.form=logarithm"],
        "unknown data": ["--config.data.name=digit"],
        "no data": ["--config.data.name=fashion", "--config.data.path=/nowhere"],
        "context too large": ["--config.latent.context_size=1438", f"--workdir={bad / 'new'}"],
        "config with an error": [f"--config={bad / 'broken.py'}"],
        "config without one": [f"--config={bad / 'no_config.py'}"],
        "unknown mode": ["--mode=fly"],
        "input that nothing reads": ["--input=x.png"],
        "nothing to replay": ["--mode=replay"],
    }.items():
        yield name, flags


_IMAGES = {"train": 20, "test": 8}
_NAMES = [f"{split}/{number}.png" for split, count in _IMAGES.items() for number in range(count)]
_ROWS = [{"file_name": name, "text": f"the picture {name}"} for name in _NAMES]
_CSV = "".join(f"{name},the picture {name}\n" for name in _NAMES)


def _lines(*rows: object) -> str:
    return "".join(f"{json.dumps(row)}\n" for row in rows)


# Files beside images, by what is wrong with them.
_METADATA: dict[str, dict[str, str]] = {
    "no metadata": {},
    "two files": {"metadata.jsonl": _lines(*_ROWS), "metadata.csv": f"file_name,text\n{_CSV}"},
    "no JSON": {"metadata.jsonl": f"{_lines(*_ROWS)}{{'file_name': 'train/1.png'}}\n"},
    "a row that is a list": {"metadata.jsonl": _lines(*_ROWS, ["train/1.png", "a picture"])},
    "a row without text": {"metadata.jsonl": _lines(*_ROWS, {"file_name": "train/1.png"})},
    "several texts in a row": {"metadata.jsonl": _lines({**_ROWS[0], "text": ["a", "b"]})},
    "other columns": {"metadata.csv": f"file,caption\n{_CSV}"},
    "a comma without quotes": {"metadata.csv": f"file_name,text\n{_CSV}train/1.png,red, green\n"},
    "an open quote": {"metadata.csv": f'file_name,text\n{_CSV}train/1.png,"red\n'},
    "not in UTF-8": {"metadata.jsonl": '{"file_name": "train/1.png", "text": "caf\udce9"}\n'},
    "a text of no image": {"metadata.jsonl": _lines(*_ROWS, {**_ROWS[0], "file_name": "no.png"})},
    "an empty text": {"metadata.jsonl": _lines(*_ROWS, {**_ROWS[0], "text": " "})},
    "tests without texts": {"metadata.jsonl": _lines(*_ROWS[: _IMAGES["train"]])},
    "texts that are all too long": {
        "metadata.jsonl": _lines(*({**r, "text": "a" * 99} for r in _ROWS))
    },
}
_NO_UNKNOWN = {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "[UNK]"}
_NOTHING = {"type": "BPE", "vocab": {}, "merges": []}
_TOKENIZERS = {
    "no_json": "a b c",
    "no_model": "{}",
    "nothing": json.dumps({"model": _NOTHING, "added_tokens": []}),
    "no_unknown": json.dumps({"model": _NO_UNKNOWN, "added_tokens": []}),
    "another": json.dumps({"model": {**_NO_UNKNOWN, "unk_token": "a"}, "added_tokens": []}),
}


def make_pairs(folder: Path, files: dict[str, str]) -> Path:
    """A folder of images with these files of texts beside them."""
    for number, name in enumerate(_NAMES):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (9 * number, 0, 0)).save(folder / name)
    for name, content in files.items():
        (folder / name).write_bytes(content.encode(errors="surrogateescape"))
    return folder


def make_good_pairs(folder: Path) -> Path:
    """A folder of images with a text each, in the folders train and test."""
    return make_pairs(folder, {"metadata.jsonl": _lines(*_ROWS)})


def make_bad_texts(folder: Path) -> None:
    """The files and folders that `bad_texts` names."""
    for name, files in _METADATA.items():
        make_pairs(folder / "pairs" / name, files)
    for name, content in _TOKENIZERS.items():
        (folder / f"{name}.json").write_text(content)
    (folder / "empty.txt").write_text("\n \n")
    (folder / "latin.txt").write_bytes("caf\u00e9".encode("latin-1"))
    (folder / "folder").mkdir()


def bad_texts(bad: Path) -> Iterator[tuple[str, str, list[str]]]:
    """Names, configs and additional flags of commands about texts that must end with code 2.

    Where none of the flags is a folder, the run that they could spoil is one of the config; `bad`
    is what `make_bad_texts` has made.
    """
    new = f"--workdir={bad / 'new'}"
    for name in _METADATA:
        path = f"--config.data.path={bad / 'pairs' / name}"
        yield f"metadata: {name}", "image_text", [path]
    for name in ("nowhere.json", "folder", *(f"{name}.json" for name in _TOKENIZERS)):
        path = f"--config.data.tokenizer_path={bad / name}"
        where = [] if name == "another.json" else [new]
        yield f"tokenizer: {name}", "digits_text", [path, "--config.text.alphabet=None", *where]
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
        "data.languages=('klingon',)",
        "data.languages=()",
        "data.languages=en",
        "data.test_set=tones",
        "text_decoder.latents=('label',)",
        "data.captions=False",
        "data.image_size=300",
    ):
        yield f"emoji: {flag}", "emoji_text", [f"--config.{flag}", new]
    translate = ["--mode=translate", "--source=text", "--target=image"]
    files = [str(bad / name) for name in ("empty.txt", "latin.txt", "nowhere.txt")]
    for text in ("", "a bold 7", "a bold seven " * 9, *files):
        yield f"input: {Path(text).name[:20]!r}", "digits_text", [*translate, f"--input={text}"]
    yield "translate: no target", "digits_text", translate[:2]
    yield "translate: no such type", "image_text", [*translate[:2], "--target=label"]
