"""Output files of a run: metrics, TensorBoard events, JSON, CSV and arrays."""

import csv
import io
import json
import logging
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, SupportsFloat, runtime_checkable

import numpy as np
from PIL import Image
from tensorboardX import SummaryWriter
from tensorboardX.record_writer import register_writer_factory

from lzn_jax.configuration import UserError, parse_json
from lzn_jax.run import processes

METRICS_FILE = "metrics.jsonl"


def cache_folder() -> Path:
    """The user's cache folder, for files that can be made again."""
    return Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "lzn_jax"


def write_bytes(path: str | os.PathLike[str], content: bytes) -> None:
    """Writes a file atomically: readers, also after a crash, find the old or the new content.

    Creates the parent folder. With several processes, only the writer writes.
    """
    if not processes.is_writer():
        return
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _plain(value: Any) -> Any:
    """A value for JSON: arrays as lists, non-finite numbers as None."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Writes `value` as indented JSON, atomically, without sorting keys.

    Arrays become lists; NaN and infinity, which JSON lacks, become null. Raises TypeError, and
    leaves the file unchanged, for values that JSON cannot represent.
    """
    text = json.dumps(_plain(value), indent=2, allow_nan=False)
    write_bytes(path, f"{text}\n".encode())


def write_arrays(path: str | os.PathLike[str], **arrays: Any) -> None:
    """Writes arrays by name as .npz, atomically."""  # Any: NumPy's stubs also have a flag here
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)
    write_bytes(path, content.getvalue())


def write_csv(path: str | os.PathLike[str], header: Sequence[str], rows: Iterable[Any]) -> None:
    """Writes a table as .csv, atomically; file names that are not UTF-8 keep their bytes."""
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    write_bytes(path, table.getvalue().encode(errors="surrogateescape"))


