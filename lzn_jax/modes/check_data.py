"""--mode=check_data: reads a whole data set and reports its contents and faults."""

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
from lzn_jax.data import Examples, TrainingBatches, class_names, load_pairs_alone, whole_image
from lzn_jax.data.pixels import MAX_NAMED, EncodedImages, UnreadableImageError
from lzn_jax.errors import EXIT_DONE, UserError
from lzn_jax.run.log import progress

MAX_SECONDS = 1800.0
_IMAGES_AT_A_TIME = 256
TIMED_SECONDS = 10.0
_SHOWN_CLASSES, _SHOWN_OF_A_CLASS = 20, 12

_log = logging.getLogger(__name__)


class Scan(NamedTuple):
    """Result of reading a split.

    Attributes:
      num_checked: number of images read, in order, within the time limit.
      unreadable: reason by index of each image that could not be decoded.
      checksum: first 16 digits of the SHA-256 of labels and pixels of the readable images.
      images_per_second: decoding speed.
    """

    num_checked: int
    unreadable: dict[int, str]
    checksum: str
    images_per_second: float


def check(config: ConfigDict, workdir: Path) -> int:
    """Reports counts, classes, checksums, speed and unreadable images; draws a contact sheet.

    Decodes both splits, each for at most half an hour. Returns exit code 0. Raises UserError if the
    data set cannot be read and, at the end, for unreadable images and for texts or images that are
    not pairs, unless `data.skip_unreadable` is set.
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
    unreadable = sum(len(result.unreadable) for result in scans.values())
    unpaired = len({name for examples in splits.values() for name in examples.left_out})
    counts = {"images cannot be read": unreadable, "texts or images are not pairs": unpaired}
    faults = " and ".join(f"{count} {fault}" for fault, count in counts.items() if count)
    if faults and not data.skip_unreadable:
        raise UserError(
            f"{faults} (in {data.path}): repair or remove them, or train without them with "
            "--config.data.skip_unreadable=True"
        )


def scan(examples: Examples, name: str, max_seconds: float = MAX_SECONDS) -> Scan:
    """Decodes the images of a split, in order, within `max_seconds`."""
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
    listed = ", ".join(
        f"{name or 'class'} {size}"
        for name, size in zip(names[:_SHOWN_CLASSES], sizes, strict=False)
    )
    more = ", ..." if len(names) > _SHOWN_CLASSES else ""
    _log.info("%s: %d classes: %s%s", split, len(names), listed, more)


def _describe_texts(split: str, texts: np.ndarray) -> None:
    captions = [str(text) for text in texts if text]
    lengths = sorted(map(len, captions)) or [0]
    _log.info(
        "%s: %d pairs, %d different texts of %d different characters, %d examples without a text",
        split, len(captions), len(set(captions)), len(set("".join(captions))),
        len(texts) - len(captions),
    )  # fmt: skip
    _log.info(
        "%s: texts have %d to %d characters, median %d",
        split, lengths[0], lengths[-1], lengths[len(lengths) // 2],
    )  # fmt: skip


def _describe_scan(result: Scan, examples: Examples) -> None:
    if result.num_checked < len(examples.labels):
        _log.info("time limit: only the first %d images were read", result.num_checked)
    _log.info("checksum %s, %.0f images/s", result.checksum, result.images_per_second)
    for index in list(result.unreadable)[:MAX_NAMED]:
        assert isinstance(examples.images, EncodedImages)
        name = examples.images.source.name(index)
        _log.info("unreadable: %s: %s", name, result.unreadable[index])
    if len(result.unreadable) > MAX_NAMED:
        _log.info("unreadable: and %d more", len(result.unreadable) - MAX_NAMED)


def _time_batches(train: Examples, config: ConfigDict) -> None:
    """Logs the checksum of the first batch, before augmentation, and the speed of later ones."""
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
    """Draws readable images of the first classes, evenly spaced in the data set."""
    is_single = len(names) == 1
    limit = _SHOWN_OF_A_CLASS**2 if is_single else _SHOWN_OF_A_CLASS
    rows = []
    for label in range(min(len(names), _SHOWN_CLASSES)):
        members = np.setdiff1d(np.flatnonzero(train.labels == label), list(unreadable))
        chosen = np.linspace(0, len(members) - 1, min(limit, len(members))).round().astype(int)
        rows.extend(members[chosen].tolist())
    if not rows:
        return
    shown = [name or "all" for name in names]
    plots.sample_grid(path, train.images[rows], train.labels[rows], shown, "Training images")
    _log.info("images by class: %s", path)
    if train.texts is not None:
        chosen = np.linspace(0, len(rows) - 1, min(len(rows), plots.MAX_PAIRS)).astype(int)
        shown = np.array(rows)[chosen]
        pairs = path.with_name("pairs.png")
        sides = train.images[shown], train.texts[shown]
        plots.translations(pairs, *sides, "Images and their texts", made=False)
        _log.info("images with their texts: %s", pairs)
