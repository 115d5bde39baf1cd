"""What the commands share: how they read their flags and end, and where compiled programs stay."""

import argparse
import os
import sys
from collections.abc import Callable
from typing import NoReturn

from lzn_jax.configuration import EXIT_USER_ERROR, UserError


class Parser(argparse.ArgumentParser):
    """A parser of flags that raises UserError for those that do not fit."""

    def error(self, message: str) -> NoReturn:
        raise UserError(message)


def exit_code(run: Callable[[list[str]], int], arguments: list[str] | None) -> int:
    """Runs a command, None: with its process's arguments; the user's mistake ends it in a line."""
    try:
        return run(sys.argv[1:] if arguments is None else arguments)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USER_ERROR


def use_compile_cache() -> None:
    """Compiled programs stay on disk, so that the second start is fast."""
    import jax

    from lzn_jax.run import reporting

    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", str(reporting.cache_folder()))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