def read_arrays(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Arrays of an .npz file by name; raises UserError if the file cannot be read."""
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
            return dict(archive)
    except Exception as error:  # zipfile, zlib and NumPy raise almost anything on a damaged file
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{path} cannot be read as .npz: {reason}") from error


def _records(path: Path) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """Lines of a metrics file with their records; lines that are not records are skipped."""
    with open(path, "rb") as file:
        for line in file:
            try:
                record = parse_json(line)
            except ValueError:
                continue
            if isinstance(record, dict) and isinstance(record.get("step"), int):
                yield line, record


def read_metrics(workdir: str | os.PathLike[str]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Steps (int64) and values (float64) of every metric of a run by name, in file order.

    Null, which represents non-finite values, is read as NaN. An incomplete last line, of a running
    or killed process, is skipped. Raises FileNotFoundError if `workdir` has no metrics.
    """
    steps: dict[str, list[int]] = {}
    values: dict[str, list[float]] = {}
    for _, record in _records(Path(workdir) / METRICS_FILE):
        step = record.pop("step")
        for name, value in record.items():
            steps.setdefault(name, []).append(step)
            values.setdefault(name, []).append(math.nan if value is None else float(value))
    return {name: (np.asarray(steps[name]), np.asarray(values[name])) for name in steps}


@runtime_checkable
class Sink(Protocol):
    """Another destination of a run's metrics, beside files and TensorBoard."""

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Sends the metrics of a step."""

    def image(self, step: int, name: str, path: str | os.PathLike[str]) -> None:
        """Sends an image file."""

    def close(self) -> None:
        """Sends pending data."""


class MetricLog:
    """Writes metrics to `metrics.jsonl`, to TensorBoard and to `sink`, by the same names.

    Opening continues the run from `step`: it removes lines of later steps and an incomplete last
    line, and keeps the bytes of all others. With several processes, only the writer writes.

    clu.metric_writers and clu.periodic_actions (clu 0.0.12) would import TensorFlow.
    """

    def __init__(
        self, workdir: str | os.PathLike[str], step: int, sink: Sink | None = None
    ) -> None:
        self._sink = sink
        workdir = Path(workdir)
        workdir.mkdir(parents=True, exist_ok=True)
        is_writer = processes.is_writer()
        path = workdir / METRICS_FILE if is_writer else Path(os.devnull)
        self._logged = _drop_after(path, step) if is_writer else set()
        logging.getLogger("tensorboardX.x2num").setLevel(logging.ERROR)  # it warns of every NaN
        self._file = open(path, "ab")  # noqa: SIM115 (closed in `close`)
        # tensorboardX names files by the second: without the suffix, a restart within a second
        # would overwrite the events of the run.
        self._event_files = _EventFiles()
        register_writer_factory(_EventFiles.PREFIX, self._event_files)
        self._events = SummaryWriter(
            f"{_EventFiles.PREFIX}:{workdir / 'tensorboard'}",
            purge_step=step + 1,
            write_to_disk=is_writer,
            flush_secs=10,
            filename_suffix=f".{time.time_ns()}",
        )

    def write(self, step: int, metrics: Mapping[str, SupportsFloat]) -> None:
        """Appends the metrics of a step as one line, passed to the operating system on return.

        Non-finite values are null in the file, as JSON has no NaN, and unchanged in TensorBoard.
        Raises ValueError for a metric named `step`, and OSError if the disk is full or gone, here
        or in an earlier write of TensorBoard's thread.
        """
        if self._event_files.error is not None:
            raise self._event_files.error
        if "step" in metrics:
            raise ValueError("a metric cannot be named 'step': each line already has its step")
        values = {name: float(value) for name, value in metrics.items()}
        line = json.dumps({"step": step, **_plain(values)}, allow_nan=False)
        self._file.write(f"{line}\n".encode())
        self._file.flush()
        for name, value in values.items():
            self._logged.add((step, name))
            self._events.add_scalar(name, value, step)
        if self._sink:
            self._sink.write(step, values)

    def has(self, step: int, name: str) -> bool:
        """Whether the run, including lines kept at opening, has logged metric `name` at `step`.

        Every process must call this.
        """
        return processes.anywhere((step, name) in self._logged)

    def image(self, step: int, name: str, path: str | os.PathLike[str]) -> None:
        """Adds an image file to TensorBoard and to the sink."""
        with Image.open(path) as picture:
            pixels = np.asarray(picture.convert("RGB"))
        self._events.add_image(name, pixels, step, dataformats="HWC")
        if self._sink:
            self._sink.image(step, name, path)

    def close(self) -> None:
        """Writes pending data and closes the files."""
        self._file.close()
        self._events.close()
        if self._sink:
            self._sink.close()

    def __enter__(self) -> "MetricLog":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class _EventFiles:
    """Files for TensorBoard's writer thread; stores an OSError, which would end the thread.

    Without the thread, the writer's queue fills up and blocks the training loop forever.
    """

    PREFIX = "lzn_jax"

    def __init__(self) -> None:
        self.error: OSError | None = None

    def directory_check(self, path: str) -> None:
        os.makedirs(self._plain(path), exist_ok=True)

    def open(self, path: str) -> "_EventFile":
        return _EventFile(self, self._plain(path))

    def _plain(self, path: str) -> str:
        return path.removeprefix(f"{self.PREFIX}:")


class _EventFile:
    def __init__(self, files: _EventFiles, path: str) -> None:
        self._files = files
        self._file = open(path, "wb")  # noqa: SIM115 (closed in `close`)

    def write(self, content: bytes) -> None:
        self._try(self._file.write, content)

    def flush(self) -> None:
        self._try(self._file.flush)

    def close(self) -> None:
        self._try(self._file.close)

    def _try(self, action: Callable[..., object], *arguments: bytes) -> None:
        try:
            action(*arguments)
        except OSError as error:
            self._files.error = error


def _drop_after(path: Path, step: int) -> set[tuple[int, str]]:
    """Truncates a metrics file after `step`; returns the (step, name) pairs that remain."""
    if not path.exists():
        return set()
    kept = [(line, record) for line, record in _records(path) if record["step"] <= step]
    # The last line may lack only its newline.
    content = b"".join(line.removesuffix(b"\n") + b"\n" for line, _ in kept)
    if content != path.read_bytes():
        write_bytes(path, content)
    return {(record["step"], name) for _, record in kept for name in record if name != "step"}
