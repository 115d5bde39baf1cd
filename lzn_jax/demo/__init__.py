"""A page in the browser for a trained run: `python -m lzn_jax.demo --workdir=DIR`."""
