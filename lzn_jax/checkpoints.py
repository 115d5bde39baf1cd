"""Checkpoints through Orbax: what is saved, when it counts, and how it comes back.

A checkpoint has separate items, so that inference reads what it needs and nothing else: `params`,
`ema`, `optimizer`, `context` (context anchors, where a study has them) and `progress` (step and
data position, JSON). Everything else follows from seed and step.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orbax.checkpoint as ocp

ITEMS = ("params", "ema", "optimizer", "context", "progress")

_log = logging.getLogger(__name__)


class Checkpoints:
    """The folder `checkpoints/` of a run; a context manager that waits for pending saves."""

    def __init__(self, workdir: str | Path, keep: int) -> None:
        policy = ocp.checkpoint_managers
        self._manager = ocp.CheckpointManager(
            (Path(workdir) / "checkpoints").absolute(),
            item_names=ITEMS,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=policy.LatestN(keep), cleanup_tmp_directories=True
            ),
        )

    def save(self, step: int, items: Mapping[str, Any], progress: Mapping[str, int]) -> None:
        """Starts to write the array trees `items` and `progress`; returns once they are copied."""
        args = {name: ocp.args.StandardSave(tree) for name, tree in items.items()}
        args["progress"] = ocp.args.JsonSave(dict(progress))
        self._manager.save(step, args=ocp.args.Composite(**args), force=True)

    def restore(
        self, targets: Mapping[str, Any], step: int | None = None
    ) -> tuple[int, dict[str, Any]] | None:
        """The newest checkpoint that can be read, or that of `step`: its step, and its items like
        `targets`.

        Targets are trees of `jax.ShapeDtypeStruct` with a sharding; `progress` always comes along.
        A damaged checkpoint is reported and passed over. None if there is no good one.
        """
        args = {name: ocp.args.StandardRestore(tree) for name, tree in targets.items()}
        args["progress"] = ocp.args.JsonRestore()
        steps = self._manager.all_steps() if step is None else [step]
        for step in sorted(steps, reverse=True):
            try:
                restored = self._manager.restore(step, args=ocp.args.Composite(**args))
                return step, {name: restored[name] for name in args}
            except Exception as error:
                _log.warning("checkpoint %d cannot be read, trying an older one: %s", step, error)
        return None

    def discard_after(self, step: int) -> None:
        """Deletes checkpoints newer than `step`, which could not be read, to make way for new."""
        for damaged in [s for s in self._manager.all_steps() if s > step]:
            self._manager.delete(damaged)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *exception: object) -> None:
        self._manager.wait_until_finished()
        self._manager.close()
