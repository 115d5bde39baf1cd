"""Data sets in the formats of the Hugging Face Hub, here tiny ones that the test writes itself."""

import io
import pickle
import re
import sys

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from lzn_jax import configuration, data, main
from lzn_jax.data.batches import TrainingBatches, whole_image
from lzn_jax.data.pixels import EncodedImages
from lzn_jax.errors import EXIT_DONE

datasets = pytest.importorskip("datasets", reason="pip install -e '.[hf]'")
pyarrow = pytest.importorskip("pyarrow", reason="pip install -e '.[hf]'")

NAMES = ["one", "two", "three"]
PIXELS = np.random.default_rng(0).integers(0, 256, (24, 8, 8, 1), np.uint8)
LABELS = np.random.default_rng(1).integers(0, 3, 24).astype(np.int32)
IMAGES, CLASSES = datasets.Image(), datasets.ClassLabel(names=NAMES)
STRING = datasets.Value("string")


@pytest.fixture(autouse=True)
def alone(tmp_path, monkeypatch):
    """The library's cache, in a folder of the test, and no network."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


def png(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(file, "PNG")
    return file.getvalue()


def table(rows=slice(None), **columns):
    """A table of images and labels, and of more (feature, values) by name."""
    columns = {
        "image": (IMAGES, [{"bytes": png(p), "path": None} for p in PIXELS[rows]]),
        "label": (CLASSES, LABELS[rows].tolist()),
    } | columns
    kept = {name: column for name, column in columns.items() if column is not None}
    features = datasets.Features({name: feature for name, (feature, _) in kept.items()})
    return datasets.Dataset.from_dict({n: v for n, (_, v) in kept.items()}, features=features)


def to_parquet(folder, splits):
    folder.mkdir(exist_ok=True)
    for name, rows in splits.items():
        rows.to_parquet(folder / f"{name}-00000-of-00001.parquet")


def to_arrow(folder, splits):
    folder.mkdir()
    for name, rows in splits.items():
        with pyarrow.ipc.new_stream(str(folder / f"{name}.arrow"), rows.data.schema) as file:
            file.write_table(rows.data.table)


def to_disk(folder, splits):
    datasets.DatasetDict(splits).save_to_disk(folder)


def config_of(folder, **changes):
    fields = {"name": "huggingface", "path": str(folder), "image_size": 8, "centre_crop": 1.0}
    fields |= {"channels": 1, "num_classes": 3, "flip": False, "workers": 0, "captions": False}
    fields |= {"skip_unreadable": False, "holdout": None, "holdout_seed": 0, "subset": None}
    fields |= {"train_split": "train", "test_split": None}
    fields |= dict.fromkeys(("image_column", "label_column", "text_column"))
    return ConfigDict(fields | changes)


@pytest.fixture
def written(tmp_path):
    """Writes splits as Parquet; returns the config's `data` group."""

    def write(splits, **changes):
        to_parquet(tmp_path / "set", splits)
        return config_of(tmp_path / "set", **changes)

    return write


@pytest.mark.parametrize("write", [to_parquet, to_arrow, to_disk])
def test_arrays_that_were_written_are_read_bit_by_bit_in_their_order(tmp_path, write):
    write(tmp_path / "set", {"train": table(slice(16)), "test": table(slice(16, None))})
    config = config_of(tmp_path / "set")
    for split, rows in (("train", slice(16)), ("test", slice(16, None))):
        examples = data.load(config, split)
        assert isinstance(examples.images, EncodedImages)
        np.testing.assert_array_equal(examples.images[:], PIXELS[rows])
        np.testing.assert_array_equal(examples.labels, LABELS[rows])
        assert (examples.labels.dtype, examples.texts) == (np.int32, None)
    assert data.class_names(config) == tuple(NAMES)
    config.num_classes = 1
    assert not data.load(config, "train").labels.any()
    assert data.class_names(config) == ("",)


