"""A page to play with a trained run, on this machine alone.

    python -m lzn_jax.demo --workdir=DIR [--port=PORT]

DIR is the folder of a run, one of its checkpoints, or released/NAME as for `lzn_jax.load`.
"""

import argparse
import importlib.util
import logging
import sys
from pathlib import Path

from lzn_jax.configuration import EXIT_DONE, UserError
from lzn_jax.run.command_line import Parser, exit_code, use_compile_cache


def main(arguments: list[str] | None = None) -> int:
    """Serves the page until it is interrupted; returns the exit code (2: the user's input)."""
    return exit_code(_run, arguments)


def _run(arguments: list[str]) -> int:
    parser = Parser(
        prog="python -m lzn_jax.demo",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--workdir", required=True, help="folder of a run, or released/NAME")
    parser.add_argument("--port", type=int, default=7860, help="of 127.0.0.1")
    flags = parser.parse_args(arguments)
    if not 1024 <= flags.port < 2**16:
        raise UserError(f"--port must be from 1024 to 65535, got {flags.port}")
    if importlib.util.find_spec("gradio") is None:
        raise UserError("the page needs Gradio: pip install -e '.[demo]'")

    # JAX and Gradio start only for a good command.
    import lzn_jax
    from lzn_jax import data
    from lzn_jax.demo.answers import Answers

    logging.basicConfig(format="%(message)s", force=True)
    use_compile_cache()
    model = lzn_jax.load(flags.workdir)
    try:
        test = data.load(model.config.data, "test")
    except UserError as error:
        print(f"without test images: {error}", file=sys.stderr)
        test = None

    from lzn_jax.demo import page

    name = Path(flags.workdir).resolve().name
    page.serve(Answers(model, test), f"{name}, {model.step} updates", flags.port)
    return EXIT_DONE


if __name__ == "__main__":
    sys.exit(main())
