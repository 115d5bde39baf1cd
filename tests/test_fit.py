"""`lzn_jax.fit`: training on arrays in memory, interrupted and continued."""

import os
import signal
from pathlib import Path

import numpy as np
import pytest
import small
from ml_collections import ConfigDict
from PIL import Image

import lzn_jax
from lzn_jax import configuration, data, main
from lzn_jax.data import arrays
from lzn_jax.data.folder import Files
from lzn_jax.data.pixels import EncodedImages
from lzn_jax.run import log

CONFIG = "digits_joint"
CHANGES = small.shrunk(CONFIG)
NUM_CLASSES, COUNT = 3, 60


@pytest.fixture(scope="module")
def given():
    """Images and labels, by class."""
    digits = data.load(configuration.load(CONFIG).data, "train")
    rows = np.concatenate([np.flatnonzero(digits.labels == c)[:20] for c in range(NUM_CLASSES)])
    return digits.images[rows], digits.labels[rows]


def of_file(name):
    return EncodedImages(Files(Path("images"), np.array([name], np.bytes_)), ConfigDict())


def fit(train, workdir, **changes):
    return lzn_jax.fit(CONFIG, train, workdir=workdir, **{**CHANGES, **changes})


def losses(workdir):
    return log.read_metrics(workdir)["loss"][1].tolist()


