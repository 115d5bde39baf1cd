"""Latent Zoning Networks (arXiv:2509.15591) in JAX and Flax.

`lzn_jax.load` loads a trained run; `lzn_jax.zoning` has the method as pure functions.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lzn_jax.errors import UserError

if TYPE_CHECKING:
    import lzn_jax.trained_model

__all__ = ["UserError", "__version__", "load"]
__version__ = "0.1.0"


def load(path: str | Path, extensions: Sequence[str] = ()) -> "lzn_jax.trained_model.TrainedModel":
    """Loads a trained run or a shared model: `lzn_jax.loading.load`."""
    from lzn_jax import loading  # here, so that `import lzn_jax` is quick

    return loading.load(path, extensions)
