"""The log of a run: metrics, rates and the use of its time."""

import contextlib
import json
import logging
import math
import os
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, SupportsFloat

import jax
import numpy as np
from PIL import Image
from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto import event_pb2, summary_pb2
from tqdm import tqdm

from lzn_jax import files
from lzn_jax.errors import UserError, package
from lzn_jax.run import devices

METRICS_FILE = "metrics.jsonl"

_log = logging.getLogger(__name__)


def _records(path: Path) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """Lines of a metrics file with their records. Lines that are not records are skipped."""
    with open(path, "rb") as file:
        for line in file:
            with contextlib.suppress(ValueError):
                record = files.parse_json(line)
                if isinstance(record, dict) and isinstance(record.get("step"), int):
                    yield line, record


def read_metrics(workdir: str | os.PathLike[str]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Steps (int64) and values (float64) of every metric of a run by name, in file order.

    Null, which represents non-finite values, is read as NaN. An incomplete last line of a running
    or killed process is skipped. Raises FileNotFoundError if `workdir` contains no metrics.
    """
    found: dict[str, list[tuple[int, float]]] = {}
    for _, record in _records(Path(workdir) / METRICS_FILE):
        step = record.pop("step")
        for name, value in record.items():
            pair = (step, math.nan if value is None else float(value))
            found.setdefault(name, []).append(pair)
    columns = {name: zip(*pairs, strict=True) for name, pairs in found.items()}
    return {name: (np.array(steps), np.array(values)) for name, (steps, values) in columns.items()}


class MetricLog:
    """Writes metrics under the same names to `metrics.jsonl`, TensorBoard and a run of `wandb`.

    The constructor continues the run from `step`. It removes the lines of later steps and an
    incomplete last line. With several processes, only the writer writes.
    """

    # clu.metric_writers (clu 0.0.12) would import TensorFlow.

    def __init__(self, workdir: str | os.PathLike[str], step: int, wandb: Any = None) -> None:
        is_writer = files.is_writer()
        folder = Path(workdir) / "tensorboard"
        folder.mkdir(parents=True, exist_ok=True)
        self._path = Path(workdir) / METRICS_FILE if is_writer else Path(os.devnull)
        _drop_after(self._path, step)
        self._file = open(self._path, "ab")  # noqa: SIM115 (closed in `__exit__`)
        self._wandb = wandb
        logging.getLogger("tensorboardX.x2num").setLevel(logging.ERROR)  # it warns of every NaN
        # Not SummaryWriter, whose thread dies on a full disk and then blocks the training loop.
        # EventsWriter names files by the second, so a restart within it would overwrite the events.
        name, suffix = str(folder / "events"), f".{time.time_ns()}"
        self._events = EventsWriter(name, suffix) if is_writer else None
        start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)  # hides later steps
        self._add(step + 1, session_log=start)

    def write(self, step: int, metrics: Mapping[str, SupportsFloat]) -> None:
        """Appends the metrics of a step as one line, passed to the operating system on return.

        Non-finite values are null in the file, since JSON lacks NaN, and unchanged in TensorBoard.
        """
        if "step" in metrics:
            raise ValueError("a metric cannot be named 'step': each line already has its step")
        values = {name: float(value) for name, value in metrics.items()}
        line = json.dumps({"step": step, **files.plain(values)}, allow_nan=False)
        self._file.write(f"{line}\n".encode())
        self._file.flush()
        scalars = [summary.scalar(name, value).value[0] for name, value in values.items()]
        self._add(step, summary=summary_pb2.Summary(value=scalars))
        self._send(step, values)

    def has(self, step: int, name: str) -> bool:
        """Whether the run has logged metric `name` at `step`. Every process must call this."""
        records = (record for _, record in _records(self._path))
        return devices.anywhere(any(r["step"] == step and name in r for r in records))

    def image(self, step: int, name: str, path: str | os.PathLike[str]) -> None:
        """Adds an image file to TensorBoard and wandb."""
        with Image.open(path) as picture:
            pixels = np.asarray(picture.convert("RGB"))
        self._add(step, summary=summary.image(name, pixels, dataformats="HWC"))
        if self._wandb is not None:
            import wandb

            self._send(step, {name: wandb.Image(os.fspath(path))})

    def _add(self, step: int, **content: object) -> None:
        if self._events is not None:
            event = event_pb2.Event(step=step, wall_time=time.time(), **content)
            self._events.write_event(event)
            self._events.flush()  # the buffer of a network file system may hide hours of events

    def _send(self, step: int, values: Mapping[str, object]) -> None:
        """Sends values to wandb until that fails, since SIGTERM may end wandb's process first."""
        try:
            if self._wandb is not None:
                self._wandb.log(values, step=step)
        except Exception as error:
            self._wandb = None
            _log.warning("Weights & Biases failed (%r): the run continues without it", error)

    def __enter__(self) -> "MetricLog":
        return self

    def __exit__(self, *exception: object) -> None:
        with contextlib.ExitStack() as stack:  # closes each, even if one fails
            if self._wandb is not None:
                stack.callback(self._wandb.finish)
            if self._events is not None:
                stack.callback(self._events.close)
            self._file.close()


def _drop_after(path: Path, step: int) -> None:
    """Truncates a metrics file after `step`."""
    if path.exists():
        kept = [line for line, record in _records(path) if record["step"] <= step]
        # The last line may lack only its newline.
        content = b"".join(line.removesuffix(b"\n") + b"\n" for line in kept)
        if content != path.read_bytes():
            files.write_bytes(path, content)


def start_wandb(project: str | None, workdir: Path, config: Mapping[str, object]) -> Any:
    """Run of Weights & Biases, the same run after a restart. None without a project.

    Raises UserError if the package is missing or the service refuses the project or the user.
    """
    if project is None or not files.is_writer():
        return None
    remedy = "--config.reporting.wandb_project=None"
    wandb = package("wandb", f"-e '.[wandb]', or {remedy}")
    path = workdir / "wandb_id.txt"
    if not path.is_file():
        files.write_bytes(path, secrets.token_hex(4).encode())
    try:
        return wandb.init(
            project=project,
            id=path.read_text(),
            resume="allow",
            name=workdir.resolve().name,
            dir=workdir,
            config=config,
            settings=wandb.Settings(console="off"),  # otherwise it captures stderr and its bars
        )
    except wandb.Error as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"wandb failed ({reason}): run `wandb login`, set WANDB_MODE=offline, or {remedy}"
        ) from error


