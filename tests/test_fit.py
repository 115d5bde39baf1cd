"""`lzn_jax.fit`: training on arrays in memory, interrupted and continued."""

import gc
import json
import os
import signal
import weakref
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
import pytest
import small
from jax.sharding import AxisType
from ml_collections import ConfigDict
from one_weight import OneWeight
from PIL import Image

import lzn_jax
from lzn_jax import configuration, data, loading, main, train
from lzn_jax.data import arrays
from lzn_jax.data.folder import Files
from lzn_jax.data.pixels import EncodedImages
from lzn_jax.evaluation import measurements
from lzn_jax.run import costs, log

CONFIG = "digits_repr"  # which compiles fastest
CHANGES = small.shrunk(CONFIG)
NUM_CLASSES, COUNT = 3, 60


@pytest.fixture(scope="module")
def given():
    """Images and labels, by class."""
    digits = data.load(configuration.load(CONFIG).data, "train")
    rows = np.concatenate([np.flatnonzero(digits.labels == c)[:20] for c in range(NUM_CLASSES)])
    return digits.images[rows], digits.labels[rows]


def in_files(images, folder, **fields):
    """Images in files of a folder, with a `data` group of their own."""
    folder.mkdir(exist_ok=True)
    for row, image in enumerate(images):
        Image.fromarray(image[..., 0]).save(folder / f"{row:02d}.png")
    names = np.array([f"{row:02d}.png" for row in range(len(images))], np.bytes_)
    return EncodedImages(Files(folder, names), ConfigDict(fields))


def fit(train, workdir, **changes):
    return lzn_jax.fit(CONFIG, train, workdir=workdir, **{**CHANGES, **changes})


def loaded(kept, *changes, config=CONFIG):
    """A config with examples in memory."""
    own = ["data.name=arrays", f"data.checksum={kept.checksum}"]
    return configuration.load(config, [*own, *changes])


def losses(workdir):
    return log.read_metrics(workdir)["loss"][1].tolist()


@pytest.fixture(scope="module")
def trained(given, tmp_path_factory):
    """A model and its folder. Spaces of a config are one, so that they share programs."""
    workdir = tmp_path_factory.mktemp("fit")
    changes = {"evaluation__every_steps": 3, "evaluation__measurements_of_types": False}
    with pytest.MonkeyPatch.context() as patch:
        small.share_spaces(patch)
        yield fit(given, workdir, steps=3, **changes), workdir


def test_fields_follow_from_arrays_and_the_model_is_the_one_of_the_folder(trained, given):
    model, workdir = trained
    fields = model.config.data
    assert (fields.image_size, fields.channels, fields.num_classes) == (8, 1, NUM_CLASSES)
    assert (fields.holdout, model.step) == (COUNT // 10, 3)
    held, kept = (data.load(fields, split) for split in ("test", "train"))
    assert (len(held.labels), len(kept.labels)) == (6, 54)
    assert np.bincount(held.labels).tolist() == [2, 2, 2]  # stratified
    loaded = lzn_jax.load(workdir)
    np.testing.assert_array_equal(loaded.anchors(given[0]), model.anchors(given[0]))
    assert json.loads((workdir / "summary.json").read_text())["test_examples"] == 6


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
    kept, source = arrays.keep(given), Image.fromarray(given[0][0, :, :, 0])
    crop = source.resize((8, 8), Image.Resampling.BICUBIC, box=(2, 2, 6, 6))
    large = source.convert("RGB").resize((12, 12), Image.Resampling.BICUBIC)
    for changes, expected in (
        (["data.image_size=12", "data.channels=3"], large),
        (["data.centre_crop=0.5"], np.asarray(crop)[..., None]),
    ):
        image = data.load(loaded(kept, *changes, "data.holdout=0").data, "train").images[0]
        np.testing.assert_array_equal(image, expected)


def test_encoded_images_have_the_size_of_the_config_whatever_their_own_is(given, tmp_path):
    images, labels = given
    examples = data.Examples(in_files(images, tmp_path, image_size=16, channels=3), labels)
    kept = arrays.keep(examples, examples.at(np.arange(5)))
    for split, count in (("train", COUNT), ("test", 5)):
        found = data.load(loaded(kept, "data.image_size=8").data, split).images
        assert found.shape == (count, 8, 8, 1)
        np.testing.assert_array_equal(found[:], images[:count])


@pytest.mark.parametrize("counts", [[20] * 3, [2] * 30, [40, 5, 5, 5, 5]])
def test_groups_are_on_one_side_of_the_hold_out_as_of_validation(given, counts):
    """The context is at most the training examples that groups leave."""
    groups = np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)) + 7, counts))
    ids = np.arange(COUNT) // 2 if len(counts) == 30 else None
    groups = groups if ids is None else np.repeat(groups[::2], 2)  # of images with two examples
    images = data.Examples(given[0], np.zeros(COUNT, np.int32), image_ids=ids, groups=groups)
    kept = arrays.keep(images)
    config = loaded(kept, "data.validation=5", config="digits_gen")
    parts = [data.load(config.data, split) for split in ("train", "validation", "test")]
    held = [set(part.groups.tolist()) for part in parts]
    assert sum(map(len, held)) == len(set(groups.tolist()))
    assert [len(part.labels) for part in parts] == [np.isin(groups, list(h)).sum() for h in held]
    whole = loaded(kept, config="digits_gen")
    assert whole.data.holdout == 6
    assert whole.latent.context_size == len(data.load(whole.data, "train").labels)


