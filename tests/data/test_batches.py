"""The order of training batches, and the processes that decode them."""

import contextlib
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

from lzn_jax import data
from lzn_jax.data import Examples
from lzn_jax.data import batches as batches_module
from lzn_jax.data.batches import TrainingBatches, whole_image
from lzn_jax.errors import UserError


def _examples(count):
    """Image i has 2i in its left column and 2i + 1 in its right one; its label is 100 + i."""
    left = 2 * np.arange(count, dtype=np.uint8)
    images = np.empty((count, 3, 2, 1), np.uint8)
    images[:, :, 0], images[:, :, 1] = left[:, None, None], left[:, None, None] + 1
    return Examples(images, np.arange(100, 100 + count, dtype=np.int32))


@pytest.fixture
def opened():
    """Opens TrainingBatches, which the end of the test closes."""
    with contextlib.ExitStack() as stack:
        yield lambda *given, **options: stack.enter_context(TrainingBatches(*given, **options))


@pytest.fixture
def batches_of(opened):
    def new(count, batch_size, seed, *, flip, **options):
        transform = whole_image(ConfigDict({"flip": flip}))
        return opened(_examples(count), batch_size, seed, transform, **options)

    return new


def _read(batches, count):
    """(index, is flipped) of the examples in the next `count` batches, which must be whole."""
    parts = [next(batches) for _ in range(count)]
    images, labels = (np.concatenate([part[k] for part in parts]) for k in ("images", "labels"))
    original = _examples(100).images[labels - 100]
    is_flipped = images[:, 0, 0, 0] % 2 == 1
    expected = np.where(is_flipped[:, None, None, None], original[:, :, ::-1], original)
    np.testing.assert_array_equal(images, expected)
    return labels - 100, is_flipped


def test_each_epoch_covers_each_example_once_in_an_order_of_its_own(batches_of):
    # Batches of 4 straddle the ends of epochs of 30.
    order, is_flipped = _read(batches_of(30, 4, 0, flip=False), 15)
    first, second = order[:30], order[30:]
    for epoch in (first, second):
        assert sorted(epoch) == list(range(30))
        assert (epoch != np.arange(30)).sum() > 15
    assert (first != second).sum() > 15
    assert not is_flipped.any()
    larger, _ = _read(batches_of(3, 9, 0, flip=False), 1)
    assert sorted(larger) == sorted([0, 1, 2] * 3)


@pytest.mark.parametrize("step", [0, 3, 11])
def test_seek_gives_the_batches_that_reading_on_would(batches_of, step):
    reader = batches_of(30, 4, 5, flip=True)
    order, is_flipped = _read(reader, 14)
    for batches in (reader, batches_of(30, 4, 5, flip=True)):  # back, and forward from the start
        batches.seek(step)
        found_order, found_flips = _read(batches, 14 - step)
        np.testing.assert_array_equal(found_order, order[4 * step :])
        np.testing.assert_array_equal(found_flips, is_flipped[4 * step :])


