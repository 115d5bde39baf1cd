"""Shares a trained model on the Hugging Face Hub, where `lzn_jax.load("hub:OWNER/NAME")` finds it.

    python -m lzn_jax.share --workdir=DIR [--repo=OWNER/NAME] [--private] [--half]
                            [--extensions=A.py,B.py]

Writes the folder DIR/shared and uploads it to --repo. Without --repo it is only written.
`lzn_jax.load` reads this folder, too. A new repository is public unless --private is given.
"""

import logging
import sys
from pathlib import Path

from lzn_jax import configuration, loading
from lzn_jax.errors import EXIT_DONE, UserError
from lzn_jax.release import shared_model
from lzn_jax.run import workdir as workdirs
from lzn_jax.run.command_line import Parser, exit_code

_log = logging.getLogger("lzn_jax.share")  # the name differs if this is __main__


def main(arguments: list[str] | None = None) -> int:
    """Runs one command; returns its exit code, 2 for wrong input."""
    return exit_code(_run, arguments)


def _run(arguments: list[str]) -> int:
    parser = Parser("lzn_jax.share", __doc__)
    parser.add_argument("--workdir", required=True, help="folder of the run", type=Path)
    parser.add_argument("--repo", help="OWNER/NAME of the repository to upload to")
    parser.add_argument("--private", action="store_true", help="only its owner can load it")
    parser.add_argument("--extensions", default="", help="files or modules with parts: A.py,B.py")
    parser.add_argument("--half", action="store_true", help="store weights in half precision")
    flags = parser.parse_args(arguments)
    if flags.private and flags.repo is None:
        raise UserError("--private goes with --repo=OWNER/NAME")
    if flags.repo is not None:
        shared_model.check_repository(flags.repo)
    logging.basicConfig(format="%(message)s", force=True)
    logging.getLogger("lzn_jax").setLevel(logging.INFO)
    extensions = [name for name in flags.extensions.split(",") if name]
    config = configuration.load_run(flags.workdir, extensions=extensions)
    model, folder = loading.restore(config, flags.workdir), flags.workdir / "shared"
    source = "FOLDER" if flags.repo is None else f"{shared_model.PREFIX}{flags.repo}"
    with workdirs.guarded(flags.workdir):
        shared_model.write(folder, flags.workdir, model, source, is_half=flags.half)
    _log.info("the model after %d updates is in %s", model.step, folder)
    if flags.repo is not None:
        address = shared_model.upload(folder, flags.repo, private=flags.private)
        _log.info('uploaded to %s: lzn_jax.load("%s")', address, source)
    return EXIT_DONE


if __name__ == "__main__":
    sys.exit(main())
