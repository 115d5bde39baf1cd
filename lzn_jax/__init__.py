"""Latent Zoning Networks (arXiv:2509.15591) in JAX and Flax.

`lzn_jax.fit` trains, and `lzn_jax.load` loads a trained run. `lzn_jax.zoning` contains the method
as pure functions.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lzn_jax.errors import UserError

if TYPE_CHECKING:
    from ml_collections import ConfigDict

    from lzn_jax.trained_model import TrainedModel

__all__ = ["UserError", "__version__", "fit", "load"]
__version__ = "0.1.0"


def load(path: str | Path, extensions: Sequence[str] = ()) -> "TrainedModel":
    """Loads a trained run or a shared model by `lzn_jax.loading.load`."""
    from lzn_jax import loading  # here, so that `import lzn_jax` is quick

    return loading.load(path, extensions)


def fit(
    config: "str | Path | ConfigDict",
    train: object = None,
    test: object = None,
    *,
    workdir: str | Path | None = None,
    steps: int | None = None,
    **changes: object,
) -> "TrainedModel":
    """Trains and evaluates a config, or continues its run. Returns the trained model.

    Ctrl-C saves before it raises KeyboardInterrupt. A second Ctrl-C raises it at once. The same
    call continues the run.

    Args:
      config: name of a config, path of a config file, or a config.
      train: training data in place of the config's data. `data.Examples`, images (n, h, w, c) of
        uint8, or a tuple of images with labels (n,), texts (n,) or both. Fields that follow from
        the data, such as the image size, are derived from it, as for a folder of images.
      test: test data, in place of `data.holdout`. Without it, a tenth of `train` is held out.
      workdir: folder of the run, by default results/NAME, as on the command line.
      steps: number of updates, `training.num_steps`.
      changes: other config fields, with two underscores for a dot: `training__batch_size=64`.

    Raises UserError for invalid data and fields, for a folder with a different run and for training
    that diverges.
    """
    from lzn_jax import fitting

    changes |= {} if steps is None else {"training.num_steps": steps}
    return fitting.fit(config, train, test, workdir, changes)