def test_order_and_flips_follow_from_the_seed_alone(batches_of):
    """Neither from the batch size; and the order does not from whether images are flipped."""
    made = [(6, 0, True), (6, 1, True), (10, 0, True), (6, 0, False)]
    orders, flips = zip(
        *(_read(batches_of(60, b, seed, flip=f), 60 // b) for b, seed, f in made), strict=True
    )
    for other in (2, 3):
        np.testing.assert_array_equal(orders[0], orders[other])
    np.testing.assert_array_equal(flips[0], flips[2])
    assert (orders[0] != orders[1]).sum() > 40
    assert 10 < (flips[0] != flips[1]).sum() < 50
    # Fair, and by position, not by image: binomial in 8 epochs, so of variance 1/32.
    order, is_flipped = _read(batches_of(100, 20, 2, flip=True), 40)
    assert abs(is_flipped.mean() - 0.5) < 4 * 0.5 / np.sqrt(800)
    assert 0.01 < np.var([is_flipped[order == i].mean() for i in range(100)]) < 0.07
    assert (is_flipped[:100] != is_flipped[100:200]).sum() > 20


def test_rows_of_batches_put_together_are_the_batches(batches_of):
    def read(rows):
        batches = batches_of(30, 6, 5, flip=True, rows=rows)
        batches.seek(4)
        assert batches.shapes() == {
            "images": jax.ShapeDtypeStruct((6, 3, 2, 1), jnp.uint8),
            "labels": jax.ShapeDtypeStruct((6,), jnp.int32),
        }
        return [next(batches) for _ in range(6)]

    whole = read(None)
    parts = zip(*(read(slice(start, start + 2)) for start in (0, 2, 4)), strict=True)
    for batch, rows in zip(whole, parts, strict=True):
        for name, value in batch.items():
            np.testing.assert_array_equal(np.concatenate([part[name] for part in rows]), value)


def test_batches_of_digits_stay_what_they_were():
    config = ConfigDict({"name": "digits", "image_size": 8, "channels": 1, "flip": True})
    with TrainingBatches(data.load(config, "train"), 256, 3, whole_image(config)) as batches:
        parts = [next(batches) for _ in range(20)]
        batches.seek(100)
        parts.append(next(batches))
    content = b"".join(part["images"].tobytes() + part["labels"].tobytes() for part in parts)
    # A changed order makes a run that goes on from a checkpoint see other images.
    assert hashlib.sha256(content).hexdigest().startswith("511d97c636e6c9356fd33b59")


NAMES = [f"{'first' if index < 12 else 'second'}/{index:02}.png" for index in range(24)]


@pytest.fixture
def from_folder(opened):
    def new(config, batch_size=24, **options):
        examples = data.load(config, "train")
        options["columns"] = {"row": np.arange(len(examples.labels))}
        return opened(examples, batch_size, 7, whole_image(config), **options)

    return new


NONE_OF_THEM = r"\d\d\.png cannot be read, nor can the images after it"


def test_any_number_of_workers_gives_the_same_batches_from_any_step(
    folder_of, from_folder, monkeypatch
):
    monkeypatch.setattr(batches_module, "_MAX_CHUNK", 4)  # so that six rows are two parts
    broken = {"broken": NAMES[3:4], "skip_unreadable": True}
    config = folder_of(*NAMES, **broken, num_classes=2, flip=True)
    found = {}
    for workers, start, first in ((0, 0, 0), (0, 2, 0), (2, 1, 2)):
        batches = from_folder(config, 8, rows=slice(first, 8))
        batches.workers = workers
        batches.seek(start)
        parts = [next(batches) for _ in range(start, 5)]
        found[workers, start, first] = {k: np.stack([p[k] for p in parts]) for k in parts[0]}
    expected = found.pop((0, 0, 0))
    for (_, start, first), parts in found.items():
        for name, values in parts.items():
            np.testing.assert_array_equal(values, expected[name][start:, first:])
    for name in NAMES:  # an error of a worker is one of the program
        (Path(config.path) / name).write_text("no image")
    with pytest.raises(UserError, match=NONE_OF_THEM) as raised:
        [next(batches) for _ in range(50)]  # some are read ahead
    assert len(str(raised.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("broken", "skips", "message"),
    [
        (slice(3, 4), False, r"unreadable images \(1\): .*03\.png \(its .*skip_unreadable=True"),
        (slice(24), True, NONE_OF_THEM),
    ],
    ids=["one", "all"],
)
def test_an_unreadable_image_stops_the_run_with_its_name(
    folder_of, from_folder, broken, skips, message
):
    config = folder_of(*NAMES, broken=NAMES[broken], skip_unreadable=skips)
    with pytest.raises(UserError, match=message) as raised:
        next(from_folder(config))
    assert len(str(raised.value).splitlines()) == 1


def test_the_next_example_replaces_an_unreadable_one_which_is_named_once(
    folder_of, from_folder, caplog
):
    broken = {"broken": [NAMES[i] for i in (3, 4, 11, 23)], "skip_unreadable": True}
    batches = from_folder(folder_of(*NAMES, **broken, num_classes=2))
    for _ in range(3):  # epochs
        batch = next(batches)
        shown = batch["images"][:, 0, 0, 0]
        expected = [i for i in range(24) if i not in (3, 4, 11, 23)] + [5, 5, 12, 0]
        assert sorted(shown) == sorted(expected)
        np.testing.assert_array_equal(batch["labels"], shown >= 12)
        np.testing.assert_array_equal(batch["row"], shown)
    assert [record.args[0] for record in caplog.records] == [1, 2, 3, 4]
    named = {Path(record.args[1]).name for record in caplog.records}
    assert named == {"03.png", "04.png", "11.png", "23.png"}


def test_workers_are_all_cores_but_two_and_none_for_few_images_or_those_in_memory(
    folder_of, from_folder, batches_of, monkeypatch
):
    monkeypatch.setattr(TrainingBatches, "seek", lambda self, step: None)  # starts none
    config = folder_of(*NAMES)
    for cores, least, expected in ((1, 24, 1), (2, 24, 2), (3, 24, 2), (96, 24, 94), (3, 25, 0)):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, cores=cores: set(range(cores)))
        monkeypatch.setattr(batches_module, "MIN_FOR_WORKERS", least)
        assert from_folder(config, 6).workers == expected
        assert from_folder(config, 6, cores=cores).workers == expected
        assert from_folder(config, 6, workers=5).workers == 5
    monkeypatch.setattr(batches_module, "MIN_FOR_WORKERS", 0)
    assert batches_of(5, 2, 0, flip=False).workers == 0


def _is_running(process):
    status = subprocess.run(["ps", "-o", "stat=", "-p", str(process)], capture_output=True)
    return status.returncode == 0 and not status.stdout.startswith(b"Z")


def test_workers_end_with_a_program_that_is_killed(folder_of, tmp_path):
    script = tmp_path / "program.py"
    script.write_text(
        f"""
import multiprocessing, sys, time
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from ml_collections import ConfigDict
from lzn_jax import data
from lzn_jax.data.batches import TrainingBatches, whole_image
if __name__ == "__main__":
    config = ConfigDict({folder_of(*NAMES).to_dict()!r})
    examples = data.load(config, "train")
    batches = TrainingBatches(examples, 6, 7, whole_image(config), workers=1)
    next(batches)
    print(*[child.pid for child in multiprocessing.active_children()], flush=True)
    time.sleep(60)
"""
    )
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
