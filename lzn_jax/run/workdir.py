"""The work folder of a run, checked before the first step to protect earlier runs."""

import contextlib
import errno
import fcntl
import functools
import json
import logging
import os
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import jax
from ml_collections import ConfigDict

from lzn_jax import configuration, schema
from lzn_jax.configuration import CONFIG_FILE, TOKENIZER_FILE
from lzn_jax.errors import UserError
from lzn_jax.files import is_writer, write_bytes, write_json
from lzn_jax.run import devices, log

VERSION_FILE = "version.json"
LOCK_FILE = ".lock"
# On NFS, the lock of a dead host lasts for its lease, by default 90 s.
LOCK_SECONDS = 100.0
# Errors of full, read-only, broken and lost disks. Other errors count if their file is in the work
# folder.
_DISK_ERRORS = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG),
    *(errno.EROFS, errno.EIO, errno.ESTALE),
)
# Fields that may differ from the run in the folder.
FREE_FIELDS = (
    "data.tokenizer_path",  # the content of the file may not
    *("data.path", "data.workers", "data.skip_unreadable"),
    *("data.invert_input", "data.crop_to_ink"),
    *("training.devices", "training.microbatch_size", "training.remat"),
    *("training.shard_parameters", "training.num_steps", "training.log_every_steps"),
    *("checkpoint.", "evaluation.", "sampling.", "reporting."),
)
# Fields that may also differ without training: solvers of the flows and code of extensions.
_FREE_AT_INFERENCE = (
    "extension_checksums",
    *("latent.solver", "latent.num_steps", "alignment.solver", "alignment.num_steps"),
)

_log = logging.getLogger(__name__)


def default(config: str | Path) -> Path:
    """Folder for the runs of a config's name or file: results/NAME, also for NAME/config.py."""
    path = Path(config).absolute()
    return Path("results") / (path.parent.name if path.name == "config.py" else path.stem)


def prepare(
    config: ConfigDict, workdir: Path, *, is_training: bool, shared: Path | None = None
) -> None:
    """Creates the folder for a run of `config`. Existing files stay unchanged.

    A mode may use a model in the folder `shared` in place of a run. Raises UserError if the work
    folder is not writable, if it or `shared` contains a run of a different config and, if a mode
    has no model, for a missing checkpoint.
    """
    if shared is not None:
        check_same_run(config, shared, _FREE_AT_INFERENCE)
    elif not is_training and not has_checkpoint(workdir):
        raise UserError(
            f"there is no checkpoint in {workdir / 'checkpoints'}: train first (--mode=train) or "
            "choose the folder of a run with --workdir"
        )
    metrics = workdir / log.METRICS_FILE
    if has_checkpoint(workdir) or (metrics.is_file() and metrics.stat().st_size > 0):
        check_same_run(config, workdir, () if is_training else _FREE_AT_INFERENCE)
    with guarded(workdir):
        (workdir / "figures").mkdir(parents=True, exist_ok=True)
        write_bytes(workdir / ".writable", b"")
        (workdir / ".writable").unlink(missing_ok=True)


def record(config: ConfigDict, workdir: Path) -> None:
    """Writes config.json, version.json (versions of the code) and the tokenizer's file, if any.

    Raises UserError if the processes do not share the folder.
    """
    write_json(workdir / CONFIG_FILE, configuration.to_json_dict(config))
    write_json(workdir / VERSION_FILE, code_version())
    if tokenizer := _content(config.data.get("tokenizer_path")):
        write_bytes(workdir / TOKENIZER_FILE, tokenizer)
    devices.everywhere(True)  # waits for the writer
    if not (workdir / CONFIG_FILE).is_file():
        raise UserError(
            f"the work folder {workdir} is not the same folder in all processes: choose a shared "
            "one with --workdir"
        )


@contextlib.contextmanager
def locked(workdir: Path) -> Iterator[None]:
    """Context in which no other run can train in the folder. Raises UserError if one does."""
    if not is_writer():
        yield
        return
    # lockf locks only for this process. Data workers would inherit a lock of the file handle.
    with open(workdir / LOCK_FILE, "w") as file:
        deadline = time.monotonic() + LOCK_SECONDS
        while True:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except (BlockingIOError, PermissionError) as error:
                busy = f"another process trains in {workdir}: wait for it to end"
                if time.monotonic() > deadline:
                    raise UserError(f"{busy} or choose another --workdir") from error
                _log.info("%s", busy)
                time.sleep(10)
            except OSError as error:
                _log.warning("cannot check whether another process trains here: %s", error.strerror)
                break
        yield