def test_a_table_that_was_saved_alone_is_the_training_split(tmp_path, fault_of):
    table().save_to_disk(tmp_path / "set")
    config = config_of(tmp_path / "set")
    np.testing.assert_array_equal(data.load(config, "train").images[:], PIXELS)
    line = fault_of(config, "test")
    assert line.endswith(
        "set has no split test or validation: set data.test_split to one of train, or data.holdout "
        "to the number of training images to hold out"
    )


def test_batches_are_those_of_arrays_also_of_a_copy_for_a_worker_and_for_own_rows(written):
    """Workers get paths of files: the images are not in memory."""
    many = [*range(24)] * 20
    config = written({"train": table(many)}, holdout=0, flip=True)
    encoded = data.load(config, "train")
    content = pickle.dumps(encoded.images)
    assert len(content) < 24 * 20 * 8 + 3000 < PIXELS[many].nbytes
    transform, found = whole_image(config), []
    for images in (PIXELS[many], encoded.images, pickle.loads(content)):
        with TrainingBatches(encoded._replace(images=images), 8, 3, transform) as batches:
            found.append([next(batches) for _ in range(3)])
    with TrainingBatches(encoded, 8, 3, transform, rows=slice(4, 8)) as batches:
        found.append([next(batches) for _ in range(3)])
    for whole, *same, own in zip(*found, strict=True):
        for name, values in whole.items():
            for other in same:
                np.testing.assert_array_equal(other[name], values)
            np.testing.assert_array_equal(own[name], values[4:])


@pytest.mark.parametrize(
    ("splits", "changes", "rows"),
    [
        ({"train": 8, "validation": 12, "test": 24}, {}, range(12, 24)),
        ({"train": 8, "validation": 24}, {}, range(8, 24)),
        ({"train": 8, "validation": 12, "test": 24}, {"test_split": "validation"}, range(8, 12)),
        ({"train": 8, "test": 24}, {"holdout": 0}, range(8)),
    ],
)
def test_the_test_split_is_named_or_found(written, splits, changes, rows):
    starts = [0, *splits.values()]
    parts = zip(splits.items(), starts, strict=False)
    config = written({n: table(slice(s, end)) for (n, end), s in parts}, **changes)
    images = data.load(config, "test").images[:]
    np.testing.assert_array_equal(images, PIXELS[rows])


def test_without_a_test_split_examples_are_held_out_by_class(written):
    config = written({"train": table()}, holdout=6)
    train, test = (data.load(config, split) for split in ("train", "test"))
    assert (len(train.labels), len(test.labels)) == (18, 6)
    together = np.concatenate([train.images[:], test.images[:]])
    rows = [np.flatnonzero((image == PIXELS).all(axis=(1, 2, 3))).item() for image in together]
    assert sorted(rows) == list(range(24))
    np.testing.assert_array_equal(np.concatenate([train.labels, test.labels]), LABELS[rows])
    part = train.at(np.array([9, 2])).images
    np.testing.assert_array_equal(part[:], train.images[[9, 2]])
    assert part.source.name(0).startswith(f"row {rows[9]} of ")
    shares = np.bincount(LABELS, minlength=3) / 4
    assert np.all(np.abs(np.bincount(test.labels, minlength=3) - shares) < 1)


def test_fields_follow_from_the_data(written, monkeypatch, tmp_path):
    path = written({"train": table()}).path
    monkeypatch.chdir(tmp_path)
    config = configuration.load("digits_joint", ["data.name=huggingface", "data.path=set"])
    found = config.data
    assert (found.path, found.image_size, found.channels, found.num_classes) == (path, 8, 1, 3)
    assert (found.holdout, config.latent.context_size) == (2, 22)
    coloured = np.repeat(PIXELS, 3, axis=-1)
    wide = [{"bytes": png(np.tile(p, (1, 1 + row, 1))), "path": None} for row, p in
            enumerate(coloured)]  # fmt: skip
    written({"train": table(image=(IMAGES, wide)), "validation": table()})
    config = configuration.load("digits_joint", ["data.name=huggingface", "data.path=set"])
    found = config.data
    assert (found.image_size, found.channels, found.holdout) == (32, 3, None)
    # Nothing is opened when all fields are known, as a Hub name would be asked for.
    known = ["data.image_size=8", "data.channels=1", "data.num_classes=10", "data.path=own/er"]
    assert configuration.load("digits_joint", ["data.name=huggingface", *known]).data.path == (
        "own/er"
    )


