"""Progress of long loops on a terminal or in a log."""

import sys
import types

from tqdm import tqdm

from lzn_jax.files import is_writer


def progress(
    total: int, description: str, initial: int = 0, unit: str = "step", brief: bool = False
) -> tqdm:
    """A progress bar on stderr with rate and remaining time, as a context manager.

    If stderr is not a terminal, prints plain lines at least 10 s apart. A `brief` bar appears after
    3 s and is removed at the end. Only the writing process shows bars.
    """
    delay = 3.0 if brief else 0.0
    common = {"total": total, "desc": description, "initial": initial, "unit": f" {unit}"}
    common |= {"disable": not is_writer(), "leave": not brief, "delay": delay}
    if sys.stderr.isatty():
        return tqdm(**common, file=sys.stderr, dynamic_ncols=True)

    def write(text: str) -> None:  # each update as a line of its own
        if line := text.strip():
            sys.stderr.write(f"{line}\n")

    lines = types.SimpleNamespace(write=write, flush=lambda: sys.stderr.flush())
    form = "{desc}: {percentage:.0f}% {n_fmt}/{total_fmt} "
    form += "[{elapsed}<{remaining}, {rate_fmt}{postfix}]"
    # With another position, a nested bar would move the cursor.
    return tqdm(**common, file=lines, mininterval=10.0, bar_format=form, position=0)
