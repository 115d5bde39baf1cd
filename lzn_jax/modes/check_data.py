"""--mode=check_data: reads a whole data set and reports its contents and faults."""

import logging
import time
from collections import Counter
from collections.abc import Collection
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from lzn_jax import parts, plots
from lzn_jax.data import Examples, class_names, load_pairs_alone
from lzn_jax.data.batches import MIN_FOR_WORKERS, TrainingBatches
from lzn_jax.data.pixels import (
    MAX_NAMED,
    EncodedImages,
    UnreadableImageError,
    decoding_threads,
    evenly_spaced,
    oddities,
)
from lzn_jax.errors import EXIT_DONE, UserError
from lzn_jax.latent_space import LatentSpace
from lzn_jax.modes import compile
from lzn_jax.progress import progress
from lzn_jax.run import devices

_IMAGES_AT_A_TIME = 256
_DECODED_AT_A_TIME, _SECONDS_OF_SUPPLY = 64, 5.0
_SHOWN_CLASSES, _SHOWN_OF_A_CLASS = 20, 12

_log = logging.getLogger(__name__)


def check(config: ConfigDict, workdir: Path, slice_name: str | None = None) -> int:
    """Reports counts, classes, texts and unreadable images, and draws a contact sheet.

    With the name of a slice it also compiles an update for it, and reports whether this host
    supplies the images that a host of the slice needs. Returns exit code 0. Raises UserError if the
    data set cannot be read. Without `data.skip_unreadable`, also raises UserError at the end for
    unreadable images, and for texts or images that are not pairs.
    """
    machine = None if slice_name is None else compile.find(slice_name)  # before JAX starts
    data, names = config.data, class_names(config.data)
    types = [parts.get("type", name)(config) for name in config.types]
    splits = {split: load_pairs_alone(data, split) for split in ("train", "test")}
    faults = {}
    for split, examples in splits.items():
        _describe(split, examples, names)
        for data_type in types:
            data_type.check(examples, split)
        faults[split] = _unreadable(examples, split)
    if splits["train"].images is not None:
        path = workdir / "figures" / "contact_sheet.png"
        try:
            _draw(path, splits["train"], faults["train"], names)
        except OSError as error:
            raise UserError(f"{path} cannot be written: choose a folder with --workdir") from error
    unreadable = sum(map(len, faults.values()))
    unpaired = len({name for examples in splits.values() for name in examples.left_out})
    counts = {"images cannot be read": unreadable, "texts or images are not pairs": unpaired}
    found = " and ".join(f"{count} {fault}" for fault, count in counts.items() if count)
    if found and not data.skip_unreadable:
        raise UserError(
            f"{found} (in {data.path}): repair or remove them, or train without them with "
            "--config.data.skip_unreadable=True"
        )
    supplied = _supply(config, splits["train"])
    if machine is not None:
        verdict = compile.compile_step(config, machine)
        _log.info("%s", comparison(supplied, verdict, machine.name))
    return EXIT_DONE


def comparison(supplied: float | None, verdict: compile.Verdict, name: str) -> str:
    """Whether a host with the speed of this one feeds its share of a slice, in words."""
    _, needed, bound = verdict
    if supplied is None or needed is None:
        missing = "how many images this host supplies" if supplied is None else "the demand"
        return f"{name}: {missing} was not measured"
    rates = (
        f"a host needs {bound}{needed:,.0f} images per second, this host supplies {supplied:,.0f}"
    )
    if supplied >= needed:
        return f"enough for {name}: {rates}"
    return (
        f"not enough for {name}, updates would wait {bound}{1 - supplied / needed:.0%} of their "
        f"time: {rates}; use hosts with {bound}{needed / supplied:.1f} times the cores or store "
        "smaller images"
    )