@pytest.mark.parametrize(
    ("values", "names"),
    [
        ([8 * v + 2 for v in LABELS.tolist()], ("2", "10", "18")),
        ([NAMES[v] for v in LABELS], ("one", "three", "two")),
    ],
)
def test_a_named_column_without_classes_has_its_sorted_values(written, values, names):
    feature = datasets.Value("string" if isinstance(values[0], str) else "int64")
    splits = {"train": table(label=None, y=(feature, values)),
              "test": table(slice(1), label=None, y=(feature, values[:1]))}  # fmt: skip
    config = written(splits, label_column="y")
    assert data.class_names(config) == names
    for split in ("train", "test"):
        found = data.load(config, split).labels
        assert [names[label] for label in found] == list(map(str, values))[: len(found)]


def test_each_text_of_a_row_is_an_example(written):
    said = [["a", "b"], [], ["c", "a", "c"], None] + [[f"{i}"] for i in range(4, 24)]
    features = {"texts": (datasets.List(STRING), said), "said": (STRING, list("xyz") * 8)}
    config = written({"train": table(**features)}, captions=True, skip_unreadable=True)
    config.text_column = "texts"
    examples = data.load(config, "train")
    expected = [(0, "a"), (0, "b"), (2, "c"), (2, "a"), *((i, f"{i}") for i in range(4, 24))]
    assert list(zip(examples.image_ids, examples.texts, strict=True)) == expected
    rows = [row for row, _ in expected]
    np.testing.assert_array_equal(examples.images[:], PIXELS[rows])
    np.testing.assert_array_equal(examples.labels, LABELS[rows])
    assert len(examples.left_out) == 4  # twice "c", an empty text, and two images without one
    config.text_column = "said"
    assert data.load(config, "train").texts.tolist() == list("xyz") * 8
    config.holdout = 8  # by text
    assert np.unique(data.load(config, "test").texts).tolist() == ["x", "y", "z"]


def test_images_may_be_files_and_unreadable_ones_are_named(fault_of, tmp_path):
    (tmp_path / "0.png").write_bytes(png(PIXELS[7]))
    files = [{"bytes": None, "path": str(tmp_path / name)} for name in ("0.png", "none.png")]
    files += [None, {"bytes": b"no image", "path": "2.png"}]
    # Other formats would contain the files.
    to_arrow(tmp_path / "set", {"train": table(slice(4), image=(IMAGES, files))})
    images = data.load(config_of(tmp_path / "set"), "train").images
    np.testing.assert_array_equal(images[0], PIXELS[7])
    faults = ["No such file or directory", "it is empty", "its format is unknown"]
    for row, reason in enumerate(faults, 1):
        named = f"row {row} of {tmp_path}/set's split train ({reason})"
        assert named in fault_of(read=lambda row=row: images[row])


TWO = {"label": (CLASSES, LABELS.tolist()), "fine": (CLASSES, LABELS.tolist())}
MASKED = {"mask": (IMAGES, [{"bytes": png(p), "path": None} for p in PIXELS])}
SAID = {"text": (STRING, ["a"] * 24), "url": (STRING, ["b"] * 24)}


