"""Exit codes of the commands, and the error for invalid input."""

EXIT_DONE = 0
EXIT_FAILED = 1  # an exception: a bug
EXIT_USER_ERROR = 2
EXIT_NON_FINITE = 3  # training stopped at losses or gradients that are not finite
EXIT_DOES_NOT_FIT = 4  # --mode=compile: the step needs more memory than the device has
EXIT_RUN_AGAIN = 75  # saved after SIGTERM or Ctrl-C; the same command continues
EXIT_INTERRUPTED = 130  # Ctrl-C without saving; the shells' code for SIGINT


class UserError(Exception):
    """Invalid input; the message is one line with the fault and, if possible, a remedy."""
