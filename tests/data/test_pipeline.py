"""The order of training batches, their augmentation and the processes that decode them."""

import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from lzn_jax import data
from lzn_jax.data import Examples, TrainingBatches, WholeImage
from lzn_jax.errors import UserError


def _examples(count):
    """Image i has 2i in its left column and 2i + 1 in its right one; its label is 100 + i."""
    left = 2 * np.arange(count, dtype=np.uint8)
    images = np.empty((count, 3, 2, 1), np.uint8)
    images[:, :, 0], images[:, :, 1] = left[:, None, None], left[:, None, None] + 1
    return Examples(images, np.arange(100, 100 + count, dtype=np.int32))


def _no_file(encoded):
    raise AssertionError("images in memory are no files")


_OPEN = []


@pytest.fixture(autouse=True)
def close_batches():
    yield
    while _OPEN:
        _OPEN.pop().close()


def _batches(count, batch_size, seed, *, flip):
    _OPEN.append(TrainingBatches(_examples(count), batch_size, seed, WholeImage(_no_file, flip)))
    return _OPEN[-1]


def _read(batches, count):
    """(index, is flipped) of the examples in the next `count` batches, which must be whole."""
    parts = [next(batches) for _ in range(count)]
    images = np.concatenate([part["images"] for part in parts])
    labels = np.concatenate([part["labels"] for part in parts])
    original = _examples(100).images[labels - 100]
    is_flipped = images[:, 0, 0, 0] % 2 == 1
    expected = np.where(is_flipped[:, None, None, None], original[:, :, ::-1], original)
    np.testing.assert_array_equal(images, expected)
    return labels - 100, is_flipped


def test_each_epoch_covers_each_example_once_in_an_order_of_its_own():
    # Batches of 4 straddle the ends of epochs of 30.
    order, _ = _read(_batches(30, 4, 0, flip=False), 15)
    first, second = order[:30], order[30:]
    for epoch in (first, second):
        assert sorted(epoch) == list(range(30))
        assert (epoch != np.arange(30)).sum() > 15
    assert (first != second).sum() > 15


def test_a_batch_may_be_larger_than_the_data_set():
    order, _ = _read(_batches(3, 9, 0, flip=False), 1)
    assert sorted(order) == sorted([0, 1, 2] * 3)


@pytest.mark.parametrize("step", [0, 3, 11])
def test_seek_gives_the_batches_that_reading_on_would(step):
    def new():
        return _batches(30, 4, 5, flip=True)

    reader = new()
    order, is_flipped = _read(reader, 14)
    rest = slice(4 * step, None)
    fresh = new()
    for batches in (reader, fresh):  # back from the end, and forward from the start
        batches.seek(step)
        found_order, found_flips = _read(batches, 14 - step)
        np.testing.assert_array_equal(found_order, order[rest])
        np.testing.assert_array_equal(found_flips, is_flipped[rest])


def test_seeds_give_orders_and_flips_of_their_own():
    orders, flips = zip(
        *(_read(_batches(60, 6, seed, flip=True), 10) for seed in (0, 1, 0)),
        strict=True,
    )
    np.testing.assert_array_equal(orders[0], orders[2])
    np.testing.assert_array_equal(flips[0], flips[2])
    assert (orders[0] != orders[1]).sum() > 40
    assert 10 < (flips[0] != flips[1]).sum() < 50


def test_flips_are_fair_and_by_position_not_by_image():
    order, is_flipped = _read(_batches(100, 20, 2, flip=True), 40)
    assert abs(is_flipped.mean() - 0.5) < 4 * 0.5 / np.sqrt(800)
    by_image = np.array([is_flipped[order == i].mean() for i in range(100)])
    # Binomial in 8 epochs: variance 1/32, and 1/4 if an image always had the same side.
    assert 0.01 < by_image.var() < 0.07
    by_epoch = is_flipped.reshape(8, 100)
    assert (by_epoch[0] != by_epoch[1]).sum() > 20


