"""The folder of a run: checked before the first step, so that nothing of an earlier run is lost."""

import contextlib
import errno
import fcntl
import json
import logging
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import jax
from ml_collections import ConfigDict

from lzn_jax import configuration
from lzn_jax.configuration import CONFIG_FILE, TOKENIZER_FILE, UserError
from lzn_jax.run import processes, reporting

VERSION_FILE = "version.json"
LOCK_FILE = ".lock"
# A host that died keeps its lock on a network's file system for so long: NFS's lease, and a little.
LOCK_SECONDS = 100.0
# Full, read-only, broken and lost disks; of other errors the file's name says whose they are.
_DISK_ERRORS = ("ENOSPC", "EDQUOT", "EFBIG", "EROFS", "EIO", "ESTALE")
# What may differ from the run that a folder holds: where its data lie, how long, how often, how
# many at a time or in all, how to sample, where it is shown.
FREE_FIELDS = (
    "data.path",
    "data.tokenizer_path",  # what is in the file may not
    "data.workers",
    "data.skip_unreadable",
    "data.test_set",
    "training.devices",
    "training.microbatch_size",
    "training.remat",
    "training.shard_parameters",
    "training.num_steps",
    "training.log_every_steps",
    "checkpoint.",
    "evaluation.",
    "sampling.",
    "reporting.",
)
# What may also differ where nothing is trained: how the flows are solved, with which code.
_SOLVED_ANEW = (
    "extension_checksums",
    "latent.solver",
    "latent.num_steps",
    "alignment.solver",
    "alignment.num_steps",
)

_log = logging.getLogger(__name__)


def prepare(config: ConfigDict, workdir: Path, *, is_training: bool) -> None:
    """Makes the folder ready for a run of `config`, and changes nothing of what it holds.

    Raises UserError where the folder cannot be written, holds a run of another config, or, unless
    training, holds no checkpoint.
    """
    if not is_training and not has_checkpoint(workdir):
        raise UserError(
            f"there is no checkpoint in {workdir / 'checkpoints'}: train first (--mode=train) or "
            "name the folder of a run with --workdir"
        )
    if _holds_run(workdir):
        check_same_run(config, workdir, () if is_training else _SOLVED_ANEW)
    try:
        (workdir / "figures").mkdir(parents=True, exist_ok=True)
        reporting.write_bytes(workdir / ".writable", b"")
        (workdir / ".writable").unlink(missing_ok=True)
    except OSError as error:
        reason = error.strerror or error
        raise UserError(
            f"the work folder {workdir} cannot be written ({reason}): choose one with --workdir"
        ) from error


def record(config: ConfigDict, workdir: Path) -> None:
    """Writes what a run is: config.json, by which code, version.json, and its tokenizer's file.

    For when nothing of the config has turned out to be wrong. Raises UserError for a folder that is
    not shared by all processes.
    """
    reporting.write_json(workdir / CONFIG_FILE, configuration.to_json_dict(config))
    reporting.write_json(workdir / VERSION_FILE, code_version())
    if (tokenizer := _content(config.data.get("tokenizer_path"))) is not None:
        reporting.write_bytes(workdir / TOKENIZER_FILE, tokenizer)
    processes.everywhere(True)  # the one that writes has written
    if not (workdir / CONFIG_FILE).is_file():
        raise UserError(
            f"the work folder {workdir} is not the same folder in all processes: choose one that "
            "all see with --workdir"
        )


@contextlib.contextmanager
def locked(workdir: Path) -> Iterator[None]:
    """Inside, this process is the only one, or the writer of the only ones, that trains there.

    Raises UserError while another does.
    """
    if not processes.is_writer():
        yield
        return
    # A lock of the process, not of the file's handle, which workers would inherit.
    with open(workdir / LOCK_FILE, "w") as file:
        deadline = None
        while not _try_lock(file):
            if deadline is None:
                deadline = time.monotonic() + LOCK_SECONDS
                _log.info("another process trains in %s: waiting for its end", workdir)
            if time.monotonic() > deadline:
                raise UserError(
                    f"another process trains in {workdir}: wait for its end or choose another "
                    "--workdir"
                )
            time.sleep(1)
        yield


