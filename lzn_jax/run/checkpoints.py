"""Checkpoints through Orbax: what is saved, when it counts, and how it comes back.

A checkpoint has separate items, so that inference reads what it needs and nothing else: `params`,
`ema`, `optimizer`, `context` (context anchors, where a run has them) and `progress` (step and
data position, JSON). Everything else follows from seed and step.

What is read is verified by the checksums of its files in SHA256SUMS, which is there before the
checkpoint gets its name: one that has a name was whole once.
"""

import errno
import functools
import gc
import logging
import os
import re
import sys
import threading
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import orbax.checkpoint as ocp

from lzn_jax.configuration import UserError
from lzn_jax.run import checksums, processes
from lzn_jax.run.checksums import DamagedError

ITEMS = ("params", "ema", "optimizer", "context", "progress")
FILE_SIZE = 1 << 26  # bytes; a file is held in memory until it is full, by default 2 GB of it
SLOW_SAVE_SECONDS = 300.0  # Orbax itself gives a save up after 20 minutes

_log = logging.getLogger(__name__)
_T = TypeVar("_T")


class Checkpoints:
    """The folder `checkpoints/` of a run; a context manager that waits for the pending save.

    With `keep` None it is for reading alone, and changes nothing.
    """

    def __init__(self, workdir: str | Path, keep: int | None = None) -> None:
        _leave_out_what_orbax_says()  # what goes wrong is reported here
        self._folder = (Path(workdir) / "checkpoints").absolute()
        self._saving: int | None = None  # step of the save that may be under way
        self._has_failed = False
        self._watchdog = threading.Timer(0, lambda: None)
        self._manager = ocp.CheckpointManager(
            self._folder,
            item_names=ITEMS,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=ocp.checkpoint_managers.LatestN(keep),
                read_only=keep is None,
                cleanup_tmp_directories=keep is not None,
                async_options=ocp.AsyncOptions(
                    # Called when all files are there, before the folder is renamed.
                    post_finalization_callback=self._write_file_checksums,
                    # A folder that cannot be written is found at once.
                    create_directories_asynchronously=False,
                ),
            ),
        )
        self._place = _place(self._folder)

    def save(self, step: int, items: Mapping[str, Any], progress: Mapping[str, int]) -> None:
        """Starts to write the array trees `items` and `progress`; returns once they are copied.

        `progress` has the step, which tells a renamed checkpoint from one of that name.
        Raises UserError where the folder cannot be written: here, in the next call of `save` or
        `check`, or at the end. The checkpoints that are there stay.
        """
        self.wait()
        args = {name: _save_args(tree) for name, tree in items.items()}
        args["progress"] = ocp.args.JsonSave(dict(progress))
        self._saving = step
        self._watchdog = threading.Timer(SLOW_SAVE_SECONDS, _report_slow, [step, self._folder])
        self._watchdog.daemon = True
        if processes.is_writer():  # which waits for what the others write
            self._watchdog.start()
        try:
            if not self._folder.is_dir():  # Orbax would make it, on whatever disk is there now
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
            self._manager.save(step, args=ocp.args.Composite(**args), force=True)
        except Exception as error:
            self._fail(error)

    def check(self) -> None:
        """Raises UserError if the last save has failed meanwhile; cheap enough for every step."""
        if self._saving is not None and not self._manager.is_saving_in_progress():
            self.wait()

    def wait(self) -> None:
        """Waits until nothing is being saved; raises UserError if the last save failed, once."""
        if self._has_failed:
            return
        try:
            self._manager.wait_until_finished()
            if self._saving is not None and processes.is_writer():
                self._write_last_file_checksums()
        except Exception as error:
            self._fail(error)
        self._watchdog.cancel()
        self._saving = None

    def restore(
        self, targets: Mapping[str, Any], step: int | None = None
    ) -> tuple[int, dict[str, Any]] | None:
        """The newest good checkpoint, or that of `step`: its step, and its items like `targets`,
        all verified.

        Targets are trees of `jax.ShapeDtypeStruct` with a sharding; `progress` always comes along.
        A damaged checkpoint is reported and passed over. None if there are no checkpoints;
        UserError if none of them, or the one of `step`, is good.
        """
        steps = sorted(self._manager.all_steps(), reverse=True) if step is None else [step]
        for candidate in steps:
            try:
                return candidate, self._read(candidate, targets)
            except Exception as error:
                _log.warning("checkpoint %d is passed over: %s", candidate, _one_line(error))
        if step is not None:
            raise UserError(f"checkpoint {step} in {self._folder} is damaged: name another one")
        if steps:
            raise UserError(
                f"no checkpoint in {self._folder} can be read: put a good one there, or move the "
                "folder away to start again"
            )
        return None

    def set_aside_after(self, step: int) -> None:
        """Renames checkpoints newer than `step`, which are damaged, to make way for new ones."""
        for damaged in [s for s in self._manager.all_steps() if s > step]:
            aside = self._folder / f"{damaged}.damaged"
            _log.info("checkpoint %d is kept as %s", damaged, aside)
            if processes.is_writer():
                while aside.exists():
                    aside = aside.with_name(f"{aside.name}.damaged")
                (self._folder / str(damaged)).rename(aside)
        processes.everywhere(True)  # the one that renames has done so
        self._manager.reload()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        try:
            self.wait()
        except UserError as failure:
            if error is None:
                raise
            _log.error("%s", failure)
        finally:
            self._close()

    def _close(self) -> None:
        try:
            self._manager.close()
        except Exception:
            if not self._has_failed:  # Orbax raises an error for every item: one has been raised
                raise
        if self._has_failed:
            gc.collect()  # what is left of the writes would complain as Python shuts down

    def _read(self, step: int, targets: Mapping[str, Any]) -> dict[str, Any]:
        args = {name: _restore_args(tree) for name, tree in targets.items()}
        args["progress"] = ocp.args.JsonRestore()
        is_verified = _together(functools.partial(self._verify_files, step, args))
        restored = _together(lambda: self._manager.restore(step, args=ocp.args.Composite(**args)))
        items = {name: restored[name] for name in args}
        items["progress"].pop("checksums", None)  # of arrays, in earlier versions
        if items["progress"]["step"] != step:
            raise DamagedError(f"it is that of step {items['progress']['step']}")
        if not is_verified:
            _log.warning("checkpoint %d has no %s: it is not verified", step, checksums.FILE)
        return items

    def _verify_files(self, step: int, items: Mapping[str, Any]) -> bool:
        """False if there are no checksums."""
        folder = self._folder / str(step)
        if not processes.is_writer():
            return True
        for name in items:
            if not (folder / name).is_dir():
                raise DamagedError(f"it has no {name}")
        return checksums.verify_files(folder, items)

    def _write_file_checksums(self) -> None:
        final = self._folder / str(self._saving)
        folder = next(self._folder.glob(f"{final.name}.*tmp*"), final)
        checksums.add_files(folder, [name for name in checksums.files_below(folder) if "/" in name])
        self._watchdog.cancel()  # `wait` may come much later, after an evaluation

    def _write_last_file_checksums(self) -> None:
        """Of Orbax's own notes, which change until the end and are of no use to `restore`."""
        folder = self._folder / str(self._saving)
        notes = [path.name for path in folder.iterdir() if path.is_file()]
        checksums.add_files(folder, [name for name in notes if name != checksums.FILE])

    def _fail(self, error: Exception) -> None:
        """Raises what a failed save is to the user; a fault of ours stays what it is."""
        step, self._saving = self._saving, None
        self._has_failed = True
        self._watchdog.cancel()
        failed = f"checkpoint {step} could not be written to {self._folder}"
        reason = _reason_of_system(error)
        if self._place not in (None, _place(self._folder)):
            # It has gone, and writes that were under way may have made another.
            reason = os.strerror(errno.ENOENT)
        if reason is None:
            _log.error("%s: %s", failed, _one_line(error))
            raise error
        raise UserError(
            f"{failed} ({reason}): the ones before it are kept; make it writable, with room, and "
            "run the same command to go on"
        ) from error


