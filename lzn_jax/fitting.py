"""Trains on data in memory or on a config's data: `lzn_jax.fit(config, ...)`."""

import dataclasses
from pathlib import Path

from ml_collections import ConfigDict

from lzn_jax import configuration, data, loading, parts, train
from lzn_jax.data import arrays
from lzn_jax.errors import EXIT_NON_FINITE, UserError
from lzn_jax.plots.style import credited
from lzn_jax.run import workdir as workdirs
from lzn_jax.run.command_line import use_compile_cache
from lzn_jax.run.processes import Interruption
from lzn_jax.trained_model import TrainedModel


@parts.mistakes()
def fit(
    config: str | Path | ConfigDict,
    given: object,
    test: object,
    workdir: str | Path | None,
    changes: dict[str, object],
) -> TrainedModel:
    """Trains and evaluates a config like the command line (see `lzn_jax.fit`)."""
    use_compile_cache()
    if given is None and test is not None:
        raise UserError("test data need training data: pass both")
    changes = {name.replace("__", "."): value for name, value in changes.items()}
    if test is not None and changes.setdefault("data.holdout", None) is not None:
        raise UserError("data.holdout takes the place of test data: pass one of them")
    kept = None if given is None else arrays.keep(given, test)
    if kept is not None:
        changes = {"data.name": "arrays", "data.checksum": kept.checksum} | changes
    fields = [f"{name}={value}" for name, value in changes.items()]
    found = configuration.load(config, fields)
    if workdir is None and not isinstance(config, str | Path):
        raise UserError("a config without a name needs a work folder: pass workdir=FOLDER")
    workdir = Path(workdir or workdirs.default(config))
    interruption = Interruption()
    with interruption.in_call(), credited(data.attribution(found.data)), workdirs.guarded(workdir):
        code = train.train_and_evaluate(data.fit_context(found), workdir, interruption)
    if code == EXIT_NON_FINITE:
        raise UserError(
            f"updates were not finite, {workdir} contains the state before: lower learning rates"
        )
    if interruption.is_asked:
        raise KeyboardInterrupt(f"saved in {workdir}: the same call continues")
    return dataclasses.replace(loading.load(workdir), given=kept)