@pytest.fixture(scope="module")
def trained(given, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("fit")
    return fit(given, workdir, steps=3), workdir


def test_fields_follow_from_arrays_and_the_model_is_the_one_of_the_folder(trained, given):
    model, workdir = trained
    fields = model.config.data
    assert (fields.image_size, fields.channels, fields.num_classes) == (8, 1, NUM_CLASSES)
    assert (fields.holdout, model.step) == (COUNT // 10, 3)
    held, kept = (data.load(fields, split) for split in ("test", "train"))
    assert (len(held.labels), len(kept.labels)) == (6, 54)
    assert np.bincount(held.labels).tolist() == [2, 2, 2]  # stratified
    loaded = lzn_jax.load(workdir)
    np.testing.assert_array_equal(loaded.classify(given[0])[0], model.classify(given[0])[0])


def in_a_folder(images, labels, folder, monkeypatch):
    for row, (image, label) in enumerate(zip(images, labels, strict=True)):
        (folder / str(label)).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[..., 0]).save(folder / str(label) / f"{row:03d}.png")


def in_parquet(images, labels, folder, monkeypatch):
    library = pytest.importorskip("datasets", reason="pip install -e '.[hf]'")
    monkeypatch.setattr(library.config, "HF_DATASETS_CACHE", folder.parent / "cache")
    features = {"image": library.Image(), "label": library.ClassLabel(NUM_CLASSES)}
    columns = {"image": [Image.fromarray(i[..., 0]) for i in images], "label": labels.tolist()}
    table = library.Dataset.from_dict(columns, library.Features(features))
    table.to_parquet(folder / "train.parquet")


@pytest.mark.parametrize(
    ("name", "write"), small.slow(("image_folder", in_a_folder), ("huggingface", in_parquet))
)
def test_arrays_train_as_the_same_images_of_files_do(
    name, write, trained, given, tmp_path, monkeypatch
):
    (tmp_path / "images").mkdir()
    write(*given, tmp_path / "images", monkeypatch)
    flags = [f"--config.{name}={value}" for name, value in (CHANGES | {"data.name": name}).items()]
    workdir, steps = tmp_path / "run", "--config.training.num_steps=3"
    arguments = [f"--config={CONFIG}", f"--config.data.path={tmp_path / 'images'}", *flags, steps]
    assert main.main([*arguments, f"--workdir={workdir}"]) == 0
    assert losses(workdir) == losses(trained[1])


def test_other_sizes_and_channels_are_converted_as_those_of_files(given):
    checksum = arrays.keep(given)
    changes = [f"data.checksum={checksum}", "data.image_size=12", "data.channels=3"]
    found = configuration.load(CONFIG, ["data.name=arrays", *changes])
    image = data.load(found.data, "train").images[0]
    source = Image.fromarray(given[0][0, :, :, 0]).convert("RGB")
    np.testing.assert_array_equal(image, source.resize((12, 12), Image.Resampling.BICUBIC))


@pytest.fixture
def interruptible():
    """Python's handler of SIGINT, which a shell ignores in jobs in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_saves_and_the_same_call_goes_on(trained, given, tmp_path, monkeypatch):
    put, handlers = log.LateMetrics.put, [signal.getsignal(n) for n in signal.valid_signals()]

    def put_and_interrupt(self, step, metrics):
        put(self, step, metrics)
        if step == 1:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(log.LateMetrics, "put", put_and_interrupt)
    with pytest.raises(KeyboardInterrupt):
        fit(given, tmp_path, steps=3)
    step = lzn_jax.load(tmp_path).step
    assert 1 <= step < 3
    assert fit(given, tmp_path, steps=3).step == 3
    assert losses(tmp_path) == losses(trained[1])
    assert handlers == [signal.getsignal(n) for n in signal.valid_signals()]


def test_another_data_set_is_refused_in_the_folder_of_a_run(trained, given):
    images, labels = given
    with pytest.raises(lzn_jax.UserError, match=r"holds a run with data\.checksum="):
        fit((images, labels[::-1]), trained[1], steps=3)


@pytest.mark.parametrize(
    ("train", "message"),
    [
        (np.zeros((4, 8, 8), np.uint8), r"images must be \(n, h, w, 1 or 3\) of uint8"),
        (np.zeros((4, 8, 8, 2), np.uint8), r"1 or 3\) of uint8, got \(4, 8, 8, 2\)"),
        (np.zeros((4, 8, 8, 1)), "got .4, 8, 8, 1. of float64"),
        ((np.zeros((4, 8, 8, 1), np.uint8), [1, 2]), r"as many strings, got \(2,\)"),
        ((np.zeros((4, 8, 8, 1), np.uint8), [-1, 0, 1, 2]), "labels must be 4 integers >= 0"),
    ],
)
def test_bad_data_is_one_line(train, message, tmp_path):
    with pytest.raises(lzn_jax.UserError, match=message):
        fit(train, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_test_data_need_training_data(given):
    with pytest.raises(lzn_jax.UserError, match="need training data"):
        lzn_jax.fit(CONFIG, test=given)


def test_a_config_without_a_name_needs_a_folder(given):
    with pytest.raises(lzn_jax.UserError, match="pass workdir=FOLDER"):
        lzn_jax.fit(configuration.load(CONFIG), given)


def test_data_of_another_process_is_asked_for(trained):
    fields = trained[0].config.data
    kept = arrays._GIVEN.pop(fields.checksum)
    with pytest.raises(lzn_jax.UserError, match="pass them to"):
        data.load(fields, "test")
    arrays._GIVEN[fields.checksum] = kept


def test_examples_for_tests_are_the_test_split(given):
    images, labels = given
    checksum = arrays.keep(given, (images[:5], labels[:5]))
    found = configuration.load(CONFIG, ["data.name=arrays", f"data.checksum={checksum}"]).data
    assert found.holdout is None
    assert [len(data.load(found, split).labels) for split in ("train", "test")] == [COUNT, 5]


def test_with_one_class_labels_are_ignored(given):
    changes = [f"data.checksum={arrays.keep(given)}", "data.num_classes=1"]
    found = configuration.load("digits_gen", ["data.name=arrays", *changes]).data
    assert not data.load(found, "train").labels.any()


def test_a_checksum_is_of_every_column(given):
    images, labels = given
    folder = [data.Examples(of_file(n), labels[:1]) for n in ("a", "b")]
    others = [given, (images, labels[::-1]), (images[::-1], labels), images, *folder]
    assert len({arrays.keep(each) for each in others}) == len(others)


def test_the_command_cannot_read_examples_of_another_process(capsys):
    flags = [f"--config={CONFIG}", "--config.data.name=arrays", "--config.data.checksum=none"]
    assert main.main(flags) == 2
    assert "pass them to lzn_jax.fit" in capsys.readouterr().err


def test_texts_are_examples_of_images(given):
    images, labels = given
    found = arrays.as_examples((images, [f"digit {label}" for label in labels]))
    assert found.texts[-1] == f"digit {labels[-1]}"
    assert not found.labels.any()
