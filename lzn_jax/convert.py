"""Converts checkpoints of the paper's PyTorch release, without PyTorch.

    python -m lzn_jax.convert --config=configs/NAME.py --workdir=DIR --checkpoint=FILE.pt [--raw]
        [--context=FOLDER]
    python -m lzn_jax.convert --released=NAME --workdir=DIR [--raw] [--context=FOLDER]

DIR becomes the folder of a run at the checkpoint's iteration: every mode works on it, and training
resumes from there with a new Adam state. Modes use the averaged weights (EMA). --raw replaces them
by the trained weights. Context anchors, which the release lacks, are computed from images of
FOLDER, or of the config's training set if it can be read. --released downloads the paper's
checkpoint of configs/NAME.py from the Hugging Face Hub.
"""

import functools
import logging
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict, FrozenConfigDict

from lzn_jax import configuration, models, train
from lzn_jax.data import Examples, check_context, load
from lzn_jax.data.user_images import find_images
from lzn_jax.data_types import Samples
from lzn_jax.errors import EXIT_DONE, UserError
from lzn_jax.files import cache_folder, write_json
from lzn_jax.latent_space import LatentSpace
from lzn_jax.models import split_variables
from lzn_jax.release import hub
from lzn_jax.release import weights as released
from lzn_jax.release.torch_keys import shapes_in_execution_order, torch_keys
from lzn_jax.release.weights import Layout
from lzn_jax.run import devices
from lzn_jax.run import workdir as workdirs
from lzn_jax.run.checkpoints import Checkpoints
from lzn_jax.run.command_line import Parser, exit_code

_log = logging.getLogger("lzn_jax.convert")  # the name differs if this is __main__


def convert(
    config: ConfigDict,
    checkpoint: str | Path,
    workdir: Path,
    *,
    raw: bool = False,
    context: str | None = None,
) -> None:
    """Creates a run in `workdir` from a released checkpoint.

    Context anchors are computed from the images in the folder `context`, by default from the
    training images; without images, the run has none. Raises UserError for an unreadable file, a
    missing or unexpected key, a wrong shape and a missing network, for too few images, and if
    `workdir` has checkpoints.
    """
    _check_empty(workdir)
    layouts = network_layouts(config)
    weights = released.read(checkpoint, layouts, ema=not raw)
    if missing := [name for name in layouts if name not in weights.raw]:
        raise UserError(f"{checkpoint} has no {missing[0]}, which the config's study needs")
    config, images = _context_images(config, context)
    workdirs.prepare(config, workdir, is_training=True)
    workdirs.record(config, workdir)
    space = LatentSpace(config, devices.inference_mesh())
    params, constants = split_variables(weights.raw)
    optimizer = train.make_optimizer(config.training, list(space.modules))
    zero = np.zeros((), np.int32)
    state = train.TrainState(
        step=np.array(weights.iteration, np.int32),
        params=params,
        constants=constants,
        ema=split_variables(weights.averaged)[0],
        optimizer=jax.tree.map(np.asarray, optimizer.init(params)),
        skipped=zero,
        skipped_in_a_row=zero,
    )
    with Checkpoints(workdir, config.checkpoint.keep) as checkpoints:
        no_labels = np.zeros(len(images), np.int32)  # context anchors need no labels
        train.save_state(checkpoints, state, space, Examples(images, no_labels))


def convert_released(name: str, config: ConfigDict, workdir: Path, **options: Any) -> None:
    """Downloads and converts a released checkpoint. Writes its origin to released.json.

    Raises UserError like `convert`, and if the download fails.
    """
    _check_empty(workdir)
    fetched = hub.fetch(name)
    convert(config, fetched.path, workdir, **options)
    write_json(workdir / hub.ORIGIN_FILE, fetched.origin)


def released_run(name: str) -> Path:
    """Folder of the run of a released checkpoint, created in the cache by the first call.

    Raises UserError like `convert_released`.
    """
    hub.check_name(name)
    workdir = cache_folder() / "released" / name
    if not workdirs.has_checkpoint(workdir):
        config = configuration.load(configuration.shipped(name))
        convert_released(name, config, workdir)
    return workdir


