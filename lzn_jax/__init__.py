"""Latent Zoning Networks (arXiv:2509.15591) in JAX and Flax.

`lzn_jax.load` opens a trained run; `lzn_jax.zoning` is the method as pure functions.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lzn_jax.loading import load

__all__ = ["load"]


def __getattr__(name: str) -> Any:
    # Imported when asked for: JAX starts only for a good command.
    if name == "load":
        from lzn_jax.loading import load

        return load
    raise AttributeError(f"module 'lzn_jax' has no attribute {name!r}")