@pytest.fixture
def interruptible():
    """Python's handler of SIGINT, which a shell ignores in jobs in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_saves_and_the_same_call_goes_on(given, tmp_path, monkeypatch):
    """In an evaluation at once. No data are kept in memory."""

    def space(config, mesh):
        made = OneWeight()
        vars(made).update(config=config, types={}, encoders={})
        return made

    for module in (train, loading):
        monkeypatch.setattr(module, "LatentSpace", space)
    small.without_pictures(monkeypatch)
    monkeypatch.setattr(arrays, "_GIVEN", type(arrays._GIVEN)())
    handlers = [signal.getsignal(n) for n in signal.valid_signals()]
    own = given[0].copy(), given[1]

    def interrupted(*_):
        monkeypatch.setattr(measurements, "evaluate", lambda *_: {})
        os.kill(os.getpid(), signal.SIGINT)
        pytest.fail("the evaluation went on")

    monkeypatch.setattr(measurements, "evaluate", interrupted)
    with pytest.raises(KeyboardInterrupt, match="the same call continues"):
        fit(own, tmp_path / "run", steps=3)
    assert handlers == [signal.getsignal(n) for n in signal.valid_signals()]
    assert lzn_jax.load(tmp_path / "run").step == 2
    model = fit(own, tmp_path / "run", steps=3)
    assert model.step == 3
    fit(own, tmp_path / "whole", steps=3)
    assert losses(tmp_path / "run") == losses(tmp_path / "whole")
    assert len(data.load(model.config.data, "test").labels) == COUNT // 10
    images = weakref.ref(own[0])
    del own, model
    gc.collect()
    assert images() is None


class Stopped(Exception):
    """Ends a `fit` where a test has seen enough."""


@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_asks_to_save_where_there_is_a_state_and_the_second_ends(monkeypatch, capsys):
    def interrupt():
        os.kill(os.getpid(), signal.SIGINT)

    def training(config, workdir, interruption):
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt):
                interrupt()
        assert not interruption.is_asked
        with interruption.held():
            interrupt()
            assert interruption.is_asked
            with pytest.raises(KeyboardInterrupt):
                interrupt()
        return 75

    monkeypatch.setattr(train, "train_and_evaluate", training)
    with pytest.raises(KeyboardInterrupt, match="saved in unused: the same call continues"):
        fit(None, "unused")
    assert capsys.readouterr().err.count("press Ctrl-C again to stop at once") == 1
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize("handler", [signal.SIG_IGN, signal.default_int_handler])
def test_other_threads_and_ignored_signals_are_left_alone(handler, monkeypatch):
    def training(config, workdir, interruption):
        raise Stopped(signal.getsignal(signal.SIGINT))

    monkeypatch.setattr(train, "train_and_evaluate", training)
    before = signal.signal(signal.SIGINT, handler)
    try:
        with ThreadPoolExecutor(1) as thread:
            run = (
                thread.submit if handler != signal.SIG_IGN else lambda *given: given[0](*given[1:])
            )
            with pytest.raises(Stopped) as stopped:
                run(fit, None, "unused").result()
        assert stopped.value.args == (handler,)
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_run_has_the_mesh_and_the_settings_of_its_caller(given, tmp_path, monkeypatch):
    def look(jaxpr):
        mesh = jax.sharding.get_mesh()
        precision = jax.config.jax_default_matmul_precision
        raise Stopped(list(mesh.devices.flat), mesh.axis_names, precision)

    monkeypatch.setattr(costs, "count_operations", look)
    mesh = jax.make_mesh((1,), ("x",), (AxisType.Explicit,), devices=jax.devices()[3:4])
    settings = jax.set_mesh(mesh), jax.default_matmul_precision("highest")
    with settings[0], settings[1], pytest.raises(Stopped) as stopped:
        fit(given, tmp_path)
    assert stopped.value.args == (jax.devices()[3:4], ("data",), "highest")


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


def test_data_of_another_process_is_asked_for(trained, monkeypatch):
    fields = trained[0].config.data
    monkeypatch.setattr(arrays, "_GIVEN", {})
    with pytest.raises(lzn_jax.UserError, match="pass them to"):
        data.load(fields, "test")


def test_examples_for_tests_are_the_test_split(given):
    images, labels = given
    kept = arrays.keep(given, (images[:5], labels[:5]))
    for changes, sizes in (([], [COUNT, 5]), (["data.holdout=7"], [COUNT - 7, 7])):
        found = loaded(kept, *changes).data
        assert [len(data.load(found, split).labels) for split in ("train", "test")] == sizes


def test_a_hold_out_of_the_config_gives_way_to_test_data_but_one_of_the_call_is_refused(
    given, tmp_path, monkeypatch
):
    def training(config, workdir, interruption):
        raise Stopped(config.data.holdout, len(data.load(config.data, "test").labels))

    monkeypatch.setattr(train, "train_and_evaluate", training)
    own = tmp_path / "own.py"
    own.write_text(
        "from lzn_jax import configuration\n"
        f"config = configuration.sibling(__file__, {CONFIG!r})\n"
        "config.data.name, config.data.path = 'image_folder', 'nowhere'\n"
        "config.data.holdout = 7\n"
        "get_config = lambda: config\n"
    )
    with pytest.raises(Stopped) as stopped:
        lzn_jax.fit(own, given, given)
    assert stopped.value.args == (None, COUNT)
    for holdout in (0, 7):
        with pytest.raises(lzn_jax.UserError, match=r"data\.holdout takes the place of test data"):
            lzn_jax.fit(own, given, given, data__holdout=holdout)


def test_with_one_class_labels_are_ignored(given):
    kept = arrays.keep(given)
    found = loaded(kept, "data.num_classes=1", config="digits_gen").data
    assert not data.load(found, "train").labels.any()


def test_a_checksum_is_of_every_column_with_its_dtype_and_shape(given):
    images, labels = given
    numbers = np.arange(COUNT * 6, dtype=np.int32).reshape(COUNT, 2, 3)
    ragged = np.empty(COUNT, object)
    ragged[:] = [np.zeros(2000), *map(np.zeros, range(1, COUNT))]
    other = ragged.copy()
    other[0] = np.where(np.arange(2000) == 1000, 1e-12, 0)  # inside of what NumPy prints
    columns = numbers, numbers.view(np.float32), numbers.reshape(COUNT, 3, 2), ragged, other
    others = [data.Examples(images, labels, more={"x": column}) for column in columns]
    others += [given, (images, labels[::-1]), (images[::-1], labels), images]
    assert len({arrays.keep(each).checksum for each in others}) == len(others)
    kept = arrays.keep(given)
    assert arrays.keep((images.copy(), labels)) is kept  # else it would be lost with the copy


def test_a_checksum_of_files_is_of_their_contents(given, tmp_path):
    def checksum(folder, rows=slice(None)):
        images = in_files(given[0][:3], tmp_path / folder)
        if folder == "gone":
            (tmp_path / folder / "01.png").unlink()
        if folder == "rewritten":
            in_files(given[0][3:], tmp_path / folder)
        rows = np.arange(3)[rows]
        return arrays.keep(data.Examples(images.at(rows), rows)).checksum

    first, *others = map(checksum, ("first", "gone", "rewritten"))
    assert first == checksum("copied")
    assert len({first, *others, checksum("first", slice(None, None, -1))}) == 4


def test_the_command_cannot_read_examples_of_another_process(capsys):
    flags = [f"--config={CONFIG}", "--config.data.name=arrays", "--config.data.checksum=none"]
    assert main.main(flags) == 2
    assert "pass them to lzn_jax.fit" in capsys.readouterr().err


def test_texts_are_examples_of_images(given):
    images, labels = given
    found = arrays.as_examples((images, [f"digit {label}" for label in labels]))
    assert found.texts[-1] == f"digit {labels[-1]}"
    assert not found.labels.any()
