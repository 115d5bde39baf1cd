"""Folders of images with texts: rows of metadata.jsonl and metadata.csv as pairs."""

import json

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from lzn_jax import data
from lzn_jax.data import decoded, load_pairs_alone
from lzn_jax.errors import UserError


def _config(path, **changes):
    fields = {"name": "image_folder", "path": str(path), "image_size": 2, "channels": 1}
    fields |= {"num_classes": 1, "class_name": None, "holdout": 0, "flip": False, "workers": 0}
    return ConfigDict(fields | {"skip_unreadable": False, "captions": True} | changes)


def _make(root, *names):
    """Image number k in the order given is all k."""
    for level, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((2, 2), level, np.uint8)).save(path)
    return root


def _write(path, *rows, encoding="utf-8"):
    """Rows (file_name, text) as JSON lines or CSV, whichever the path's name says."""
    if path.suffix == ".jsonl":
        lines = [json.dumps({"file_name": name, "text": text, "id": 7}) for name, text in rows]
    else:
        quoted = [text.replace('"', '""') for _, text in rows]
        lines = ["text,id,file_name"]
        lines += [f'"{text}",7,{name}' for (name, _), text in zip(rows, quoted, strict=True)]
    path.write_text("\n".join(lines) + "\n", encoding=encoding)


def _pairs(examples):
    levels = examples.images[:][:, 0, 0, 0].tolist()
    return list(zip(levels, examples.texts.tolist(), strict=True))