def test_flips_do_not_depend_on_the_batch_size():
    read = [_read(_batches(30, b, 3, flip=True), 60 // b) for b in (4, 10)]
    np.testing.assert_array_equal(read[0][0], read[1][0])
    np.testing.assert_array_equal(read[0][1], read[1][1])


def test_no_flip_leaves_every_image_and_the_order():
    order, is_flipped = _read(_batches(30, 4, 3, flip=False), 15)
    assert not is_flipped.any()
    np.testing.assert_array_equal(order, _read(_batches(30, 4, 3, flip=True), 15)[0])


def test_rows_of_batches_put_together_are_the_batches():
    def read(rows):
        batches = TrainingBatches(_examples(30), 6, 5, WholeImage(_no_file, True), rows=rows)
        _OPEN.append(batches)
        batches.seek(4)
        assert batches.shapes()["images"].shape[0] == 6
        return [next(batches) for _ in range(6)]

    whole = read(None)
    parts = zip(*(read(slice(start, start + 2)) for start in (0, 2, 4)), strict=True)
    for batch, rows in zip(whole, parts, strict=True):
        for name, value in batch.items():
            np.testing.assert_array_equal(np.concatenate([part[name] for part in rows]), value)


def test_shapes_are_those_of_a_batch_and_read_none():
    batches = _batches(30, 4, 0, flip=True)
    assert batches.shapes() == {
        "images": jax.ShapeDtypeStruct((4, 3, 2, 1), jnp.uint8),
        "labels": jax.ShapeDtypeStruct((4,), jnp.int32),
    }
    order, _ = _read(batches, 1)
    np.testing.assert_array_equal(order, _read(_batches(30, 4, 0, flip=True), 1)[0])
    batch = next(batches)
    assert (batch["images"].dtype, batch["labels"].dtype) == (np.uint8, np.int32)


def test_batches_of_digits_stay_what_they_were():
    config = ConfigDict({"name": "digits", "image_size": 8, "channels": 1, "flip": True})
    with TrainingBatches(data.load(config, "train"), 256, 3, data.whole_image(config)) as batches:
        parts = [next(batches) for _ in range(20)]
        batches.seek(100)
        parts.append(next(batches))
    content = b"".join(part["images"].tobytes() + part["labels"].tobytes() for part in parts)
    # A changed order makes a run that goes on from a checkpoint see other images.
    assert hashlib.sha256(content).hexdigest().startswith("511d97c636e6c9356fd33b59")


def _files(root, broken=()):
    """24 grey PNGs in two classes; image i has 4i in its left half and 4i + 2 in its right one."""
    for index in range(24):
        path = root / "train" / ("first" if index < 12 else "second") / f"{index:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.repeat(np.array([[4 * index, 4 * index + 2]], np.uint8), 2, axis=0)
        Image.fromarray(pixels).save(path)
        if index in broken:
            path.write_bytes(path.read_bytes()[:40])
    return root


def _folder(root, *, skip_unreadable=False):
    fields = {"name": "image_folder", "path": str(root), "image_size": 2, "channels": 1}
    fields |= {"num_classes": 2, "class_name": None, "holdout": 0, "flip": True}
    return ConfigDict(fields | {"skip_unreadable": skip_unreadable})


def _folder_batches(config, batch_size, **options):
    examples = data.load(config, "train")
    _OPEN.append(TrainingBatches(examples, batch_size, 7, data.whole_image(config), **options))
    return _OPEN[-1]


def test_any_number_of_workers_gives_the_same_batches_from_any_step(tmp_path, monkeypatch):
    monkeypatch.setattr(data, "_MAX_CHUNK", 4)  # so that a batch of 6 is made of two parts
    config = _folder(_files(tmp_path, broken=[3]), skip_unreadable=True)
    found = {}
    for workers, start, first in ((0, 0, 0), (0, 2, 0), (1, 0, 2), (2, 2, 0)):
        batches = _folder_batches(config, 6, workers=workers, rows=slice(first, 6))
        batches.seek(start)
        parts = [next(batches) for _ in range(start, 5)]
        found[workers, start, first] = {k: np.stack([p[k] for p in parts]) for k in parts[0]}
    expected = found.pop((0, 0, 0))
    for (_, start, first), batches in found.items():
        for name, values in batches.items():
            np.testing.assert_array_equal(values, expected[name][start:, first:])
    order = expected["images"][:4].min(axis=(2, 3, 4)).ravel() // 4
    assert sorted(order) == sorted([4 if i == 3 else i for i in range(24)])


def test_a_batch_with_unreadable_images_stops_the_run_with_their_names(tmp_path):
    batches = _folder_batches(_folder(_files(tmp_path, broken=[3, 17])), 24)
    with pytest.raises(UserError, match=r"unreadable images \(2\)") as raised:
        next(batches)
    message = str(raised.value)
    assert "03.png" in message
    assert "17.png" in message
    assert "skip_unreadable=True" in message
    assert len(message.splitlines()) == 1


def test_an_unreadable_image_is_replaced_by_the_next_of_its_class_and_named_once(tmp_path, caplog):
    config = _folder(_files(tmp_path, broken=[3, 11, 23]), skip_unreadable=True)
    batches = _folder_batches(config, 24)
    for _ in range(3):  # epochs
        batch = next(batches)
        shown = batch["images"].min(axis=(1, 2, 3)) // 4
        expected = [i for i in range(24) if i not in (3, 11, 23)] + [4, 0, 12]
        assert sorted(shown) == sorted(expected)
        np.testing.assert_array_equal(batch["labels"], shown >= 12)
    assert [record.args[0] for record in caplog.records] == [1, 2, 3]
    named = {Path(record.args[1]).name for record in caplog.records}
    assert named == {"03.png", "11.png", "23.png"}


def test_a_data_set_of_unreadable_images_is_an_error_even_when_they_may_be_skipped(tmp_path):
    config = _folder(_files(tmp_path, broken=range(12)), skip_unreadable=True)
    with pytest.raises(UserError, match="nor can the images of its class after it") as raised:
        next(_folder_batches(config, 24))
    assert len(str(raised.value).splitlines()) == 1


def _is_running(process):
    status = subprocess.run(["ps", "-o", "stat=", "-p", str(process)], capture_output=True)
    return status.returncode == 0 and not status.stdout.startswith(b"Z")


def test_workers_are_by_default_the_cores_and_none_for_few_images_or_those_in_memory(
    tmp_path, monkeypatch
):
    config = _folder(_files(tmp_path))
    monkeypatch.setattr(TrainingBatches, "seek", lambda self, step: None)  # starts none
    for cores, least, expected in ((3, 24, 3), (40, 24, 16), (3, 25, 0)):
        found = set(range(cores))
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, found=found: found)
        monkeypatch.setattr(data, "MIN_FOR_WORKERS", least)
        assert _folder_batches(config, 6).workers == expected
        assert _folder_batches(config, 6, workers=5).workers == 5
    monkeypatch.setattr(data, "MIN_FOR_WORKERS", 0)
    assert _batches(5, 2, 0, flip=False).workers == 0


def test_workers_end_with_a_program_that_is_killed(tmp_path):
    script = tmp_path / "program.py"
    script.write_text(
        f"""
import sys
sys.path[:0] = {[str(Path(__file__).parent), str(Path(__file__).parents[2])]!r}
import test_pipeline, multiprocessing, time
if __name__ == "__main__":
    batches = test_pipeline._folder_batches(test_pipeline._folder({str(tmp_path)!r}), 6, workers=1)
    next(batches)
    print(*[child.pid for child in multiprocessing.active_children()], flush=True)
    time.sleep(60)
"""
    )
    _files(tmp_path)
    program = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
    with program:
        workers = [int(pid) for pid in program.stdout.readline().split()]
        assert len(workers) == 1
        os.kill(workers[0], signal.SIGTERM)  # left to the program
        time.sleep(0.5)
        assert _is_running(workers[0])
        program.kill()
    deadline = time.monotonic() + 20
    while _is_running(workers[0]):
        assert time.monotonic() < deadline
        time.sleep(0.1)
