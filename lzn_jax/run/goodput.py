"""Wall time of a run by what it was spent on."""

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from lzn_jax.run import reporting

FILE = "goodput.json"
BUCKETS = ("init", "compile", "data", "step", "eval", "save", "restore")


class Goodput:
    """Wall time by what it was spent on, `with goodput("data"): ...`.

    A bucket opened inside another takes its time away from the outer one, so the buckets
    never count a second twice. One thread only.

    `goodput.json` adds up all starts of a run, each from here to its last `write`: it lacks
    Python's imports, and what a killed start did after that.
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
        """Charge the time inside to `bucket`.

        Raises:
            ValueError: no such bucket.
        """
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
        """Seconds so far by bucket, all buckets present, the ones still open included."""
        self._charge()
        return dict(self._seconds)

    def resume(self, workdir: str | os.PathLike[str]) -> None:
        """Goes on from what earlier starts have written, if they have."""
        with contextlib.suppress(OSError, ValueError):
            earlier = json.loads((Path(workdir) / FILE).read_text())
            self._earlier = {name: float(value) for name, value in earlier.items()}

    def totals(self) -> dict[str, float]:
        """Seconds by bucket over all starts, `other` in no bucket, and the number of `starts`."""
        now = self.seconds
        now["other"] = self._clock() - self._began - sum(now.values())
        now["starts"] = 1
        return {name: value + self._earlier.get(name, 0) for name, value in now.items()}

    def write(self, workdir: str | os.PathLike[str]) -> None:
        """Write the totals."""
        reporting.write_json(Path(workdir) / FILE, self.totals())

    def in_words(self) -> str:
        """The totals as a line: the share of wall time in steps, and where the rest went."""
        seconds = self.totals()
        starts = seconds.pop("starts")
        wall = sum(seconds.values())
        step = seconds.pop("step")
        rest = sorted(seconds.items(), key=lambda item: -item[1])
        named = ", ".join(f"{name} {value / wall:.1%}" for name, value in rest if value > 0)
        line = f"{step / wall:.1%} of {wall:.0f} s went into training steps; {named}"
        if starts > 1:
            line += f"; {starts:.0f} starts, each up to its last save"
        return line

    def _charge(self) -> None:
        now = self._clock()
        if self._open:
            self._seconds[self._open[-1]] += now - self._charged_until
        self._charged_until = now
