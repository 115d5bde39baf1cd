"""Weights & Biases: the metrics and images that TensorBoard shows.

The package is imported, and data sent, only if `reporting.wandb_project` is set.
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


class WandbSink(reporting.Sink):
    """A run of Weights & Biases; a resumed run continues the same one.

    With WANDB_MODE=offline, data stay in the work folder for `wandb sync`. A resumed run repeats
    steps with equal values, and the service ignores the repetitions.
    """

    def __init__(self, run: Any, image: Callable[[str], Any]) -> None:
        self._run, self._image = run, image

    def write(self, step: int, values: Mapping[str, float]) -> None:
        self._attempt(lambda: self._run.log(dict(values), step=step))

    def image(self, step: int, name: str, path: str | os.PathLike[str]) -> None:
        self._attempt(lambda: self._run.log({name: self._image(os.fspath(path))}, step=step))

    def close(self) -> None:
        self._attempt(lambda: self._run.finish())

    def _attempt(self, action: Callable[[], object]) -> None:
        """Disables the sink on failure: SIGTERM may end wandb's process before this one."""
        if self._run is None:
            return
        try:
            action()
        except Exception as error:
            self._run = None
            _log.warning("Weights & Biases failed (%r): the run continues without it", error)


def start(config: ConfigDict, workdir: Path) -> WandbSink | None:
    """Sink of a run, or None without `reporting.wandb_project` and in processes that do not write.

    Raises UserError if the package is missing or the service refuses the project or the user.
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
            settings=wandb.Settings(console="off"),  # otherwise it captures stderr and its bars
        )
    except wandb.Error as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"Weights & Biases did not start ({reason}): run `wandb login`, set "
            "WANDB_MODE=offline, or --config.reporting.wandb_project=None"
        ) from error
    return WandbSink(run, wandb.Image)


def _run_id(workdir: Path) -> str:
    path = workdir / ID_FILE
    if not path.is_file():
        reporting.write_bytes(path, secrets.token_hex(4).encode())
    return path.read_text()
