"""Latent Zoning Networks (arXiv:2509.15591) in JAX and Flax.

`lzn_jax.load` loads a trained run; `lzn_jax.zoning` has the method as pure functions.
"""

from typing import TYPE_CHECKING, Any

from lzn_jax.errors import UserError

if TYPE_CHECKING:
    from lzn_jax.loading import load

__all__ = ["UserError", "__version__", "load"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    # Imported on first use, so that commands can check their arguments before importing JAX.
    if name == "load":
        from lzn_jax.loading import load

        return load
    raise AttributeError(f"module 'lzn_jax' has no attribute {name!r}")
