"""Ctrl-C and SIGTERM: training saves before it exits, all other modes exit at once."""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from typing import NoReturn

from lzn_jax.configuration import EXIT_INTERRUPTED, EXIT_RUN_AGAIN


class Interrupted(BaseException):
    """A request to exit arrived while there was nothing to save."""


class Interruption:
    """Handlers of SIGINT and SIGTERM, active after `listen`.

    A signal ends the process at once. While `held`, it requests to save and exit instead: Ctrl-C
    sends SIGTERM to this process, which JAX forwards to the other processes of a run, and a second
    Ctrl-C ends the process at once.

    Attributes:
      exit_code: exit code of a Ctrl-C that ends the process at once; SIGTERM uses EXIT_RUN_AGAIN.
      is_asked: whether a signal has requested to save and exit.
    """

    def __init__(self) -> None:
        self.exit_code = EXIT_INTERRUPTED
        self.is_asked = False
        self._is_held = self._may_raise = False
        self._interrupts = 0
        self._ending = threading.Lock()

    def listen(self) -> None:
        """Installs the handlers of SIGINT and SIGTERM; call it in the main thread.

        A Python handler waits until compiled code returns, and XLA's compiler can take a minute. So
        a thread reads the signal numbers from a pipe.
        """
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._in_main_thread)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        threading.Thread(target=self._in_own_thread, args=(reader,), daemon=True).start()

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Context with state to save: a signal only sets `is_asked`."""
        self._is_held = True
        try:
            yield
        finally:
            self._is_held = False

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """Context inside `held` without state to save: a request to exit raises Interrupted."""
        self._may_raise = True
        try:
            if self.is_asked:
                raise Interrupted
            yield
        finally:
            self._may_raise = False

    def _in_main_thread(self, number: int, _: object) -> None:
        if not self._is_held:
            self._end_now(number)
        if number == signal.SIGTERM:
            self.is_asked = True
            if self._may_raise:
                raise Interrupted

    def _in_own_thread(self, reader: int) -> None:
        while True:
            (number,) = os.read(reader, 1)
            self._interrupts += number == signal.SIGINT
            if not self._is_held or self._interrupts > 1:
                self._end_now(number)
            if number == signal.SIGINT:
                _print("saving before exit; press Ctrl-C again to exit at once")
                os.kill(os.getpid(), signal.SIGTERM)

    def _end_now(self, number: int) -> NoReturn:
        # Not by an exception: compiled modules change the exit code while they are imported.
        self._ending.acquire()
        if number == signal.SIGTERM:
            os._exit(EXIT_RUN_AGAIN)
        _print("interrupted")
        os._exit(EXIT_INTERRUPTED if self._is_held else self.exit_code)


def _print(line: str) -> None:
    print(f"\n{line}" if sys.stderr.isatty() else line, file=sys.stderr, flush=True)
