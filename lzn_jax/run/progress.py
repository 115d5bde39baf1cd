"""Progress bars, training rates and the metrics that are logged."""

import sys
from collections.abc import Mapping

import jax
from ml_collections import ConfigDict
from tqdm import tqdm

from lzn_jax.run import headlines, processes
from lzn_jax.run.goodput import Goodput
from lzn_jax.run.reporting import MetricLog


class _PlainLines:
    """stderr of a bar without a terminal: each redraw is a separate line."""

    def write(self, text: str) -> None:
        line = text.strip()
        if line:
            sys.stderr.write(f"{line}\n")

    def flush(self) -> None:
        sys.stderr.flush()


def progress(
    total: int, description: str, initial: int = 0, unit: str = "step", brief: bool = False
) -> tqdm:
    """A progress bar on stderr with rate and remaining time, as a context manager.

    If stderr is not a terminal, prints plain lines at least 10 s apart. A `brief` bar appears after
    3 s and is removed at the end. Only the process that writes shows bars.
    """
    common = {"total": total, "desc": description, "initial": initial, "unit": f" {unit}"}
    common |= {"disable": not processes.is_writer()}
    common |= {"leave": not brief, "delay": 3.0 if brief else 0.0}
    if sys.stderr.isatty():
        return tqdm(**common, file=sys.stderr, dynamic_ncols=True)
    line = (
        "{desc}: {percentage:.0f}% {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}{postfix}]"
    )
    # With another position, a nested bar would move the cursor.
    return tqdm(**common, file=_PlainLines(), mininterval=10.0, bar_format=line, position=0)


class LateMetrics:
    """Fetches the metrics of an update after the next has started; logs every n-th."""

    def __init__(
        self,
        log: MetricLog,
        bar: tqdm,
        goodput: Goodput,
        first_step: int,
        training: ConfigDict,
        peak_steps: float | None = None,
    ) -> None:
        """Metrics from `first_step` on; `peak_steps` is the machine's limit of steps per second."""
        self._skipped_in_a_row = 0.0
        self._log, self._bar, self._goodput = log, bar, goodput
        self._training, self._peak_steps = training, peak_steps
        self._pending: tuple[int, Mapping[str, jax.Array]] | None = None
        self._start = self._last = (first_step, *self._seconds())

    def put(self, step: int, metrics: Mapping[str, jax.Array]) -> None:
        """Stores the metrics of update number `step`, which may still be running."""
        self.flush()
        self._pending = (step, metrics)

    def flush(self) -> None:
        """Fetches and logs the pending metrics."""
        if self._pending is None:
            return
        step, metrics = self._pending
        self._pending = None
        values = {name: float(value) for name, value in jax.device_get(metrics).items()}
        self._skipped_in_a_row = values.pop("skipped_in_a_row")
        self._bar.set_postfix_str(headlines.of_update(values), refresh=False)
        self._bar.update(1)
        if step % self._training.log_every_steps == 0:
            self._log.write(step, {**values, **self._rates(self._last, step)})
            self._last = (step, *self._seconds())

    def all_skipped(self, count: int) -> bool:
        """Whether the last `count` updates were all skipped."""
        if self._skipped_in_a_row >= count:
            self.flush()  # the pending update may be finite again
        return self._skipped_in_a_row >= count

    def rates(self) -> dict[str, float]:
        """Rates over all updates of this process, excluding evaluation.

        Steps and examples per second, seconds per step, those of them spent waiting for data, and
        `mfu`, the share of the machine's peak rate, if it is known.
        """
        return self._rates(self._start, self._bar.n)

    def _rates(self, since: tuple[int, float, float], step: int) -> dict[str, float]:
        (first, earlier_step, earlier_data), (in_step, in_data) = since, self._seconds()
        if step == first:
            return {}
        waiting = (in_data - earlier_data) / (step - first)
        seconds = waiting + (in_step - earlier_step) / (step - first)
        rates = {
            "steps_per_second": 1 / seconds,
            "seconds_per_step": seconds,
            "data_seconds_per_step": waiting,
            "examples_per_second": self._training.batch_size / seconds,
        }
        if self._peak_steps is not None:
            rates["mfu"] = 1 / seconds / self._peak_steps
        return rates

    def _seconds(self) -> tuple[float, float]:
        """Seconds so far in steps and in waiting for data."""
        seconds = self._goodput.seconds
        return seconds["step"], seconds["data"]


def rates_in_words(rates: Mapping[str, float]) -> str:
    """The rates of a run as one line."""
    seconds, waiting = rates["seconds_per_step"], rates["data_seconds_per_step"]
    line = f"{rates['examples_per_second']:.4g} examples per second; a step took {seconds:.3g} s"
    line += f", {waiting:.2g} s of them for data"
    return f"{line}; MFU {rates['mfu']:.1%}" if "mfu" in rates else line
