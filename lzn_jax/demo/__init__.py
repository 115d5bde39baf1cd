"""A page to play with a trained run: `python -m lzn_jax.demo --workdir=DIR`."""
