"""What a run leaves behind: metrics, TensorBoard events, JSON files and arrays."""

import io
import json
import logging
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol, SupportsFloat, runtime_checkable

import numpy as np
from PIL import Image
from tensorboardX import SummaryWriter
from tensorboardX.record_writer import register_writer_factory

from lzn_jax.configuration import UserError
from lzn_jax.run import processes

METRICS_FILE = "metrics.jsonl"


def cache_folder() -> Path:
    """Where the user keeps what can be made again."""
    return Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "lzn_jax"


def write_bytes(path: str | os.PathLike[str], content: bytes) -> None:
    """Write a file atomically: a reader, or a crash, finds the old content or the new one.

    The parent directory is created if needed. Of several processes one writes.
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
    """The nearest value that JSON can hold: arrays as lists, non-finite numbers as None."""
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
    """Write `value` as indented JSON, atomically, keys in their own order.

    Arrays become lists. JSON has no NaN or infinity, so these become null.

    Raises:
        TypeError: JSON cannot hold `value`; the file is left as it was.
    """
    text = json.dumps(_plain(value), indent=2, allow_nan=False)
    write_bytes(path, f"{text}\n".encode())


def write_arrays(path: str | os.PathLike[str], **arrays: Any) -> None:
    """Write arrays by name as .npz, atomically."""  # Any: NumPy's types mix in its own flag
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)
    write_bytes(path, content.getvalue())


def read_arrays(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """The arrays of an .npz file by name; raises UserError for a file that cannot be read."""
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
            return dict(archive)
    except Exception as error:  # zipfile, zlib and NumPy raise almost anything on a damaged file
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{path} cannot be read as .npz: {reason}") from error


def _records(path: Path) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """Each line of a metrics file with its record; lines that are no record are skipped."""
    with open(path, "rb") as file:
        for line in file:
            try:
                record = json.loads(line)
            except ValueError:
                continue
            if isinstance(record, dict) and isinstance(record.get("step"), int):
                yield line, record


def read_metrics(workdir: str | os.PathLike[str]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Every metric of a run by name: its steps (int64) and values (float64), in file order.

    A null, which stands for a non-finite value, reads as NaN. A line that a running or killed
    process has not finished is left out.

    Raises:
        FileNotFoundError: `workdir` holds no metrics.
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
    """Where else the metrics of a run are shown."""

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Shows metrics of a step."""

    def image(self, step: int, name: str, path: str | os.PathLike[str]) -> None:
        """Shows a picture file."""

    def close(self) -> None:
        """Sends what is pending."""


class MetricLog:
    """The metrics of a run: lines of `metrics.jsonl` and TensorBoard scalars of the same names.

    They go to `sink`, too. Opening continues the run from `step`: whatever an earlier process
    logged after that step, and a line it was killed in, goes; the other lines stay byte for byte.
    Of several processes one writes; the others' logs stay empty.

    Not clu.metric_writers, which imports TensorFlow, as clu.periodic_actions does (clu 0.0.12).
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
        # tensorboardX names files by the second; without the suffix a quick restart would
        # overwrite the events of the run it continues.
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
        """Append one line, handed to the operating system before this returns.

        Non-finite values are null in the file (JSON has no NaN) and as they are in TensorBoard.

        Raises:
            ValueError: a metric is called `step`.
            OSError: the disk is full or gone, here or where TensorBoard's thread wrote before.
        """
        if self._event_files.error is not None:
            raise self._event_files.error
        if "step" in metrics:
            raise ValueError("a metric cannot be called 'step': each line has its step already")
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
        """Whether this run, or the part of it kept at opening, logged metric `name` at `step`.

        Processes must ask together.
        """
        return processes.anywhere((step, name) in self._logged)

    def image(self, step: int, name: str, path: str | os.PathLike[str]) -> None:
        """Show a picture file in TensorBoard and in the sink."""
        with Image.open(path) as picture:
            pixels = np.asarray(picture.convert("RGB"))
        self._events.add_image(name, pixels, step, dataformats="HWC")
        if self._sink:
            self._sink.image(step, name, path)

    def close(self) -> None:
        """Write what is pending and close the files."""
        self._file.close()
        self._events.close()
        if self._sink:
            self._sink.close()

    def __enter__(self) -> "MetricLog":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class _EventFiles:
    """Files for TensorBoard's writing thread, which keep an error that would end the thread.

    Without its thread the writer's queue fills, and then the training loop waits for ever.
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
    """Cut a metrics file back to `step`; the (step, name) pairs that remain."""
    if not path.exists():
        return set()
    kept = [(line, record) for line, record in _records(path) if record["step"] <= step]
    # A last line may be whole but for its newline.
    content = b"".join(line.removesuffix(b"\n") + b"\n" for line, _ in kept)
    if content != path.read_bytes():
        write_bytes(path, content)
    return {(record["step"], name) for _, record in kept for name in record if name != "step"}
