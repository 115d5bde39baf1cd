"""Latent Zoning Networks (arXiv:2509.15591) in JAX and Flax.

`lzn_jax.load` loads a trained run; `lzn_jax.zoning` has the method as pure functions.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lzn_jax.loading import load

__all__ = ["load"]


def __getattr__(name: str) -> Any:
    # Imported on first use, so that commands can check their arguments before importing JAX.
    if name == "load":
        from lzn_jax.loading import load

        return load
    raise AttributeError(f"module 'lzn_jax' has no attribute {name!r}")
