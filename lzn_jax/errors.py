"""How a command ends: its exit codes, and the error that is the user's."""

EXIT_DONE = 0
EXIT_FAILED = 1  # an error of ours, as Python ends with for an exception
EXIT_USER_ERROR = 2
EXIT_NON_FINITE = 3  # training stopped on losses or gradients that are not finite
EXIT_DOES_NOT_FIT = 4  # --mode=compile: the step takes more memory than there is
EXIT_RUN_AGAIN = 75  # saved after SIGTERM or Ctrl-C; the same command goes on
EXIT_INTERRUPTED = 130  # by Ctrl-C, at once, as shells call it


class UserError(Exception):
    """The user's input is at fault; one line says what is wrong and what would be right."""
