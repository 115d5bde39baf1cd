"""Command line: python -m lzn_jax is python -m lzn_jax.main."""

import sys

from lzn_jax.main import command

if __name__ == "__main__":
    sys.exit(command())
