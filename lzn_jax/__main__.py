"""Runs the command line, so that python -m lzn_jax equals python -m lzn_jax.main."""

import sys

from lzn_jax.main import command

if __name__ == "__main__":
    sys.exit(command())