def _supply(config: ConfigDict, train: Examples) -> float | None:
    """Training images that this host decodes in a second. None for few images and for arrays."""
    if not isinstance(train.images, EncodedImages) or len(train.labels) < MIN_FOR_WORKERS:
        return None
    transform = LatentSpace(config, devices.inference_mesh()).transform
    options = {"workers": config.data.workers, "cores": devices.own_cores()}
    with TrainingBatches(train, _DECODED_AT_A_TIME, config.seed, transform, **options) as batches:
        next(batches)  # the workers have started
        started, count = time.monotonic(), 0
        while (seconds := time.monotonic() - started) < _SECONDS_OF_SUPPLY:
            next(batches)
            count += _DECODED_AT_A_TIME
        rate, workers = count / seconds, batches.workers
    by = f"{rate / workers:.0f} by each of {workers} workers" if workers else "by one thread"
    _log.info("this host supplies %.0f training images per second, %s", rate, by)
    return rate


def _unreadable(examples: Examples, split: str) -> list[int]:
    """Decodes all images. Logs what is odd and what cannot be read. Returns unreadable rows."""
    images, reasons, kinds = examples.images, dict[int, str](), Counter[str]()
    if not isinstance(images, EncodedImages):
        return []
    threads = decoding_threads()

    def attempt(row: int) -> list[str] | UnreadableImageError:
        name = images.source.name(row)
        return images.attempt(row, lambda encoded: oddities(encoded, name, images.data))

    with progress(len(images), f"checking {split}", unit="image") as bar:
        for start in range(0, len(images), _IMAGES_AT_A_TIME):
            rows = range(start, min(start + _IMAGES_AT_A_TIME, len(images)))
            for row, found in zip(rows, threads.map(attempt, rows), strict=True):
                if isinstance(found, UnreadableImageError):
                    reasons[row] = str(found)
                else:
                    kinds.update(found)
            bar.update(len(rows))
    for kind, count in sorted(kinds.items()):
        _log.info("%s: %d images are %s", split, count, kind)
    for row in list(reasons)[:MAX_NAMED]:
        _log.info("unreadable: %s: %s", images.source.name(row), reasons[row])
    if (more := len(reasons) - MAX_NAMED) > 0:
        _log.info("unreadable: and %d more", more)
    return list(reasons)


def _describe(split: str, examples: Examples, names: tuple[str, ...]) -> None:
    if examples.images is None:
        _log.info("%s: %d examples without images", split, len(examples.labels))
    else:
        count, *size = examples.images.shape
        _log.info("%s: %d images of %dx%dx%d", split, count, *size)
    sizes = np.bincount(examples.labels, minlength=len(names))
    counts = [f"{name or 'class'} {size}" for name, size in zip(names, sizes, strict=False)]
    more = ", ..." if len(names) > _SHOWN_CLASSES else ""
    listed = ", ".join(counts[:_SHOWN_CLASSES]) + more
    _log.info("%s: %d classes: %s", split, len(names), listed)
    if examples.texts is not None:
        texts = [str(text) for text in examples.texts if text]
        lengths = sorted(map(len, texts)) or [0]
        _log.info(
            "%s: %d pairs, %d different texts of %d different characters, %d examples without a "
            "text; texts have %d to %d characters, median %d",
            split, len(texts), len(set(texts)), len(set("".join(texts))),
            len(examples.texts) - len(texts), lengths[0], lengths[-1], lengths[len(lengths) // 2],
        )  # fmt: skip


def _draw(path: Path, train: Examples, unreadable: Collection[int], names: tuple[str, ...]) -> None:
    """Draws readable images of the first classes, evenly spaced in the data set."""
    limit = _SHOWN_OF_A_CLASS ** (2 if len(names) == 1 else 1)
    rows = list[int]()
    for label in range(min(len(names), _SHOWN_CLASSES)):
        members = np.setdiff1d(np.flatnonzero(train.labels == label), list(unreadable))
        rows += members[evenly_spaced(min(limit, len(members)), len(members))].tolist()
    if not rows:
        return
    shown = [name or "all" for name in names]
    plots.sample_grid(path, train.images[rows], train.labels[rows], shown, "Training images")
    _log.info("images by class: %s", path)
    if train.texts is not None:
        chosen = evenly_spaced(min(plots.MAX_PAIRS, len(rows)), len(rows))
        rows = np.array(rows)[chosen].tolist()
        sides, path = (train.images[rows], train.texts[rows]), path.with_name("pairs.png")
        plots.translations(path, *sides, "Images and their texts", made=False)
        _log.info("images with their texts: %s", path)
