"""Texts as tokens of an alphabet, of bytes and of a file of the package tokenizers."""

import itertools
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import small

from lzn_jax import loading, main
from lzn_jax.data import digit_captions
from lzn_jax.data.digit_captions import DIGITS, LEANS, WEIGHTS
from lzn_jax.errors import UserError
from lzn_jax.models.transformer import END
from lzn_jax.run import workdir as workdirs
from lzn_jax.tokenizers import of_bytes, of_characters, of_file, tokenizer

CONFIG = "tests/demo/texts_config.py"


def trained_file(path, **fields):
    """A file of word pieces; fields of its JSON are replaced."""
    reason = "the package tokenizers is not installed: pip install -e '.[text]'"
    package = pytest.importorskip("tokenizers", reason=reason)
    model = package.Tokenizer(package.models.BPE(unk_token="[UNK]"))
    model.pre_tokenizer = package.pre_tokenizers.Metaspace()
    model.decoder = package.decoders.Metaspace()
    texts = [" ".join(parts) for parts in itertools.product(["a"], WEIGHTS, DIGITS, LEANS)]
    trainer = package.trainers.BpeTrainer(
        vocab_size=50, show_progress=False, special_tokens=["[UNK]", "[CLS]"]
    )
    model.train_from_iterator(texts, trainer)
    model.post_processor = package.processors.TemplateProcessing(
        single="[CLS] $A", special_tokens=[("[CLS]", 1)]
    )
    model.enable_truncation(2)
    model.enable_padding(length=9)
    path.write_text(json.dumps(json.loads(model.to_str()) | fields))
    return str(path)


def changes(path):
    return {"data__tokenizer_path": path, "text__alphabet": None}


@pytest.mark.parametrize(
    ("found", "size", "texts"),
    [
        (of_characters(" ab", 6), 4, ["a", "ab ab", " b"]),
        (of_bytes(8), 257, ["a", "ab ab", " b", "é🙂"]),
    ],
    ids=["letters", "bytes"],
)
def test_tokens_are_texts_again(found, size, texts):
    tokens = found.encode(texts)
    assert tokens.shape == (len(texts), found.max_length)
    assert (tokens[:, -1] == END).all()
    assert tokens.max() < found.size == size
    assert found.decode(tokens) == texts


def test_bytes_that_are_no_utf_8_are_marked():
    assert of_bytes(8).decode(np.array([[256, 0, 0, 0, 0, 0, 0, 0]])) == ["\ufffd"]


def test_a_file_says_texts_by_its_own_tokens_and_no_others(tmp_path):
    found = of_file(trained_file(tmp_path / "tokenizer.json"), 20)
    texts = ["a bold seven", "a nine leaning upright"]
    tokens = found.encode(texts)
    assert found.decode(tokens) == texts
    lengths = np.sum(tokens != END, axis=1)
    assert (lengths < [len(text) for text in texts]).all()  # pieces of several letters
    assert (lengths > 2).all()  # the file's truncation is not ours
    assert tokens.min(where=tokens != END, initial=99) > 2  # neither [UNK] nor [CLS], from 1 on
    assert tokens.max() < found.size == 51
    assert found.decode(found.encode(["a bold !"])) == ["a bold [UNK]"]


def test_numbers_that_a_file_leaves_out_take_room(tmp_path):
    model = {"type": "WordLevel", "vocab": {"[UNK]": 0, "a": 7}, "unk_token": "[UNK]"}
    others = dict.fromkeys(("post_processor", "decoder", "pre_tokenizer"))
    path = trained_file(tmp_path / "words.json", model=model, added_tokens=[], **others)
    found = of_file(path, 3)
    assert found.encode(["a"]).tolist() == [[8, END, END]]
    assert found.size == 9


def test_many_texts_are_those_of_one_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr("lzn_jax.tokenizers._TEXTS_AT_A_TIME", 2)
    found = of_file(trained_file(tmp_path / "tokenizer.json"), 20)
    texts = ["a bold", "a", "", "nine standing", "a left nine"]
    tokens, faults = found.encode_known(texts)
    assert faults == {2: "is empty"}
    for text, row in zip(texts, tokens, strict=True):
        np.testing.assert_array_equal(row, found.encode_known([text])[0][0])
    assert found.decode(tokens) == texts


@pytest.mark.parametrize(
    ("kind", "text", "message"),
    [
        ("letters", "abc", "outside the run's vocabulary: c"),
        ("letters", "ababab", "longer than the run's 5 tokens"),
        ("letters", "", "is empty"),
        ("bytes", "éàè", "longer than the run's 5 tokens"),
        ("bytes", "a\ud83d", "outside the run's vocabulary: \ud83d"),
        ("file", " ", "' ' has no tokens in the run's vocabulary"),
        ("file", "a thin nine standing upright", "is longer than the run's 5 tokens"),
        ("file", "a\ud83d", "outside the run's vocabulary: \ud83d"),
    ],
)
def test_a_text_that_cannot_be_said_is_named_or_left_out(kind, text, message, tmp_path):
    if kind == "file":
        fields = {"pre_tokenizer": {"type": "Whitespace"}}
        found = of_file(trained_file(tmp_path / "tokenizer.json", **fields), 6)
    else:
        found = of_bytes(6) if kind == "bytes" else of_characters(" ab", 6)
    with pytest.raises(UserError, match=message):
        found.encode(["a", text])
    tokens, faults = found.encode_known(["a", text])
    assert tokens[0].any()
    assert tokens[1].tolist() == [END] * 6
    assert list(faults) == [1]