def _save_args(tree: Any) -> Any:
    return ocp.args.PyTreeSave(tree, ocdbt_target_data_file_size=FILE_SIZE)


def _restore_args(targets: Any) -> Any:
    restore_args = ocp.checkpoint_utils.construct_restore_args(targets)
    return ocp.args.PyTreeRestore(targets, restore_args=restore_args)


def _together(action: Callable[[], _T]) -> _T:
    """Does it in every process, and raises in all where it raises in one."""
    results, problem = [], None
    try:
        results.append(action())
    except Exception as error:
        problem = error
    if processes.anywhere(problem is not None) and problem is None:
        problem = DamagedError("another process cannot read it")
    if problem is not None:
        raise problem
    return results[0]


def _reason_of_system(error: Exception) -> str | None:
    """What the operating system had to say, directly or through Orbax's C++; None if nothing."""
    if isinstance(error, OSError):
        return error.strerror or str(error)
    code = re.search(r"os_error_code='(\d+)'", str(error))
    return os.strerror(int(code[1])) if code else None


def _place(folder: Path) -> tuple[int, int] | None:
    """Tells one folder from another of the same name; None where there is none."""
    try:
        found = folder.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _one_line(error: Exception) -> str:
    line = next(iter(str(error).splitlines()), "")[:300]
    return line if isinstance(error, DamagedError) else f"{type(error).__name__}: {line}"


def _report_slow(step: int, folder: Path) -> None:
    _log.warning(
        "checkpoint %d is being written for more than %d s: is %s slow or stuck?",
        step,
        SLOW_SAVE_SECONDS,
        folder,
    )


@functools.cache  # once
def _leave_out_what_orbax_says() -> None:
    for name in ("absl", "asyncio"):
        logging.getLogger(name).addFilter(_is_not_orbax)
    # When a write fails, Orbax (0.12.8) closes the event loop that the others still report to: some
    # 200 tracebacks on a full disk. No issue of Orbax or TensorStore that we found says so. What
    # follows goes once test_many_arrays_that_cannot_be_written_are_one_line passes without it.
    warnings.filterwarnings("ignore", "coroutine 'async_serialize", RuntimeWarning)
    sys.unraisablehook = functools.partial(_report_unraisable, sys.unraisablehook)


def _is_not_orbax(record: logging.LogRecord) -> bool:
    # asyncio says of a write that failed in which file its task was defined.
    return "orbax" not in f"{record.pathname} {record.getMessage()}"


def _report_unraisable(report: Callable[[Any], None], unraisable: Any) -> None:
    # Writes that end after the first one that failed find nobody who listens.
    is_left_over = "async_serialize" in repr(unraisable.object)
    if not is_left_over and str(unraisable.exc_value) != "Event loop is closed":
        report(unraisable)
