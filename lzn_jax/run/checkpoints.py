"""Checkpoints: asynchronous saving with Orbax, verification and restoring.

A checkpoint consists of separate items, so that inference reads only what it needs: `params`,
`ema`, `optimizer`, `context` (context anchors, if any) and `progress` (JSON with step and data
position). Everything else follows from seed and step.

`restore` verifies the files of items against SHA256SUMS. That list is written before the checkpoint
gets its final name, so every named checkpoint was complete once.
"""

import contextlib
import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import orbax.checkpoint as ocp

from lzn_jax import files
from lzn_jax.errors import UserError
from lzn_jax.files import DamagedError
from lzn_jax.models import Tree
from lzn_jax.run import devices

ITEMS = ("params", "ema", "optimizer", "context", "progress")
FILE_SIZE = 1 << 26  # bytes; Orbax buffers a file until it is full, and its default is 2 GB

_log = logging.getLogger(__name__)
# Orbax warns of every folder that is only read.
logging.getLogger("absl").addFilter(lambda record: "orbax" not in record.pathname)
_T = TypeVar("_T")


class Checkpoints:
    """The folder `checkpoints/` of a run. As a context manager, waits for the pending save.

    Keeps the newest `keep` checkpoints. If `keep` is None, the folder is read-only.
    """

    def __init__(self, workdir: str | Path, keep: int | None = None) -> None:
        self._folder = (Path(workdir) / "checkpoints").absolute()
        self._saving: int | None = None  # step of the save in progress
        self._manager = ocp.CheckpointManager(
            self._folder,
            item_names=ITEMS,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=ocp.checkpoint_managers.LatestN(keep),
                read_only=keep is None,
                cleanup_tmp_directories=keep is not None,
                async_options=ocp.AsyncOptions(
                    # Called after all files are written, before the folder is renamed.
                    post_finalization_callback=self._write_file_checksums,
                    # A folder that is not writable raises in `save`.
                    create_directories_asynchronously=False,
                ),
            ),
        )

    def save(self, step: int, items: Mapping[str, Tree], progress: Mapping[str, int]) -> None:
        """Starts writing the array trees `items` and `progress`. Returns once they are copied.

        `progress` includes the step, by which `restore` detects a renamed checkpoint.
        Raises UserError if the folder cannot be written: here, in the next call of `save` or
        `check`, or on exit. Earlier checkpoints are kept.
        """
        self.wait()
        args: dict[str, Any] = {
            name: ocp.args.PyTreeSave(tree, ocdbt_target_data_file_size=FILE_SIZE)
            for name, tree in items.items()
        }
        args["progress"] = ocp.args.JsonSave(dict(progress))
        self._saving = step
        with self._explained():
            self._folder.stat()  # raises if it is gone; Orbax would create it on any disk
            self._manager.save(step, args=ocp.args.Composite(**args), force=True)

    def check(self) -> None:
        """Raises UserError if the last save has failed. Cheap enough for every step."""
        if not self._manager.is_saving_in_progress():
            self.wait()

    def wait(self) -> None:
        """Waits for the pending save. Raises UserError, once, if it failed."""
        if self._saving is not None:
            with self._explained():
                self._manager.wait_until_finished()
            self._saving = None

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Context in which a write that the operating system refuses raises UserError."""
        try:
            yield
        except Exception as error:
            step, self._saving = self._saving, None
            code = re.search(r"os_error_code='(\d+)'", str(error))  # of Orbax's C++
            number = error.errno if isinstance(error, OSError) else code and int(code[1])
            if number is None:
                raise
            raise UserError(
                f"checkpoint {step} could not be written to {self._folder} ({os.strerror(number)}):"
                " earlier ones are kept; make the folder writable or free space, then run the same "
                "command to resume"
            ) from error

    def restore(
        self, targets: Mapping[str, Tree], step: int | None = None
    ) -> tuple[int, dict[str, Tree]] | None:
        """Step and verified items of the newest intact checkpoint, or of the one at `step`.

        `targets` maps item names to trees of `jax.ShapeDtypeStruct` with a sharding. `progress` is
        always included. Damaged checkpoints are skipped with a warning. Returns None if there are
        no checkpoints. Raises UserError if all checkpoints, or the checkpoint at `step`, are
        damaged.
        """
        steps = sorted(self._manager.all_steps(), reverse=True) if step is None else [step]
        for candidate in steps:
            try:
                return candidate, self._read(candidate, targets)
            except Exception as error:
                _log.warning("checkpoint %d is skipped: %s", candidate, _one_line(error))
        if step is not None:
            raise UserError(f"checkpoint {step} in {self._folder} is damaged: choose another one")
        if steps:
            raise UserError(
                f"no checkpoint in {self._folder} can be read: copy an intact one there, or move "
                "the folder away to start over"
            )
        return None

    def set_aside_after(self, step: int) -> None:
        """Renames the damaged checkpoints newer than `step`, so that training can save new ones."""
        for damaged in [s for s in self._manager.all_steps() if s > step]:
            aside = self._folder / f"{damaged}.damaged"
            _log.info("damaged checkpoint %d is kept as %s", damaged, aside)
            if files.is_writer():
                while aside.exists():
                    aside = aside.with_name(f"{aside.name}.damaged")
                (self._folder / str(damaged)).rename(aside)
        devices.everywhere(True)  # waits for the renaming process
        self._manager.reload()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        try:
            self.wait()
            self._manager.close()
        except Exception as failure:
            if error is None:
                raise
            _log.error("%s", _one_line(failure))

    def _read(self, step: int, targets: Mapping[str, Tree]) -> dict[str, Tree]:
        placed = ocp.checkpoint_utils.construct_restore_args
        args: dict[str, Any] = {
            name: ocp.args.PyTreeRestore(tree, restore_args=placed(tree))
            for name, tree in targets.items()
        }
        args["progress"] = ocp.args.JsonRestore()
        _in_every_process(lambda: self._verify_files(step, args))
        restored = _in_every_process(
            lambda: self._manager.restore(step, args=ocp.args.Composite(**args))
        )
        items = {name: restored[name] for name in args}
        if items["progress"]["step"] != step:
            raise DamagedError(f"it belongs to step {items['progress']['step']}")
        return items

    def _verify_files(self, step: int, items: Mapping[str, Tree]) -> None:
        folder = self._folder / str(step)
        if not files.is_writer():
            return
        for name in items:
            if not (folder / name).is_dir():
                raise DamagedError(f"item {name} is missing")
        below = {*files.listed(folder), *files.files_below(folder)}
        files.verify(folder, sorted(name for name in below if name.partition("/")[0] in items))

    def _write_file_checksums(self) -> None:
        final = self._folder / str(self._saving)
        folder = next(self._folder.glob(f"{final.name}.*tmp*"), final)
        files.add_files(folder, [name for name in files.files_below(folder) if "/" in name])


def _in_every_process(action: Callable[[], _T]) -> _T:
    """Result of `action`. Raises in every process if `action` raises in any process."""
    results, problem = [], None
    try:
        results.append(action())
    except Exception as error:
        problem = error
    if devices.anywhere(problem is not None):
        raise problem or DamagedError("another process cannot read it")
    return results[0]


def _one_line(error: Exception) -> str:
    line = next(iter(str(error).splitlines()), "")[:300]
    return line if isinstance(error, DamagedError) else f"{type(error).__name__}: {line}"