@pytest.mark.parametrize(
    ("columns", "changes", "message"),
    [
        (TWO, {}, "one column of labels, found 2: set data.label_column to one of label, fine"),
        (MASKED, {}, "one column of images, found 2: set data.image_column to one of image, mask"),
        ({"image": None}, {}, "found 0: set data.image_column to one of label, got None"),
        (SAID, {"captions": True}, "found 2: set data.text_column to one of text, url, got None"),
        ({}, {"captions": True}, "found 0: set data.text_column to one of image, label"),
        (SAID, {"text_column": "label", "captions": True}, "texts, found 0: .*got 'label'"),
        ({}, {"label_column": "image"}, "labels, found 0: .* image, label, got 'image'"),
        ({}, {"image_column": "y"}, "images, found 0: .* image, label, got 'y'"),
        ({}, {"num_classes": 4}, "data.num_classes must be 3 with the labels of .*, got 4"),
        ({"label": None}, {}, "data.num_classes must be 1 with the labels of .*label_column names"),
        ({"label": (CLASSES, [-1] * 24)}, {}, r"train contains a label .*\(-1\): set data.test_s"),
        ({"label": (CLASSES, [None] * 24)}, {}, r"contains a label .* \(None\): set data.test_s"),
        ({}, {"train_split": "all"}, "has no split all: set data.train_split to one of train, or"),
        ({}, {"subset": "large"}, "set cannot be opened .*'large' not found.* data.subset"),
    ],
)
def test_columns_and_splits_that_are_not_there_are_named(
    written, fault_of, columns, changes, message
):
    assert re.search(message, fault_of(written({"train": table(**columns)}, **changes)))


def test_a_test_split_has_the_classes_of_training_by_name(tmp_path, fault_of):
    others = datasets.ClassLabel(names=["three", "two", "four"])
    splits = {"train": table(), "test": table(slice(2), label=(others, [0, 1]))}
    to_disk(tmp_path / "set", splits)
    assert data.load(config_of(tmp_path / "set"), "test").labels.tolist() == [2, 1]
    splits["test"] = table(slice(2), label=(others, [0, 2]))
    to_disk(tmp_path / "other", splits)
    line = fault_of(config_of(tmp_path / "other"), "test")
    assert "split test contains a label without a class in the training split ('four')" in line


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("owner/name", r"set owner/name cannot be opened \(.*Offline.*check the network"),
        ("/nowhere/at/all", "set /nowhere/at/all cannot be opened .*: correct data.path"),
        ("hf://datasets/owner/name", "an address can only be streamed, and shuffling needs random"),
        ("https://host/train.parquet", "must be a folder or OWNER/NAME on the Hub, got https"),
    ],
)
def test_what_cannot_be_opened_is_one_line(fault_of, path, message):
    assert re.search(message, fault_of(config_of(path)))


def test_nothing_in_a_folder_runs(tmp_path, fault_of, monkeypatch):
    for name in ("script", "set"):
        folder = tmp_path / name
        to_parquet(folder, {"train": table()})
        (folder / "script.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    assert "scripts are no longer supported" in fault_of(config_of(tmp_path / "script"))
    assert len(data.load(config_of(tmp_path / "set"), "train").labels) == 24
    (tmp_path / "set" / "train-00000-of-00001.parquet").write_text("nonsense")
    assert "not a parquet file" in fault_of(config_of(tmp_path / "set"))
    assert not (tmp_path / "ran").exists()
    monkeypatch.setitem(sys.modules, "datasets", None)
    line = fault_of(config_of(tmp_path / "set"))
    assert line == "the package datasets is not installed: pip install -e '.[hf]'"


def test_a_command_of_three_flags_reads_it(written, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    path = written({"train": table()}).path
    flags = ["--config=digits_joint", "--config.data.name=huggingface"]
    code = main.main([*flags, f"--config.data.path={path}", "--mode=check_data"])
    assert code == EXIT_DONE
    assert "test: 3 classes: one 1, two 0, three 1" in capfd.readouterr().err
    assert (tmp_path / "results/digits_joint/figures/contact_sheet.png").is_file()
