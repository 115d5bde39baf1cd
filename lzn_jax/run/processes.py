"""Multi-process runs: start, synchronization, failure of any process, and the writer.

Every process runs the same program in the same order on its shard of the global arrays. Only
process 0 writes the files of a run. All processes write checkpoints.
"""

import contextlib
import logging
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from lzn_jax.errors import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_RUN_AGAIN, EXIT_USER_ERROR, UserError
from lzn_jax.files import is_writer
from lzn_jax.run import devices

DEAD_AFTER = 30  # seconds without a heartbeat, after which JAX ends the other processes

_log = logging.getLogger(__name__)


class Interrupted(BaseException):
    """A request to exit arrived while there was nothing to save."""


class Interruption:
    """Handlers of SIGINT and SIGTERM, active after `listen`. `in_call` handles only SIGINT.

    A signal ends the process at once. While `held`, it requests to save and exit instead. Ctrl-C
    then sends SIGTERM to this process, which JAX forwards to the other processes of a run. A second
    Ctrl-C ends the process at once.
    """

    def __init__(self) -> None:
        self.exit_code = EXIT_INTERRUPTED  # of a Ctrl-C at once; SIGTERM has EXIT_RUN_AGAIN
        self.is_asked = False  # to save and exit
        self._is_held = self._may_raise = False
        self._interrupts = 0
        self._ending = threading.Lock()

    def listen(self) -> None:
        """Installs the handlers of SIGINT and SIGTERM. Call it in the main thread."""
        # A Python handler waits until compiled code returns, and XLA's compiler can take a minute.
        # Therefore a thread reads the signal numbers from a pipe.
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._in_main_thread)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        threading.Thread(target=self._in_own_thread, args=(reader,), daemon=True).start()

    @contextlib.contextmanager
    def in_call(self) -> Iterator[None]:
        """Context of a call. Ctrl-C raises KeyboardInterrupt, or while `held` the second Ctrl-C."""
        handler = signal.getsignal(signal.SIGINT)
        is_main = threading.current_thread() is threading.main_thread()  # others get no signals
        install: Any = signal.signal if is_main and callable(handler) else lambda *_: None
        install(signal.SIGINT, self._of_call)
        try:
            yield
        finally:
            install(signal.SIGINT, handler)

    def _of_call(self, *_: object) -> None:
        if not self._is_held or self.is_asked:
            raise KeyboardInterrupt
        self._print("saving before KeyboardInterrupt; press Ctrl-C again to stop at once")
        self._in_main_thread(signal.SIGTERM, None)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Context with state to save, in which a signal only sets `is_asked`."""
        self._is_held = True
        try:
            yield
        finally:
            self._is_held = False

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """Context inside `held` without state to save. A request to exit raises Interrupted."""
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
                self._print("saving before exit; press Ctrl-C again to exit at once")
                os.kill(os.getpid(), signal.SIGTERM)

    def _end_now(self, number: int) -> NoReturn:
        # Not an exception, since compiled modules change the exit code while they are imported.
        self._ending.acquire()
        if number == signal.SIGTERM:
            os._exit(EXIT_RUN_AGAIN)
        self._print("interrupted")
        os._exit(EXIT_INTERRUPTED if self._is_held else self.exit_code)

    def _print(self, line: str) -> None:
        print(f"\n{line}" if sys.stderr.isatty() else line, file=sys.stderr, flush=True)


@contextlib.contextmanager
def together(
    coordinator: str | None = None, num_processes: int | None = None, process_id: int | None = None
) -> Iterator[None]:
    """Context of a multi-process run. A process that fails exits at once, and JAX ends the others.

    Without arguments, finds the other processes on TPU pods and under srun and mpirun. Does nothing
    for a single process. Raises UserError for inconsistent arguments.
    """
    if coordinator is num_processes is process_id is None:
        if not _is_cluster():
            yield
            return
    elif coordinator is None or num_processes is None or process_id is None:
        raise UserError("--coordinator, --num_processes and --process_id go together")
    elif not 0 <= process_id < num_processes:
        raise UserError(f"--process_id must be 0 to {num_processes - 1}, got {process_id}")
    jax.distributed.initialize(
        coordinator, num_processes, process_id, heartbeat_timeout_seconds=DEAD_AFTER
    )
    if not is_writer():
        logging.getLogger("lzn_jax").setLevel(logging.WARNING)
    try:
        # Connects all devices before compilation: the network of CPUs times out after 30 s.
        mesh = devices.inference_mesh()
        ones = devices.put_rows(np.ones(jax.local_device_count(), np.int32), mesh)
        total = jax.jit(jnp.sum, out_shardings=devices.replicated(mesh))(ones)
        _log.info("%d devices in %d processes", int(total), jax.process_count())
        yield
    except BaseException as error:
        _fail(error)
    jax.distributed.shutdown()


def _is_cluster() -> bool:
    """Whether JAX finds other processes in the environment of this machine."""
    tasks = [os.environ.get(name, "1") for name in ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")]
    # JAX queries the TPU's metadata for its hosts unless TPU_SKIP_MDS_QUERY is set: by JAX if there
    # is no TPU, by notebook hosts without a pod, and by GKE, which lists the hosts itself.
    hosts = os.environ.get("TPU_PROCESS_ADDRESSES", os.environ.get("TPU_WORKER_HOSTNAMES", ""))
    has_pod = "TPU_SKIP_MDS_QUERY" not in os.environ or "," in hosts
    on_tpu = find_spec("libtpu") is not None and os.environ.get("JAX_PLATFORMS") != "cpu"
    return tasks != ["1", "1"] or (on_tpu and has_pod)


def is_to_leave(interruption: Interruption, step: int) -> bool:
    """Whether to save and exit at this step, equal in all processes. Call it every step."""
    if not jax.distributed.is_initialized():
        return interruption.is_asked
    stop: bool = multihost_utils.reached_preemption_sync_point(step)  # after any SIGTERM
    return stop


def _fail(error: BaseException) -> NoReturn:
    """Prints the error and ends this process. JAX ends the others after `DEAD_AFTER`."""
    if isinstance(error, UserError):
        code, text = EXIT_USER_ERROR, f"error: {error}"
    else:
        code, text = EXIT_FAILED, traceback.format_exc().rstrip()
    print(text, file=sys.stderr, flush=True)
    # Python's own exit would wait for the others, which wait for this process in a collective.
    os._exit(code)
