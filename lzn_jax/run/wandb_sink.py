"""Weights & Biases, for who watches runs there: the metrics and pictures that TensorBoard has.

The package is imported, and anything sent, only where `reporting.wandb_project` names a project.
"""

import logging
import os
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from lzn_jax import configuration
from lzn_jax.configuration import UserError
from lzn_jax.run import processes, reporting

ID_FILE = "wandb_id.txt"

_log = logging.getLogger(__name__)


class WandbSink:
    """A run of Weights & Biases, the same one whenever the work folder's run goes on.

    WANDB_MODE=offline keeps it in the work folder, for `wandb sync`. Steps that a resumed run
    repeats are equal, and the service keeps those that it has.
    """

    def __init__(self, run: Any, picture: Callable[[str], Any]) -> None:
        self._run, self._picture = run, picture

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Shows metrics of a step."""
        self._attempt(lambda: self._run.log(dict(values), step=step))

    def image(self, step: int, name: str, path: str | os.PathLike[str]) -> None:
        """Shows a picture file."""
        self._attempt(lambda: self._run.log({name: self._picture(os.fspath(path))}, step=step))

    def close(self) -> None:
        """Sends what is pending."""
        self._attempt(lambda: self._run.finish())

    def _attempt(self, action: Callable[[], object]) -> None:
        """Does it, or goes on without: its own process may end before ours, of the same SIGTERM."""
        if self._run is None:
            return
        try:
            action()
        except Exception as error:
            self._run = None
            _log.warning("Weights & Biases no longer answers (%r): the run goes on without", error)


def start(config: ConfigDict, workdir: Path) -> WandbSink | None:
    """The sink of a run, in the process that writes; None where no project is named.

    Raises UserError where the package is missing, or the service refuses the project or the user.
    """
    project = config.reporting.wandb_project
    if project is None or not processes.is_writer():
        return None
    try:
        import wandb
    except ImportError as error:
        raise UserError(
            "reporting.wandb_project needs the package wandb: pip install -e '.[wandb]', or "
            "--config.reporting.wandb_project=None"
        ) from error
    try:
        run = wandb.init(
            project=project,
            id=_run_id(workdir),
            resume="allow",
            name=workdir.resolve().name,
            dir=workdir,
            config=configuration.to_json_dict(config),
            settings=wandb.Settings(console="off"),  # else it takes over stderr and its bars
        )
    except wandb.Error as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"Weights & Biases did not start ({reason}): log in by `wandb login`, set "
            "WANDB_MODE=offline, or --config.reporting.wandb_project=None"
        ) from error
    return WandbSink(run, wandb.Image)


def _run_id(workdir: Path) -> str:
    path = workdir / ID_FILE
    if not path.is_file():
        reporting.write_bytes(path, secrets.token_hex(4).encode())
    return path.read_text()