@pytest.mark.parametrize("file", ["metadata.jsonl", "metadata.csv"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_each_row_is_an_example_in_the_order_of_the_images(tmp_path, file, encoding):
    _make(tmp_path, "b.png", "sub/a.png")
    rows = [("sub/a.png", 'é🙂, "so"'), ("./b.png", "two\nlines"), ("sub/a.png", "$x$")]
    _write(tmp_path / file, *rows, encoding=encoding)
    train = data.load(_config(tmp_path), "train")
    assert _pairs(train) == [(0, "two\nlines"), (1, 'é🙂, "so"'), (1, "$x$")]
    assert train.labels.tolist() == [0, 0, 0]
    assert train.left_out == ()


def test_without_captions_metadata_is_not_read(tmp_path):
    _make(tmp_path, "a.png", "b.png")
    (tmp_path / "metadata.csv").write_text("nonsense")
    examples = data.load(_config(tmp_path, captions=False), "train")
    assert (len(examples.images), examples.texts) == (2, None)


@pytest.mark.parametrize("at_root", [False, True])
def test_splits_and_classes_have_their_own_texts(tmp_path, at_root):
    """A file in each split's folder, or one beside them whose names hold the folder."""
    images = ["train/cat/a.png", "train/dog/b.png", "test/cat/c.png", "test/dog/d.png"]
    _make(tmp_path, *images)
    rows = [(name, f"text of {name}") for name in reversed(images)]
    if at_root:
        _write(tmp_path / "metadata.jsonl", *rows)
    for split in ("train", "test") if not at_root else ():
        own = [(n.removeprefix(f"{split}/"), text) for n, text in rows if n.startswith(split)]
        _write(tmp_path / split / "metadata.jsonl", *own)
    config = _config(tmp_path, num_classes=2, holdout=None)
    train, test = data.load(config, "train"), data.load(config, "test")
    assert _pairs(train) == [(i, f"text of {images[i]}") for i in (0, 1)]
    assert _pairs(test) == [(i, f"text of {images[i]}") for i in (2, 3)]
    assert train.labels.tolist() == test.labels.tolist() == [0, 1]
    alone = _config(tmp_path, class_name="dog", holdout=None)
    assert _pairs(data.load(alone, "train")) == [(1, f"text of {images[1]}")]


@pytest.mark.parametrize("holdout", [1, 2])
def test_a_held_out_image_takes_all_its_texts_along(tmp_path, holdout):
    _make(tmp_path, *(f"{i}.png" for i in range(5)))
    rows = [(f"{i}.png", f"{i} said {j}") for j in range(3) for i in range(5) if (i, j) != (4, 2)]
    _write(tmp_path / "metadata.jsonl", *rows)
    config = _config(tmp_path, holdout=holdout)
    train, test = _pairs(data.load(config, "train")), _pairs(data.load(config, "test"))
    assert len({level for level, _ in test}) == holdout
    assert sorted(train + test) == sorted((int(name[0]), text) for name, text in rows)
    assert not {level for level, _ in train} & {level for level, _ in test}


def test_deeply_nested_metadata_are_no_json(tmp_path):
    _make(tmp_path, "a.png")
    (tmp_path / "metadata.jsonl").write_text("[" * 10**5)
    with pytest.raises(UserError, match=r"line 1 of .*metadata\.jsonl is not valid JSON"):
        data.load(_config(tmp_path), "train")


def test_pairs_are_held_out_by_text(tmp_path):
    """Texts that repeat in the order of names had been drawn as evenly as the names."""
    _make(tmp_path, *(f"{i:03}.png" for i in range(120)))
    _write(tmp_path / "metadata.jsonl", *((f"{i:03}.png", f"text {i % 6}") for i in range(120)))
    for holdout in (12, 20, 100):
        for split, count in (("train", 120 - holdout), ("test", holdout)):
            texts = [
                text for _, text in _pairs(data.load(_config(tmp_path, holdout=holdout), split))
            ]
            counts = [texts.count(f"text {k}") for k in range(6)]
            assert sum(counts) == count
            assert max(counts) - min(counts) <= 1


def test_metadata_above_the_data_sets_folder_are_not_its_own(tmp_path):
    _make(tmp_path / "data", "a.png")
    _write(tmp_path / "metadata.jsonl", ("data/a.png", "a"))
    with pytest.raises(UserError, match=r"data has no metadata.jsonl or metadata.csv"):
        data.load(_config(tmp_path / "data"), "train")


def test_images_without_a_text_are_none_of_those_to_hold_out_of(tmp_path):
    _make(tmp_path, *(f"{i}.png" for i in range(9)))
    _write(tmp_path / "metadata.jsonl", *((f"{i}.png", f"{i}") for i in (0, 1, 8)))
    config = _config(tmp_path, holdout=1, skip_unreadable=True)
    (test,), train = (_pairs(data.load(config, split)) for split in ("test", "train"))
    assert sorted([test, *train]) == [(0, "0"), (1, "1"), (8, "8")]
    config.holdout = 3
    with pytest.raises(UserError, match=r"data.holdout must leave some of 3 "):
        data.load(config, "test")


def test_what_is_no_pair_is_an_error_or_left_out_counted_and_named(tmp_path, caplog):
    _make(tmp_path, "a.png", "b.png", "c.png", *(f"silent/{i:02}.png" for i in range(22)))
    rows = [("a.png", "one"), ("gone.png", "x"), ("a.png", "one"), ("b.png", " "), ("b.png", "b")]
    _write(tmp_path / "metadata.jsonl", *rows, ("nowhere/d.png", "y"), ("c.png", ""))
    config = _config(tmp_path)
    with pytest.raises(
        UserError, match=r"28 texts or images form no pair, the first .* gone\.png in line 2"
    ):
        data.load(config, "train")
    caplog.clear()
    config.skip_unreadable = True
    examples = data.load(config, "train")
    assert _pairs(examples) == [(0, "one"), (1, "b")]
    assert len(examples.left_out) == 2 + 2 + 1 + 23
    named = caplog.messages
    faults = [
        "a text without its image: gone.png in line 2 of ",
        "a repeated pair: a.png in line 3 of ",
        "an empty text: b.png in line 4 of ",
        "a text without its image: nowhere/d.png in line 6 of ",
        "an empty text: c.png in line 7 of ",
        *(f"an image without a text: {tmp_path}/silent/{i:02}.png" for i in range(19)),
    ]
    faults.insert(5, f"an image without a text: {tmp_path}/c.png")
    for message, fault in zip(named, faults, strict=False):
        assert message.startswith(f"left out, not a pair: {fault}")
    assert len(named) == len(faults) + 4
    assert named[-1] == "left out in total: an image without a text (23)"
    assert load_pairs_alone(_config(tmp_path), "train").left_out == examples.left_out


def test_no_image_is_read_before_it_is_asked_for(tmp_path):
    _make(tmp_path, "a.png", "b.png")
    (tmp_path / "b.png").write_text("no image")
    _write(tmp_path / "metadata.jsonl", ("a.png", "a"), ("b.png", "b"))
    images = data.load(_config(tmp_path), "train").images
    with pytest.raises(UserError, match=r"b\.png \(its format is unknown\)"):
        images[:]


def test_an_image_that_stands_in_for_another_brings_its_own_text(tmp_path):
    _make(tmp_path, "a.png", "b.png", "c.png")
    (tmp_path / "b.png").write_text("no image")
    _write(tmp_path / "metadata.jsonl", ("a.png", "a"), ("b.png", "b"), ("c.png", "c"))
    config = _config(tmp_path, skip_unreadable=True)
    examples = data.load(config, "train")
    columns = {"said": np.array([ord(text) for text in examples.texts])}
    with data.TrainingBatches(examples, 3, 0, data.whole_image(config), columns=columns) as batches:
        batch = next(batches)
    levels = batch["images"][:, 0, 0, 0].tolist()
    assert sorted(levels) == [0, 2, 2]
    assert batch["said"].tolist() == [ord("abc"[level]) for level in levels]


def test_a_pair_whose_own_image_cannot_be_read_is_not_measured(tmp_path, caplog):
    _make(tmp_path, "a.png", "b.png", "c.png")
    (tmp_path / "b.png").write_text("no image")
    _write(tmp_path / "metadata.jsonl", ("a.png", "a"), ("b.png", "b"), ("c.png", "c"))
    examples = data.load(_config(tmp_path, skip_unreadable=True), "train")
    found = decoded(examples, np.arange(3))
    assert found.texts.tolist() == ["a", "c"]
    assert found.images[:, 0, 0, 0].tolist() == [0, 2]
    assert len(found.labels) == 2
    (line,) = caplog.messages
    assert line.endswith("b.png")
    assert decoded(examples, np.array([2])).texts.tolist() == ["c"]
    with pytest.raises(UserError, match=r"b\.png \(its format is unknown\)"):
        decoded(data.load(_config(tmp_path), "train"), np.arange(3))


CSV = "file_name,text\n"
JSON = '{"file_name": "a.png", "text": "a"}\n'


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "has no metadata.jsonl or metadata.csv with file_name and text: write one"),
        ({"metadata.csv": CSV, "metadata.jsonl": JSON}, "holds both .*: remove one"),
        ({"metadata.jsonl": f"{JSON}{{'file_name': 'a.png'}}"}, "line 2 of .* is not valid JSON"),
        ({"metadata.jsonl": f"{JSON}\n[1]"}, "line 3 of .* must have the form {"),
        ({"metadata.jsonl": f"{JSON}null"}, "line 2 of .* must have the form {"),
        ({"metadata.jsonl": '{"file_name": "a.png", "caption": "a"}'}, "line 1 .* file_name and"),
        ({"metadata.jsonl": '{"file_name": "a.png", "text": ["a", "b"]}'}, "line 1 .* strings"),
        ({"metadata.jsonl": ""}, r"no image has a text, the first is .*a\.png"),
        ({"metadata.csv": ""}, "line 1 of .* must name the columns file_name and text"),
        ({"metadata.csv": "file,text\na.png,a\n"}, "line 1 of .* must name the columns"),
        ({"metadata.csv": f"{CSV}a.png,a\na.png,b, c\n"}, "line 3 .* too many fields: put texts"),
        ({"metadata.csv": f"{CSV}a.png\n"}, "line 2 of .* must have file_name and text"),
        (
            {"metadata.csv": f'{CSV}a.png,"a\n'},
            "line 2 of .* is not valid CSV: unexpected end of data",
        ),
        ({"metadata.csv": f"{CSV}b.png,b\n"}, "no image has a text"),
        ({"metadata.csv": f"{CSV}a.png,é\n".encode("latin-1")}, "line 2 .* not encoded in UTF-8"),
    ],
)
def test_malformed_metadata_is_named_in_one_line(tmp_path, files, message):
    _make(tmp_path, "a.png")
    for name, content in files.items():
        content = content if isinstance(content, bytes) else content.encode()
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message) as raised:
        data.load(_config(tmp_path), "train")
    assert len(str(raised.value).splitlines()) == 1
