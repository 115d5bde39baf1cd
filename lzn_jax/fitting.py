"""Trains on data in memory or on a config's data: `lzn_jax.fit(config, ...)`."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

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
    given: Any,
    test: Any,
    workdir: str | Path | None,
    changes: dict[str, Any],
) -> TrainedModel:
    """Trains and evaluates a config as the command does; see `lzn_jax.fit`."""
    use_compile_cache()
    if given is None and test is not None:
        raise UserError("test data need training data: pass both")
    if given is not None:
        changes = {"data.name": "arrays", "data.checksum": arrays.keep(given, test)} | changes
    fields = [f"{name.replace('__', '.')}={value}" for name, value in changes.items()]
    found = configuration.load(config, fields)
    if workdir is None and isinstance(config, ConfigDict):
        raise UserError("a config without a name needs a work folder: pass workdir=FOLDER")
    workdir = Path(workdir or workdirs.default(config))
    if _in_thread(found, workdir) == EXIT_NON_FINITE:
        raise UserError(
            f"updates were not finite, {workdir} contains the state before: lower learning rates"
        )
    return loading.load(workdir)


def _in_thread(config: ConfigDict, workdir: Path) -> int:
    """Exit code of a training, which a KeyboardInterrupt stops once it is saved.

    As the interrupt reaches the main thread alone, no signal handler is changed.
    """
    interruption = Interruption()
    with ThreadPoolExecutor(1) as thread:
        result = thread.submit(_train, config, workdir, interruption)
        try:
            return result.result()
        except KeyboardInterrupt:
            interruption.is_asked = True
            print(f"saving to {workdir}; the same call continues, lzn_jax.load loads it")
            result.result()
            raise


def _train(config: ConfigDict, workdir: Path, interruption: Interruption) -> int:
    with credited(data.attribution(config.data)), workdirs.guarded(workdir):
        return train.train_and_evaluate(data.fit_context(config), workdir, interruption)
