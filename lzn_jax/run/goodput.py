"""Wall time of a run by activity: training steps, data, checkpoints, evaluation."""

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from lzn_jax.configuration import parse_json
from lzn_jax.run import reporting

FILE = "goodput.json"
BUCKETS = ("init", "compile", "data", "step", "eval", "save", "restore")


class Goodput:
    """Wall time by bucket, measured by `with goodput("data"): ...` in one thread.

    Time in a nested bucket is not counted in the outer one.

    `goodput.json` sums all starts of a run, each from the construction of this object to the last
    `write`. It excludes Python's imports and the time of a killed start after its last `write`.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._began = clock()
        self._earlier: Mapping[str, float] = {}
        self._seconds = dict.fromkeys(BUCKETS, 0.0)
        self._open: list[str] = []
        self._charged_until = clock()

    @contextlib.contextmanager
    def __call__(self, bucket: str) -> Iterator[None]:
        """Adds the time spent inside to `bucket`; raises ValueError for an unknown bucket."""
        if bucket not in self._seconds:
            raise ValueError(f"unknown bucket {bucket!r}; choose from {', '.join(self._seconds)}")
        self._charge()
        self._open.append(bucket)
        try:
            yield
        finally:
            self._charge()
            self._open.pop()

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds so far by bucket, for all buckets, including those still open."""
        self._charge()
        return dict(self._seconds)

    def resume(self, workdir: str | os.PathLike[str]) -> None:
        """Adds the totals that earlier starts have written, if any."""
        with contextlib.suppress(OSError, ValueError):
            earlier = parse_json((Path(workdir) / FILE).read_text())
            self._earlier = {name: float(value) for name, value in earlier.items()}

    def totals(self) -> dict[str, float]:
        """Seconds by bucket over all starts, seconds in no bucket (`other`), number of `starts`."""
        now = self.seconds
        now["other"] = self._clock() - self._began - sum(now.values())
        now["starts"] = 1
        return {name: value + self._earlier.get(name, 0) for name, value in now.items()}

    def write(self, workdir: str | os.PathLike[str]) -> None:
        """Writes the totals to `goodput.json`."""
        reporting.write_json(Path(workdir) / FILE, self.totals())

    def in_words(self) -> str:
        """The totals as one line: share of wall time in training steps and in each other bucket."""
        seconds = self.totals()
        starts = seconds.pop("starts")
        wall = sum(seconds.values())
        step = seconds.pop("step")
        rest = sorted(seconds.items(), key=lambda item: -item[1])
        named = ", ".join(f"{name} {value / wall:.1%}" for name, value in rest if value > 0)
        line = f"{step / wall:.1%} of {wall:.0f} s spent in training steps; {named}"
        if starts > 1:
            line += f"; {starts:.0f} starts, each up to its last save"
        return line

    def _charge(self) -> None:
        now = self._clock()
        if self._open:
            self._seconds[self._open[-1]] += now - self._charged_until
        self._charged_until = now
