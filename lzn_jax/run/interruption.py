"""Ctrl-C and SIGTERM: training saves first, everything else ends at once."""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from typing import NoReturn

from lzn_jax.configuration import EXIT_INTERRUPTED, EXIT_RUN_AGAIN


class Interrupted(BaseException):
    """A signal where the process may leave at once."""


class Interruption:
    """What the signals of a command do, once it listens to them.

    Each ends the process at once. While `held`, they ask to save and leave: Ctrl-C is a SIGTERM to
    oneself, which JAX hands on to the other processes of a run, and a second Ctrl-C ends at once.

    Attributes:
      exit_code: that of a Ctrl-C which ends at once; a SIGTERM's is that of `run again`.
    """

    def __init__(self) -> None:
        self.exit_code = EXIT_INTERRUPTED
        self.is_asked = False
        self._is_held = self._may_raise = False
        self._interrupts = 0
        self._ending = threading.Lock()

    def listen(self) -> None:
        """Takes over SIGINT and SIGTERM of the process; in its main thread.

        A handler of Python waits until compiled code returns, such as XLA's compiler, which takes a
        minute. So a thread reads the signals' numbers from a pipe.
        """
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._in_main_thread)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        threading.Thread(target=self._in_own_thread, args=(reader,), daemon=True).start()

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Inside, there is something to save: signals wait for the program to ask."""
        self._is_held = True
        try:
            yield
        finally:
            self._is_held = False

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """Inside, nothing is left to save: what asks to leave raises Interrupted."""
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
                _say("saving, then leaving; Ctrl-C again leaves at once")
                os.kill(os.getpid(), signal.SIGTERM)

    def _end_now(self, number: int) -> NoReturn:
        # No exception: compiled modules that are being imported turn it into other exit codes.
        self._ending.acquire()
        if number == signal.SIGTERM:
            os._exit(EXIT_RUN_AGAIN)
        _say("interrupted")
        os._exit(EXIT_INTERRUPTED if self._is_held else self.exit_code)


def _say(line: str) -> None:
    print(f"\n{line}" if sys.stderr.isatty() else line, file=sys.stderr, flush=True)
