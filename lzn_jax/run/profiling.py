"""Traces of a few updates by `jax.profiler`, for TensorBoard's profile plugin and Perfetto."""

import logging
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

import jax

FOLDER = "profile"
_log = logging.getLogger(__name__)


class Profile:
    """Context manager that traces the updates from A to B - 1 if `steps` is "A:B"."""

    def __init__(self, steps: str | None, workdir: Path) -> None:
        first, last = (0, 0) if steps is None else map(int, steps.split(":"))
        self._steps, self._folder, self._is_running = range(first, last), workdir / FOLDER, False

    def __enter__(self) -> "Profile":
        return self

    def __exit__(
        self, kind: type | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.before(self._steps.stop)

    def before(self, step: int, wait: Callable[[], None] = lambda: None) -> None:
        """Starts or stops the trace, if it is due before the update number `step`.

        `wait` returns when the update before it has ended.
        """
        if (step in self._steps) == self._is_running:
            return
        wait()
        self._is_running = not self._is_running
        if self._is_running:
            jax.profiler.start_trace(self._folder)
        else:
            jax.profiler.stop_trace()
            _log.info("trace of updates %s written to %s", self._steps, self._folder)
