"""--mode=check_data: reads a whole data set, reports what is in it and what is wrong with it."""

import dataclasses
import hashlib
import logging
import os
import time
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

from lzn_jax import parts, plots
from lzn_jax.configuration import EXIT_DONE, UserError
from lzn_jax.data.decoding import UnreadableImageError
from lzn_jax.data.examples import MAX_NAMED, EncodedImages, Examples
from lzn_jax.data.pipeline import TrainingBatches, whole_image
from lzn_jax.data.sources import class_names, load_pairs_alone
from lzn_jax.run.progress import progress

MAX_SECONDS = 1800.0
_IMAGES_AT_A_TIME = 256
TIMED_SECONDS = 10.0
_SHOWN_CLASSES, _SHOWN_OF_A_CLASS = 20, 12

_log = logging.getLogger(__name__)


class Scan(NamedTuple):
    """What reading a split found.

    Attributes:
      num_checked: how many of its images, in order, were read before the time was up.
      unreadable: why not, by index, of those that could not be decoded.
      checksum: first 16 digits of the SHA-256 of the others' labels and pixels.
      images_per_second: how fast they were decoded.
    """

    num_checked: int
    unreadable: dict[int, str]
    checksum: str
    images_per_second: float


def check(config: ConfigDict, workdir: Path) -> int:
    """Reports counts, classes, checksums, speed and unreadable images; draws a contact sheet.

    Decodes both splits, each for at most half an hour. Returns the exit code, 0. Raises UserError
    for a data set that cannot be read, and at the end if images are unreadable, or texts and images
    no pairs, and no `data.skip_unreadable` allows for them.
    """
    names, types = class_names(config.data), [parts.get("type", n)(config) for n in config.types]
    splits = {"train": load_pairs_alone(config.data, "train")}
    splits["test"] = load_pairs_alone(config.data, "test")
    scans = {}
    for split, examples in splits.items():
        _describe(split, examples, names)
        if examples.texts is not None:
            _describe_texts(split, examples.texts)
        for data_type in types:
            data_type.describe(examples, split)
        if examples.images is not None:
            scans[split] = scan(examples, split)
            _describe_scan(scans[split], examples)
    if not scans:
        return EXIT_DONE
    path = workdir / "figures" / "contact_sheet.png"
    try:
        _draw(path, splits["train"], scans["train"].unreadable.keys(), names)
    except OSError as error:
        raise UserError(f"{path} cannot be written: choose a folder with --workdir") from error
    _check_allowed(splits, scans, config.data)
    _time_batches(splits["train"], config)
    return EXIT_DONE


def _check_allowed(
    splits: Mapping[str, Examples], scans: Mapping[str, Scan], data: ConfigDict
) -> None:
    unreadable = sum(len(found.unreadable) for found in scans.values())
    no_pairs = len({name for examples in splits.values() for name in examples.left_out})
    counts = {"images cannot be read": unreadable, "texts or images are no pairs": no_pairs}
    faults = " and ".join(f"{count} {fault}" for fault, count in counts.items() if count)
    if faults and not data.skip_unreadable:
        raise UserError(
            f"{faults}, of {data.path}: repair or remove them, or train without them by "
            "--config.data.skip_unreadable=True"
        )


def scan(examples: Examples, name: str, max_seconds: float = MAX_SECONDS) -> Scan:
    """Decodes the images of a split, in order, until all are read or the time is up."""
    digest, unreadable, count = hashlib.sha256(), {}, 0
    started = time.perf_counter()
    with (
        ThreadPoolExecutor(os.cpu_count()) as threads,
        progress(len(examples.labels), f"checking {name}", unit="image") as bar,
    ):
        while count < len(examples.labels) and time.perf_counter() - started < max_seconds:
            rows = range(count, min(count + _IMAGES_AT_A_TIME, len(examples.labels)))
            for index, image in zip(rows, _attempt(examples, rows, threads), strict=True):
                if isinstance(image, UnreadableImageError):
                    unreadable[index] = str(image)
                else:
                    digest.update(examples.labels[index].astype("<i4").tobytes() + image.tobytes())
            count = rows.stop
            bar.update(len(rows))
    rate = count / (time.perf_counter() - started)
    return Scan(count, unreadable, digest.hexdigest()[:16], rate)