FILE = "goodput.json"
CHECKED_EVERY = 100  # updates, after which one is timed alone
MOST_WAITING = 0.2  # share of an update's time that data may take without a warning


class Goodput:
    """Wall time by bucket (purpose), measured by `with goodput("data"): ...` in one thread.

    Time in a nested bucket is not counted in the outer one. `goodput.json` sums all starts of a
    run. It excludes Python's imports and the time of a killed start after its last `write`.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock, self._charged_until = clock, clock()
        self._earlier: Mapping[str, float] = {}
        buckets = ("init", "compile", "data", "step", "eval", "save", "restore", "other")
        self._seconds = dict.fromkeys(buckets, 0.0)
        self._open = ["other"]

    @contextlib.contextmanager
    def __call__(self, bucket: str) -> Iterator[None]:
        """Adds the time spent inside to `bucket`."""
        self._charge()
        self._open.append(bucket)
        try:
            yield
        finally:
            self._charge()
            self._open.pop()

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds of this start by bucket, including open buckets. `other` is the rest."""
        self._charge()
        return dict(self._seconds)

    def _charge(self) -> None:
        now = self._clock()
        self._seconds[self._open[-1]] += now - self._charged_until
        self._charged_until = now

    def resume(self, workdir: str | os.PathLike[str]) -> None:
        """Adds the totals that earlier starts have written, if any."""
        with contextlib.suppress(OSError, ValueError):
            earlier = files.parse_json((Path(workdir) / FILE).read_text())
            self._earlier = {name: float(value) for name, value in earlier.items()}

    def totals(self) -> dict[str, float]:
        """Seconds by bucket over all starts, and number of `starts`."""
        now = self.seconds | {"starts": 1}
        return {name: value + self._earlier.get(name, 0) for name, value in now.items()}

    def write(self, workdir: str | os.PathLike[str]) -> None:
        """Writes the totals to `goodput.json`."""
        files.write_json(Path(workdir) / FILE, self.totals())

    def in_words(self) -> str:
        """The totals as one line, with the share of wall time in each bucket."""
        seconds = self.totals()
        starts, wall = seconds.pop("starts"), sum(seconds.values())
        step = seconds.pop("step")
        rest = sorted(seconds.items(), key=lambda item: -item[1])
        named = ", ".join(f"{name} {value / wall:.1%}" for name, value in rest if value > 0)
        line = f"{step / wall:.1%} of {wall:.0f} s spent in training steps; {named}"
        return line + (f"; {starts:.0f} starts, each up to its last save" if starts > 1 else "")


