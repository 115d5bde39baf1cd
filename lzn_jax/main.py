"""Command line: python -m lzn_jax.main --config=NAME [--workdir=DIR] [--config.FIELD=VALUE].

For an existing run: python -m lzn_jax.main --workdir=DIR [--mode=MODE].
"""

import argparse
import functools
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lzn_jax
from lzn_jax import parts
from lzn_jax.errors import EXIT_DOES_NOT_FIT, EXIT_DONE, EXIT_RUN_AGAIN, UserError
from lzn_jax.run.command_line import Parser, exit_code, use_compile_cache

# Modules that import for seconds are imported in functions, so that --help does not wait.
if TYPE_CHECKING:
    from ml_collections import ConfigDict

    from lzn_jax.run.processes import Interruption

MODES_WITH_INPUT = ("embed", "classify", "reconstruct", "interpolate", "translate")
# What each mode does, and the files that it writes into the work folder.
MODES = {
    "train": "trains, or resumes, and evaluates: checkpoints/, metrics.jsonl, summary.json",
    "evaluate": "evaluates the newest checkpoint: summary.json, figures/",
    "sample": "draws samples, equally many per class: samples.npz",
    "translate": "translates --source=TYPE to --target=TYPE: translations.npz or translations.csv",
    "classify": "predicts classes and their probabilities: predictions.csv",
    "embed": "computes features: embeddings.npz",
    "reconstruct": "encodes images to noise and decodes them: reconstructions.npz",
    "interpolate": "interpolates between two images: interpolation.npz",
    "export": "exports tasks as StableHLO that runs without this package: export/",
    "check_data": "reads a data set and reports its faults: figures/contact_sheet.png",
    "compile": "reports whether a step fits the hardware of --slice, without it: nothing",
    "show_config": "prints the plan, and every field with its value and meaning: nothing",
}
FLAGS = {
    "--config": "config file or NAME in configs/; default: config of the run in --workdir",
    "--workdir": "folder of the run; default: results/NAME, also for NAME/config.py",
    "--input": "image, folder of images, text, .txt file with a text a line, or labels A,B",
    "--source": "data type to translate from",
    "--target": "data type to translate to",
    "--extensions": "files or modules that register parts: A.py,B.py",
    "--slice": "hardware for --mode=compile and check_data, such as v5e:4x4 or h100:8",
}
FIRST = "python -m lzn_jax.main --config=digits_joint"

_log = logging.getLogger("lzn_jax.main")  # the name differs if this is __main__


def main(arguments: list[str] | None = None, listens: bool = False) -> int:
    """Runs one command; returns its exit code, 2 for wrong input.

    It `listens` to the signals of a process that only runs this command.
    """
    return exit_code(functools.partial(_run, listens=listens), arguments)


def _run(arguments: list[str], listens: bool) -> int:
    flags = _flags(arguments)
    from lzn_jax import configuration, data, train  # noqa: F401  training registers parts
    from lzn_jax.latent_space import LatentSpace
    from lzn_jax.modes import check_data, compile
    from lzn_jax.modes.next_steps import translations
    from lzn_jax.plots.style import credited
    from lzn_jax.run import devices, processes
    from lzn_jax.run import workdir as workdirs

    if not arguments:
        print(f"Configs for --config=NAME:\n{configuration.overview()}")
        raise UserError(f"name a config; for example, {FIRST} trains in minutes on a CPU")
    interruption = processes.Interruption()
    if listens:
        interruption.listen()
    if flags.mode == "train":
        interruption.exit_code = EXIT_RUN_AGAIN
    logging.basicConfig(format="%(message)s", force=True)
    logging.getLogger("lzn_jax").setLevel(logging.INFO)
    config, workdir, shared = _config_and_folders(flags)
    if flags.mode == "show_config":
        space = LatentSpace(config, devices.make_mesh(1))
        print(space.plan, configuration.explain(config), sep="\n\n")
        return EXIT_DONE
    if flags.mode == "translate" and flags.source is None:
        print(*translations(LatentSpace(config, devices.make_mesh(1)), workdir), sep="\n")
        raise UserError("--mode=translate needs --source=TYPE and --target=TYPE, as above")
    if flags.mode == "compile":
        fits = compile.compile_step(config, compile.find(flags.slice)).fits
        return EXIT_DONE if fits else EXIT_DOES_NOT_FIT
    with credited(data.attribution(config.data)):
        if flags.mode == "check_data":
            return check_data.check(config, workdir, flags.slice)
        use_compile_cache()
        with (
            processes.together(flags.coordinator, flags.num_processes, flags.process_id),
            workdirs.guarded(workdir),
            parts.mistakes(),  # here, too, since all processes report the error of one
        ):
            return _run_mode(flags, data.fit_context(config), workdir, shared, interruption)