def _check_empty(workdir: Path) -> None:
    if workdirs.has_checkpoint(workdir):
        raise UserError(f"{workdir} already has checkpoints: choose another --workdir")


def network_layouts(config: ConfigDict) -> dict[str, Layout]:
    """Keys and shapes of the config's networks, in the release's order.

    Raises UserError for a network that the release does not contain.
    """
    size, batch = config.data.image_size, 2
    images = jnp.zeros((batch, size, size, config.data.channels))
    latents = jnp.zeros((batch, config.latent.dim)) if models.has_latents(config) else None
    labels = jnp.zeros((batch, config.data.num_classes)) if len(config.types) > 1 else None
    inputs = {
        "encoder": (images,),
        "decoder": (images, jnp.zeros(batch), latents, labels),
        "label_anchors": (),
    }
    modules, layouts = models.build(config), {}
    for name in (name for name in released.ENTRIES if name in modules):
        flags = {"train": False} if inputs[name] else {}  # label anchors define no such argument
        init = functools.partial(modules[name].init, **flags)
        shapes = shapes_in_execution_order(lambda key: init(key, *inputs[name]))  # noqa: B023
        try:
            layouts[name] = Layout(torch_keys(modules[name], shapes), shapes)
        except ValueError as error:
            raise UserError(f"{name} cannot be converted: {error}") from error
    return layouts


def _context_images(config: ConfigDict, folder: str | None) -> tuple[ConfigDict, Samples]:
    """Config and images of the context anchors, or a config without context anchors."""
    if not models.has_latents(config) or config.latent.context_size == 0:
        if folder is not None:
            raise UserError("--context needs latents and --config.latent.context_size above 0")
        return config, ()
    if folder is not None:
        images, origin = find_images(folder, config.data), f"the images in {folder}"
    else:
        try:
            images = load(config.data, "train").images
        except UserError as error:
            _log.warning(
                "no context anchors, as there are no training images (%s): evaluate, reconstruct, "
                "interpolate, classify and embed compute zones from their input images, so that "
                "results for an image depend on the others; give a folder of images with "
                "--context, or add --config.latent.context_size=0 to every command on this folder",
                error,
            )
            values = config.to_dict()
            values["latent"]["context_size"] = 0
            return FrozenConfigDict(values), ()
        origin = f"the training images of {config.data.name}"
    check_context(config, len(images), origin)
    return config, images


def main(arguments: list[str] | None = None) -> int:
    """Runs one command; returns its exit code, 2 for wrong input."""
    return exit_code(_run, arguments)


def _run(arguments: list[str]) -> int:
    parser = Parser("lzn_jax.convert", __doc__)
    parser.add_argument(
        "--config", help="config file, configs/NAME.py; default: config of --released"
    )
    parser.add_argument("--workdir", required=True, help="folder of the run", type=Path)
    files = parser.add_mutually_exclusive_group(required=True)
    files.add_argument("--checkpoint", help="file to convert", metavar="FILE.pt", type=Path)
    names = f"checkpoint to download and convert: {', '.join(hub.FILES)}"
    files.add_argument("--released", help=names, metavar="NAME", choices=hub.FILES)
    parser.add_argument("--raw", action="store_true", help="do not use averaged weights (EMA)")
    parser.add_argument("--context", help="folder of images for the context anchors")
    flags = parser.parse_args(arguments)
    if flags.released is None and flags.config is None:
        raise UserError("name the config of the checkpoint with --config=configs/NAME.py")
    path = flags.config or configuration.shipped(flags.released)
    config = configuration.load(path, flags.overrides)
    logging.basicConfig(format="%(message)s", force=True)
    logging.getLogger("lzn_jax").setLevel(logging.INFO)
    options = {"raw": flags.raw, "context": flags.context}
    if flags.released is not None:
        convert_released(flags.released, config, flags.workdir, **options)
    else:
        convert(config, flags.checkpoint, flags.workdir, **options)
    return EXIT_DONE


if __name__ == "__main__":
    sys.exit(main())