class LateMetrics:
    """Fetches the metrics of an update after the next has started. Logs every n-th update.

    Every hundredth update is timed alone. A warning says, once, that updates wait for data.
    Metrics begin after `first_step`. `peak_steps` is the machine's limit of steps per second.
    `learning_rates` maps the number of an update and the number of skipped updates before it to
    learning rates.
    """

    def __init__(
        self,
        log: MetricLog,
        bar: tqdm,
        goodput: Goodput,
        first_step: int,
        batch_size: int,
        log_every_steps: int,
        learning_rates: Callable[[int, int], Mapping[str, float]],
        peak_steps: float | None = None,
        workers: int = 0,
    ) -> None:
        self._log, self._bar, self._goodput, self._workers = log, bar, goodput, workers
        self._batch_size, self._log_every_steps = batch_size, log_every_steps
        self._learning_rates, self._peak_steps = learning_rates, peak_steps
        self._pending: tuple[int, Mapping[str, jax.Array]] | None = None
        self._skipped_in_a_row = 0.0
        self._start = self._last = (first_step, goodput.seconds)
        self._checked: tuple[int, Mapping[str, float]] | None = None
        self._is_starved, self._alone_since = False, math.nan

    def start(self, step: int) -> None:
        """Call this before the update after `step`; waits if that update is to be timed."""
        self._alone_since = math.nan
        if self._checked is None:  # the workers have started
            self._checked = (step, self._goodput.seconds)
        if step == self._checked[0] + CHECKED_EVERY and not self._is_starved:
            self.flush()
            self._alone_since = self._goodput.seconds["step"]

    def put(self, step: int, metrics: Mapping[str, jax.Array]) -> None:
        """Stores the metrics of update number `step`, which may still be running."""
        self.flush()
        self._pending = (step, metrics)
        if not math.isnan(self._alone_since):
            self.flush()
            self._check_supply(step - 1, self._goodput.seconds["step"] - self._alone_since)

    def _check_supply(self, step: int, alone: float) -> None:
        """Warns if updates waited for data; `alone` is the time of one that did not."""
        assert self._checked is not None
        rates, self._checked = self._rates(self._checked, step), (step, self._goodput.seconds)
        seconds, size = rates["seconds_per_step"], self._batch_size
        waiting = min(1 - alone / seconds, rates["data_seconds_per_step"] / seconds)
        if waiting > MOST_WAITING:
            self._is_starved = True
            _log.warning(
                "updates wait for data %.0f %% of their time: %.3g examples per second arrive, "
                "%.3g are needed (workers: %d); train on hosts with more cores, store smaller "
                "images, or raise data.workers",
                100 * waiting, size / seconds, size / alone, self._workers,
            )  # fmt: skip

    def flush(self) -> None:
        """Fetches and logs the pending metrics."""
        if self._pending is None:
            return
        (step, metrics), self._pending = self._pending, None
        values = {name: float(value) for name, value in jax.device_get(metrics).items()}
        self._skipped_in_a_row = values.pop("skipped_in_a_row")
        # With several alignments, the accuracy of the first one.
        shown = ["loss", *[name for name in values if name.startswith("assignment_accuracy")][:1]]
        words = (f"{name.replace('_', ' ')} {values[name]:.4f}" for name in shown)
        self._bar.set_postfix_str(", ".join(words), refresh=False)
        self._bar.update(1)
        if step % self._log_every_steps == 0:
            before = int(values["skipped"]) - (self._skipped_in_a_row > 0)
            values |= self._learning_rates(step, before)
            self._log.write(step, {**values, **self._rates(self._last, step)})
            self._last = (step, self._goodput.seconds)

    def all_skipped(self, count: int) -> bool:
        """Whether the last `count` updates were all skipped."""
        if self._skipped_in_a_row >= count:
            self.flush()  # the pending update may be finite again
        return self._skipped_in_a_row >= count

    def rates(self) -> dict[str, float]:
        """Rates over all updates of this process, excluding evaluation.

        They are steps and examples per second, seconds per step in total and waiting for data, and
        `mfu`, the share of the machine's peak rate, if it is known.
        """
        return self._rates(self._start, self._bar.n)

    def _rates(self, since: tuple[int, Mapping[str, float]], step: int) -> dict[str, float]:
        (first, before), now = since, self._goodput.seconds
        if step == first:
            return {}
        waiting, computing = (
            (now[name] - before[name]) / (step - first) for name in ("data", "step")
        )
        seconds = waiting + computing
        peak = self._peak_steps
        return {
            "steps_per_second": 1 / seconds,
            "seconds_per_step": seconds,
            "data_seconds_per_step": waiting,
            "examples_per_second": self._batch_size / seconds,
            **({} if peak is None else {"mfu": 1 / seconds / peak}),
        }


def rates_in_words(rates: Mapping[str, float]) -> str:
    """The rates of a run as one line."""
    seconds, waiting = rates["seconds_per_step"], rates["data_seconds_per_step"]
    line = f"{rates['examples_per_second']:.4g} examples per second; a step took {seconds:.3g} s"
    line += f", {waiting:.2g} s of them for data"
    return f"{line}; MFU {rates['mfu']:.1%}" if "mfu" in rates else line
