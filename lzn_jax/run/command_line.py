"""What the commands share: how they read their flags and end, and where compiled programs stay."""

import argparse
import difflib
import os
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from lzn_jax.configuration import EXIT_USER_ERROR, UserError


class Parser(argparse.ArgumentParser):
    """A parser of flags that raises UserError for those that do not fit, and names the nearest."""

    def parse_args(self, arguments: Sequence[str]) -> argparse.Namespace:  # type: ignore[override]
        flags, unknown = self.parse_known_args(arguments)
        if unknown:
            raise UserError(f"unrecognized arguments: {unknown[0]}; {self._nearest(unknown[0])}")
        return flags

    def _nearest(self, argument: str) -> str:
        name = argument.partition("=")[0]
        if not name.startswith("--"):
            return "a flag reads --NAME=VALUE"
        known = [known for known in self._option_string_actions if known.startswith("--")]
        if "." in name and "--config" in known:
            return f"a field is set by --config.{argument.removeprefix('--')}"
        return f"the nearest is {difflib.get_close_matches(name, known, n=1, cutoff=0)[0]}"

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