def _run_mode(
    flags: argparse.Namespace,
    config: "ConfigDict",
    workdir: Path,
    shared: Path | None,
    interruption: "Interruption",
) -> int:
    """Runs a mode that needs a work folder, or a shared model. Returns the exit code."""
    from lzn_jax import train
    from lzn_jax.latent_space import LatentSpace
    from lzn_jax.loading import restore
    from lzn_jax.modes import export, inference
    from lzn_jax.modes.next_steps import next_steps
    from lzn_jax.run import devices
    from lzn_jax.run import workdir as workdirs

    if flags.mode == "train":
        code = train.train_and_evaluate(config, workdir, interruption)
        if code == EXIT_DONE:
            space = LatentSpace(config, devices.inference_mesh())
            _log.info("\n".join(next_steps(space, workdir)))
        return code
    workdirs.prepare(config, workdir, is_training=False, shared=shared)
    mode: Any = export.export if flags.mode == "export" else getattr(inference, flags.mode)
    if flags.mode == "translate":
        mode = functools.partial(mode, source=flags.source, target=flags.target)
    given = [flags.input] if flags.mode in MODES_WITH_INPUT else []
    mode(restore(config, shared or workdir), workdir, *given)
    _log.info("done: results are in %s", workdir)
    return EXIT_DONE


def _flags(arguments: Sequence[str]) -> argparse.Namespace:
    modes = [f"  {name:<12} {text}" for name, text in MODES.items()]
    title = "modes, and the files that they write into the work folder:"
    parser = Parser("lzn_jax.main", __doc__, "\n".join([title, *modes]), _fields)
    for name, text in FLAGS.items():
        parser.add_argument(name, help=text)
    parser.add_argument("--mode", choices=MODES, default="train", metavar="MODE", help="see below")
    parser.add_argument("--version", action="version", version=f"lzn_jax {lzn_jax.__version__}")
    group = parser.add_argument_group(
        "several processes", "detected automatically on TPU pods and under srun and mpirun"
    )
    for name, kind, text in (
        ("coordinator", str, "HOST:PORT of process 0; default: JAX_COORDINATOR_ADDRESS"),
        ("num_processes", int, "number of processes; default: JAX_NUM_PROCESSES"),
        ("process_id", int, "index of this process, from 0; default: JAX_PROCESS_ID"),
    ):
        variable = text.rpartition(" ")[2]
        group.add_argument(f"--{name}", type=kind, default=os.environ.get(variable), help=text)
    flags = parser.parse_args(arguments)
    if flags.input is not None and flags.mode not in MODES_WITH_INPUT:
        raise UserError(f"--input goes with --mode={' or '.join(MODES_WITH_INPUT)}")
    if flags.input == "":
        raise UserError("--input is empty: give a file, text or labels, or omit it for test data")
    if flags.mode == "compile" and flags.slice is None:
        raise UserError("--mode=compile needs --slice=NAME, such as v5e:4x4 or h100:8")
    if flags.slice is not None and flags.mode not in ("compile", "check_data"):
        raise UserError("--slice goes with --mode=compile or --mode=check_data")
    pair = {flags.source is not None, flags.target is not None}
    if pair not in ({False}, {flags.mode == "translate"}):
        raise UserError("--source=TYPE, --target=TYPE and --mode=translate go together")
    return flags


def _fields(flags: argparse.Namespace) -> dict[str, Any]:
    """Fields by name of the config of a command, or of every run without a config."""
    from lzn_jax import configuration, schema

    if flags.config is None and flags.workdir is None:
        return schema.EVERY_RUN
    config, *_ = _config_and_folders(flags)
    return schema.schema_of(configuration.flatten(config.to_dict()))


def _config_and_folders(flags: argparse.Namespace) -> tuple["ConfigDict", Path, Path | None]:
    """Config, from --config or from the model in --workdir; work folder; folder of a shared model.

    Results of a shared model are written to a work folder of their own, results/shared_NAME.
    """
    from lzn_jax import configuration
    from lzn_jax.loading import find
    from lzn_jax.release.shared_model import is_shared
    from lzn_jax.run import workdir as workdirs

    if "://" in (flags.workdir or ""):
        raise UserError(
            f"--workdir must be a folder: mount the bucket and use its path, got {flags.workdir}"
        )
    extensions = [name for name in (flags.extensions or "").split(",") if name]
    if flags.config is None and flags.workdir is None:
        raise UserError("name a config with --config=NAME, or the folder of a run with --workdir")
    workdir, shared = Path(flags.workdir or workdirs.default(flags.config)), None
    if flags.mode != "train" and is_shared(found := find(workdir)):
        workdir, shared = Path("results") / f"shared_{workdir.name}", found
    if flags.config is not None:
        return configuration.load(flags.config, flags.overrides, extensions), workdir, shared
    config = configuration.load_run(shared or workdir, flags.overrides, extensions)
    return config, workdir, shared


def command() -> int:
    """`main` with the signals of its process, for `python -m lzn_jax` and the script `lzn_jax`."""
    return main(listens=True)


if __name__ == "__main__":
    sys.exit(command())