def test_texts_are_compared_as_a_file_gives_them_back(tmp_path):
    fields = {
        "normalizer": {"type": "Lowercase"},
        "pre_tokenizer": {"type": "Whitespace"},
        "decoder": None,
    }
    found = of_file(trained_file(tmp_path / "tokenizer.json", **fields), 40)
    texts = [" ".join(parts) for parts in itertools.product(["a"], WEIGHTS, DIGITS, LEANS)]
    written = found.decode(found.encode([text.title() for text in texts]))
    assert not set(written) & set(texts)
    assert found.canonical(texts) == found.canonical([text.upper() for text in texts]) == written
    assert found.canonical(["", "a" * 99]) == ["", "a" * 99]  # without tokens
    parts, again = digit_captions.parse(texts), digit_captions.parse(written, found.canonical)
    np.testing.assert_array_equal(parts, again)
    assert digit_captions.parse(written).digit.max() == -1


EMPTY = {"type": "WordLevel", "vocab": {}, "unk_token": "[UNK]"}
LOST = {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "[UNK]"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "No such file"),
        ("folder", "Is a directory"),
        (b"\xff\xfe", "can't decode byte"),
        (b"a b c", "expected"),
        (b"{}", "Model missing"),
        ({"model": EMPTY, "added_tokens": []}, "[UNK]"),
        ({"model": {"type": "BPE", "vocab": {}, "merges": []}, "added_tokens": []}, "no vocab"),
        ({"model": LOST, "added_tokens": []}, "Missing [UNK] token"),
    ],
)
def test_a_file_that_is_no_tokenizer_is_one_line(content, message, tmp_path, capsys):
    pytest.importorskip("tokenizers", reason="the package tokenizers is not installed")
    path = tmp_path / "tokenizer.json"
    if isinstance(content, dict):
        trained_file(path, **content)
    elif content == "folder":
        path.mkdir()
    elif content is not None:
        path.write_bytes(content)
    flags = small.flags(CONFIG, tmp_path / "run", **changes(path))
    assert main.main(flags) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: data.tokenizer_path={path} ")
    assert message in line
    assert not (tmp_path / "run" / "config.json").exists()


def test_without_the_package_the_line_says_how_to_install_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(UserError, match=r"pip install 'lzn_jax\[text\]'"):
        of_file(str(tmp_path / "tokenizer.json"), 6)


@pytest.fixture
def run(tmp_path):
    """The folder of a run with the tokenizer of a file, its config, and the file."""
    path = trained_file(tmp_path / "words.json")
    config, folder = small.config(CONFIG, **changes(path)), tmp_path / "run"
    workdirs.record(config, folder)
    (folder / "checkpoints" / "2").mkdir(parents=True)
    return folder, config, Path(path)


def test_a_run_keeps_its_tokenizer_and_is_loaded_with_it_wherever_it_is(tmp_path):
    path = trained_file(tmp_path / "words.json")
    config = small.config(CONFIG, **changes(path))
    length = config.text.max_length
    expected = tokenizer(path, None, length).encode(["a bold seven"])
    moved = small.untrained_run(tmp_path / "run", config).rename(tmp_path / "moved")
    trained_file(tmp_path / "words.json", pre_tokenizer=None)  # another from now on
    assert not np.array_equal(tokenizer(path, None, length).encode(["a bold seven"]), expected)
    model = loading.load(moved)
    np.testing.assert_array_equal(model.space.types["text"].encoded(["a bold seven"]), expected)
    assert model.model.variables["text_decoder"]["params"]["Dense_1"]["bias"].shape == (51,)
    assert all(text.startswith("a ") for text in model.context_samples("text", np.arange(12)))


def test_a_tokenizer_that_is_not_the_runs_is_one_line_that_says_where_it_is(run, tmp_path, capsys):
    folder, config, path = run
    copy = folder / "tokenizer.json"
    workdirs.check_same_run(config, folder)
    workdirs.check_same_run(small.config(CONFIG, **changes(copy)), folder)
    workdirs.record(small.config(CONFIG, **changes(None)), tmp_path / "bytes")
    assert not (tmp_path / "bytes" / "tokenizer.json").exists()
    with pytest.raises(UserError, match=r"tokenizer None.*use --config.data.tokenizer_path=None"):
        workdirs.check_same_run(config, tmp_path / "bytes")
    for change in (lambda: path.write_text("{}"), path.unlink):
        change()
        assert main.main(small.flags(CONFIG, folder, **changes(path))) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert f"use --config.data.tokenizer_path={copy} or choose another" in line
    with pytest.raises(UserError, match=f"use --config.data.tokenizer_path={copy} or"):
        workdirs.check_same_run(small.config(CONFIG, **changes(None)), folder)
    copy.unlink()
    with pytest.raises(UserError, match=f"data.tokenizer_path={copy} .*No such file"):
        loading.load(folder)