def _try_lock(file: TextIO) -> bool:
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError as error:
        _log.warning("whether another process trains here cannot be known: %s", error.strerror)
    return True


@contextlib.contextmanager
def guarded(workdir: Path) -> Iterator[None]:
    """Inside, a disk that is full, read-only, broken or gone is a UserError, of one line."""
    try:
        yield
    except OSError as error:
        if errno.errorcode.get(error.errno or 0) not in _DISK_ERRORS and not _is_within(
            error.filename, workdir
        ):
            raise
        raise UserError(
            f"the work folder {workdir} can no longer be written ({error.strerror or error}): "
            "what was saved is kept; make it writable, with room, and run the same command to go on"
        ) from error


def check_there(workdir: Path) -> None:
    """Raises FileNotFoundError for a folder that has gone, before something makes a new one."""
    if not workdir.is_dir():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(workdir))


def _is_within(path: object, folder: Path) -> bool:
    return isinstance(path, str | Path) and Path(path).absolute().is_relative_to(folder.absolute())


def code_version() -> dict[str, str | None]:
    """The commit of this code, from LZN_COMMIT or git, None where nobody knows, and JAX's version.

    `-dirty` after a commit says that files were changed since.
    """
    commit = os.environ.get("LZN_COMMIT")
    if commit is None:
        with contextlib.suppress(OSError, subprocess.CalledProcessError):
            _git("ls-files", "--error-unmatch", __file__)  # else the repository is another's
            commit = _git("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
    return {"commit": commit, "jax": jax.__version__}


def _git(*arguments: str) -> str:
    command, folder = ["git", *arguments], Path(__file__).parent
    found = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    return found.stdout.strip()


def has_checkpoint(workdir: Path) -> bool:
    """Whether the folder holds a finished checkpoint."""
    folder = workdir / "checkpoints"
    return folder.is_dir() and any(child.name.isdigit() for child in folder.iterdir())


def _content(path: str | Path | None) -> bytes | None:
    """What is in a file, None where there is none."""
    return Path(path).read_bytes() if path is not None and Path(path).is_file() else None


def _holds_run(workdir: Path) -> bool:
    """Whether a run has left more than its config there."""
    metrics = workdir / reporting.METRICS_FILE
    return has_checkpoint(workdir) or (metrics.is_file() and metrics.stat().st_size > 0)


def check_same_run(config: ConfigDict, workdir: Path, free: tuple[str, ...] = ()) -> None:
    """Raises UserError where the folder holds a run of another config, these fields aside."""
    path = workdir / CONFIG_FILE
    if not path.is_file():
        return
    stored = configuration.stored_values(path)
    asked = configuration.flatten(configuration.to_json_dict(config))
    stored = configuration.with_defaults(stored, configuration.schema_of(asked))
    stored = json.loads(json.dumps(stored))  # defaults in JSON's types too
    names = stored.keys() | asked.keys()
    for name in sorted(names, key=lambda name: (name != "data.name", name)):  # which others follow
        if name.startswith((*FREE_FIELDS, *free)) or stored.get(name) == asked.get(name):
            continue
        if name == "extension_checksums":
            raise UserError(
                f"{workdir} holds a run of other extensions: those of sha256 "
                f"{', '.join(each[:12] for each in stored[name])}; take these or another --workdir"
            )
        raise UserError(
            f"{workdir} holds a run with {name}={stored.get(name)}, this command says "
            f"{asked.get(name)}: say --config.{name}={stored.get(name)} or choose another --workdir"
        )
    own, asked_path = workdir / TOKENIZER_FILE, asked.get("data.tokenizer_path")
    kept = own if stored.get("data.tokenizer_path") is not None else None
    if _content(asked_path) != _content(kept):
        raise UserError(
            f"{workdir} holds a run with the tokenizer {kept}, of which "
            f"data.tokenizer_path={asked_path} is no copy (any more): say "
            f"--config.data.tokenizer_path={kept} or choose another --workdir"
        )
