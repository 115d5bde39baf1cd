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
    ) -> None:
        self._skipped_in_a_row = 0.0
        self._log, self._bar, self._goodput = log, bar, goodput
        self._training = training
        self._pending: tuple[int, Mapping[str, jax.Array]] | None = None
        self._start = self._last = (first_step, self._busy_seconds())

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
            self._last = (step, self._busy_seconds())

    def all_skipped(self, count: int) -> bool:
        """Whether the last `count` updates were all skipped."""
        if self._skipped_in_a_row >= count:
            self.flush()  # the pending update may be finite again
        return self._skipped_in_a_row >= count

    def rates(self) -> dict[str, float]:
        """Steps and examples per second over all updates of this process, excluding evaluation."""
        return self._rates(self._start, self._bar.n)

    def _rates(self, since: tuple[int, float], step: int) -> dict[str, float]:
        steps, seconds = step - since[0], self._busy_seconds() - since[1]
        if steps == 0:
            return {}
        rate = steps / seconds
        return {
            "steps_per_second": rate,
            "examples_per_second": rate * self._training.batch_size,
        }

    def _busy_seconds(self) -> float:
        return self._goodput.seconds["step"] + self._goodput.seconds["data"]
