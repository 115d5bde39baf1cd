"""Serves a page in the browser for a trained run, to this machine only.

    python -m lzn_jax.demo [--workdir=DIR] [--port=PORT]

DIR is the folder of a run, or anything else that `lzn_jax.load` takes, as hub:OWNER/NAME. Without
it, the page shows the package's model of digits, labels and captions.
"""

import importlib.util
import logging
import os
import signal
import sys
import tempfile
from pathlib import Path

from lzn_jax.errors import EXIT_DONE, UserError
from lzn_jax.run.command_line import Parser, exit_code


def main(arguments: list[str] | None = None) -> int:
    """Serves the page until it is interrupted; returns the exit code, 2 for bad input."""
    return exit_code(_run, arguments)


def _run(arguments: list[str]) -> int:
    parser = Parser("lzn_jax.demo", __doc__)
    parser.add_argument(
        "--workdir", default="digits_text", help="folder of a run, or released/NAME"
    )
    parser.add_argument("--port", type=int, default=7860, help="port of 127.0.0.1; 0: a free one")
    parser.add_argument("--extensions", default="", help="files or modules with parts: A.py,B.py")
    flags = parser.parse_args(arguments)
    if flags.port and not 1024 <= flags.port < 2**16:
        raise UserError(f"--port must be 0 or from 1024 to 65535, got {flags.port}")
    if importlib.util.find_spec("gradio") is None:
        raise UserError("the page needs Gradio: pip install -e '.[demo]'")

    # Imported late, because JAX and Gradio take seconds that a bad command need not wait for.
    import lzn_jax
    from lzn_jax import data
    from lzn_jax.demo.answers import Answers

    logging.basicConfig(format="%(message)s", force=True)
    model = lzn_jax.load(flags.workdir, [name for name in flags.extensions.split(",") if name])
    examples = {}
    for split in ("test", "train"):
        try:
            examples[split] = data.load(model.config.data, split)
        except UserError as error:
            print(f"continuing without {split} examples: {error}", file=sys.stderr)
    answers = Answers(model, **examples)
    title = f"{Path(flags.workdir).resolve().name} after {model.step} updates"
    with tempfile.TemporaryDirectory(prefix="lzn_jax_") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder  # read by Gradio when it is imported
        from lzn_jax.demo import page

        # So that the folder is removed; the shell may have made the process ignore SIGINT.
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, signal.default_int_handler)
        page.serve(answers, title, flags.port)
    return EXIT_DONE


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)  # the interpreter's own exit takes seconds after a page
