"""Shared by all commands: flag parser, exit codes and the cache of compiled programs."""

import argparse
import difflib
import errno
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import NoReturn

from lzn_jax import parts, schema
from lzn_jax.errors import EXIT_USER_ERROR, UserError

# Ratio of similarity above which an unknown flag is taken for a misspelt flag, not for a field.
_IS_FLAG = 0.8


class Parser(argparse.ArgumentParser):
    """Flags of `python -m MODULE`. UserError for a wrong flag suggests the nearest flag or field.

    `fields` returns the names of the config's fields, which are also suggested.
    """

    def __init__(
        self,
        module: str,
        description: str | None,
        epilog: str | None = None,
        fields: Callable[[argparse.Namespace], Iterable[str]] | None = None,
    ) -> None:
        super().__init__(
            prog=f"python -m {module}",
            description=description,
            epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        self._fields = fields

    def parse_args(self, arguments: Sequence[str]) -> argparse.Namespace:  # type: ignore[override]
        """The flags. Their `overrides` are FIELD=VALUE of --config.FIELD=VALUE."""
        prefix = "--config." if "--config" in self._option_string_actions else None
        overrides = [a for a in arguments if prefix and a.startswith(prefix)]
        flags, unknown = self.parse_known_args([a for a in arguments if a not in overrides])
        flags.overrides = [a.partition(".")[2] for a in overrides]
        if unknown:
            name = unknown[0].partition("=")[0]
            known = [known for known in self._option_string_actions if known.startswith("--")]
            (flag,) = difflib.get_close_matches(name, known, n=1, cutoff=0)
            hint = f"the nearest is {flag}"
            if not name.startswith("--"):
                hint = "a flag reads --NAME=VALUE"
            elif "." in name and prefix:
                hint = f"a field is set by --config.{unknown[0].removeprefix('--')}"
            elif self._fields and difflib.SequenceMatcher(None, name, flag).ratio() < _IS_FLAG:
                field = schema.nearest(name.removeprefix("--"), self._fields(flags))
                hint = f"the nearest field is set by --config.{field}"
            raise UserError(f"unrecognized arguments: {unknown[0]}; {hint}")
        return flags

    def error(self, message: str) -> NoReturn:
        raise UserError(message)


def exit_code(run: Callable[[list[str]], int], arguments: list[str] | None) -> int:
    """Exit code of `run(arguments)`, by default with sys.argv. Prints UserError in one line.

    Mistakes in parts, and paths that are too long for the file system, are also printed in one
    line.
    """
    try:
        return parts.mistakes()(run)(sys.argv[1:] if arguments is None else arguments)
    except UserError as error:
        message = str(error)
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        message = f"the path {str(error.filename)[:100]}... is too long"
    print(f"error: {message}", file=sys.stderr)
    return EXIT_USER_ERROR


def use_compile_cache() -> None:
    """Caches compiled programs on disk for later starts, in JAX's folder if it is set."""
    import jax

    from lzn_jax import files

    folder, least = "jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs"
    if jax.config.values[folder] is None:
        jax.config.update(folder, str(files.cache_folder()))
    jax.config.update(least, min(0.2, jax.config.values[least]))