def _attempt(
    examples: Examples, rows: range, threads: ThreadPoolExecutor
) -> list[np.ndarray | UnreadableImageError]:
    if isinstance(examples.images, EncodedImages):
        return list(threads.map(examples.images.attempt, rows))
    return list(examples.images[rows.start : rows.stop])


def _describe(split: str, examples: Examples, names: tuple[str, ...]) -> None:
    if examples.images is None:
        _log.info("%s: %d examples without images", split, len(examples.labels))
    else:
        count, height, width, channels = examples.images.shape
        _log.info("%s: %d images of %dx%dx%d", split, count, height, width, channels)
    sizes = np.bincount(examples.labels, minlength=len(names))
    largest = ", ".join(
        f"{name or 'class'} {size}"
        for name, size in zip(names[:_SHOWN_CLASSES], sizes, strict=False)
    )
    more = ", ..." if len(names) > _SHOWN_CLASSES else ""
    _log.info("%s: %d classes: %s%s", split, len(names), largest, more)


def _describe_texts(split: str, texts: np.ndarray) -> None:
    """Pairs, and lengths and characters of their texts."""
    written = [str(each) for each in texts if each]
    lengths = sorted(map(len, written)) or [0]
    _log.info(
        "%s: %d pairs, %d different texts of %d different characters, %d images without a text",
        split, len(written), len(set(written)), len(set("".join(written))),
        len(texts) - len(written),
    )  # fmt: skip
    _log.info(
        "%s: texts have %d to %d characters, the median is %d",
        split, lengths[0], lengths[-1], lengths[len(lengths) // 2],
    )  # fmt: skip


def _describe_scan(found: Scan, examples: Examples) -> None:
    if found.num_checked < len(examples.labels):
        _log.info("time is up: only the first %d images were read", found.num_checked)
    _log.info("checksum %s, %.0f images/s", found.checksum, found.images_per_second)
    for index in list(found.unreadable)[:MAX_NAMED]:
        assert isinstance(examples.images, EncodedImages)
        _log.info("unreadable: %s: %s", examples.images.source.name(index), found.unreadable[index])
    if len(found.unreadable) > MAX_NAMED:
        _log.info("unreadable: and %d more", len(found.unreadable) - MAX_NAMED)


def _time_batches(train: Examples, config: ConfigDict) -> None:
    """Checksum of the first training batch, before augmentation, and the speed of those after."""
    size, workers = config.training.batch_size, config.data.get("workers")
    transform = dataclasses.replace(whole_image(config.data), flip=False)
    with TrainingBatches(train, size, config.seed, transform, workers=workers) as batches:
        batch = next(batches)
        digest = hashlib.sha256(batch["labels"].astype("<i4").tobytes() + batch["images"].tobytes())
        started, count = time.perf_counter(), 0
        while time.perf_counter() - started < TIMED_SECONDS:
            next(batches)
            count += size
        rate = count / (time.perf_counter() - started)
    _log.info(
        "batches of %d: first checksum %s, %.0f images/s with %d workers",
        size, digest.hexdigest()[:16], rate, batches.workers,
    )  # fmt: skip


def _draw(path: Path, train: Examples, unreadable: Collection[int], names: tuple[str, ...]) -> None:
    """Readable images of the first classes, spread over the data set."""
    is_single = len(names) == 1
    limit = _SHOWN_OF_A_CLASS**2 if is_single else _SHOWN_OF_A_CLASS
    rows = []
    for label in range(min(len(names), _SHOWN_CLASSES)):
        members = np.setdiff1d(np.flatnonzero(train.labels == label), list(unreadable))
        places = np.linspace(0, len(members) - 1, min(limit, len(members))).round().astype(int)
        rows.extend(members[places].tolist())
    if not rows:
        return
    shown = [name or "all" for name in names]
    plots.sample_grid(path, train.images[rows], train.labels[rows], shown, "Training images")
    _log.info("images by class: %s", path)
    if train.texts is not None:
        places = np.linspace(0, len(rows) - 1, min(len(rows), plots.MAX_PAIRS)).astype(int)
        shown = np.array(rows)[places]
        pairs = path.with_name("pairs.png")
        sides = train.images[shown], train.texts[shown]
        plots.translations(pairs, *sides, "Images and their texts", made=False)
        _log.info("images with their texts: %s", pairs)
