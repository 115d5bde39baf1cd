"""Exit codes of the commands, and the error for invalid input."""

import contextlib
import importlib
from collections.abc import Iterator
from typing import Any

EXIT_DONE = 0
EXIT_FAILED = 1  # an exception: a bug
EXIT_USER_ERROR = 2
EXIT_NON_FINITE = 3  # training stopped at losses or gradients that are not finite
EXIT_DOES_NOT_FIT = 4  # --mode=compile: the step needs more memory than the device has
EXIT_RUN_AGAIN = 75  # saved after SIGTERM or Ctrl-C; the same command continues
EXIT_INTERRUPTED = 130  # Ctrl-C without saving; the shells' code for SIGINT


class UserError(Exception):
    """Invalid input. The message is one line with the fault and, if possible, a remedy."""


@contextlib.contextmanager
def explained(
    failure: str, remedy: str, kinds: type[Exception] | tuple[type[Exception], ...] = Exception
) -> Iterator[None]:
    """Context in which errors of these kinds become a UserError with their reason."""
    try:
        yield
    except kinds as error:
        reason = (str(error.__cause__ or error).splitlines() or [type(error).__name__])[0][:200]
        raise UserError(f"{failure} ({reason}): {remedy}") from error


def package(name: str, install: str) -> Any:
    """The imported package. Raises UserError if it is missing."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(f"the package {name} is not installed: pip install {install}") from error