@contextlib.contextmanager
def guarded(workdir: Path) -> Iterator[None]:
    """Context in which a full, read-only, broken or lost disk raises UserError."""
    try:
        yield
    except OSError as error:
        is_ours = error.errno in _DISK_ERRORS
        if isinstance(error.filename, str | Path):
            path, folder = Path(error.filename).absolute(), workdir.absolute()
            is_ours |= path.is_relative_to(folder) or folder.is_relative_to(path)
        if not is_ours or error.errno == errno.ENAMETOOLONG:  # reported by the command
            raise
        raise UserError(
            f"the work folder {workdir} cannot be written ({error.strerror or error}): saved files "
            "are kept; make it writable or free space and run the same command again, or choose "
            "another --workdir"
        ) from error


def code_version() -> dict[str, str | None]:
    """Commit of this code, from LZN_COMMIT or git (None if unknown), and version of JAX.

    The suffix `-dirty` marks uncommitted changes.
    """
    commit = os.environ.get("LZN_COMMIT")
    owns = ["git", "ls-files", "--error-unmatch", __file__]  # fails in a repository of other code
    describe = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    run = functools.partial(
        subprocess.check_output, cwd=Path(__file__).parent, stderr=subprocess.PIPE, text=True
    )
    if commit is None:
        with contextlib.suppress(OSError, subprocess.CalledProcessError):
            commit = run(owns) and run(describe).strip()
    return {"commit": commit, "jax": jax.__version__}


def has_checkpoint(workdir: Path) -> bool:
    """Whether the folder contains a finished checkpoint."""
    folder = workdir / "checkpoints"
    return folder.is_dir() and any(child.name.isdigit() for child in folder.iterdir())


def _content(path: str | Path | None) -> bytes | None:
    return Path(path).read_bytes() if path is not None and Path(path).is_file() else None


def check_same_run(config: ConfigDict, workdir: Path, free: tuple[str, ...] = ()) -> None:
    """Raises UserError if the folder contains a run of another config, except for `free` fields."""
    path = workdir / CONFIG_FILE
    if not path.is_file():
        return
    stored = configuration.stored_values(path)
    given = configuration.flatten(configuration.to_json_dict(config))
    stored = schema.with_defaults(stored, schema.schema_of(given))
    stored = json.loads(json.dumps(stored))  # gives the defaults JSON's types
    names = stored.keys() | given.keys()
    # data.name first, as the defaults of other fields depend on it.
    for name in sorted(names, key=lambda name: (name != "data.name", name)):
        is_gone = bool(free) and name not in given  # from a changed extension
        whole = re.sub(r"^alignment\..*\.", "alignment.", name)  # the field of all pairs
        is_free = whole.startswith((*FREE_FIELDS, *free))
        if is_gone or is_free or stored.get(name) == given.get(name):
            continue
        if name.startswith("extension"):
            files = zip(stored["extensions"], stored["extension_checksums"], strict=True)
            used = ", ".join(f"{file} of sha256 {digest[:12]}" for file, digest in files) or "none"
            raise UserError(
                f"{workdir} holds a run of other extensions, {used}: use these or choose another "
                "--workdir"
            )
        raise UserError(
            f"{workdir} holds a run with {name}={stored.get(name)}, this command has "
            f"{given.get(name)}: use --config.{name}={stored.get(name)} or choose another --workdir"
        )
    tokenizer = given.get("data.tokenizer_path")
    kept = workdir / TOKENIZER_FILE if stored.get("data.tokenizer_path") is not None else None
    if _content(tokenizer) != _content(kept):
        raise UserError(
            f"{workdir} holds a run with the tokenizer {kept}, but "
            f"data.tokenizer_path={tokenizer} differs from it: use "
            f"--config.data.tokenizer_path={kept} or choose another --workdir"
        )
