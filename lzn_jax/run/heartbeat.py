"""Periodic status lines of several processes, and stack traces of a step that hangs."""

import contextlib
import faulthandler
import logging
import socket
import threading
import time
from collections.abc import Iterator

import jax

_log = logging.getLogger(__name__)


class Heartbeat:
    """Watches a training loop from a separate thread, without cost to the loop.

    With several processes, each logs its step every `interval` seconds. If a step takes longer than
    `stalled_after` seconds, the stacks of all threads are written to stderr, once per step. The
    process that is not waiting in a collective causes the hang.
    """

    def __init__(self, step: int, *, interval: float = 60.0, stalled_after: float = 600.0) -> None:
        self._step = step
        self._interval, self._stalled_after = interval, stalled_after
        self._step_began: float | None = None
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    @contextlib.contextmanager
    def watch(self, step: int) -> Iterator[None]:
        """Context in which the update after `step` runs."""
        self._step, self._step_began = step, time.monotonic()
        try:
            yield
        finally:
            self._step_began = None

    def __enter__(self) -> "Heartbeat":
        _log.setLevel(logging.INFO)  # in all processes; other loggers write in one
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._done.set()
        self._thread.join()

    def _run(self) -> None:
        logged = time.monotonic()
        dumped = None
        while not self._done.wait(min(self._interval, self._stalled_after) / 4):
            now, step, began = time.monotonic(), self._step, self._step_began
            if now - logged >= self._interval and jax.process_count() > 1:
                logged = now
                _log.info("%s: step %d", _name(), step)
            if began is not None and now - began >= self._stalled_after and dumped != step:
                dumped = step
                _log.error(
                    "%s: the step after %d has not ended in %.0f s", _name(), step, now - began
                )
                faulthandler.dump_traceback(all_threads=True)


def _name() -> str:
    index, count = jax.process_index(), jax.process_count()
    return f"process {index} of {count} on {socket.gethostname()}"
