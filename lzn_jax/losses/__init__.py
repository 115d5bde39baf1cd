"""Losses on arrays. The alignment loss itself is in `lzn_jax.zoning`."""
