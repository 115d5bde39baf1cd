"""Checkpoints of the paper's release (PyTorch) to ours, without PyTorch.

    python -m lzn_jax.convert --config=configs/NAME.py --workdir=DIR --checkpoint=FILE.pt [--raw]
        [--context=FOLDER]
    python -m lzn_jax.convert --released=NAME --workdir=DIR [--raw] [--context=FOLDER]

DIR becomes the folder of a run at the checkpoint's iteration: every mode works
on it, and training goes on from there with a fresh Adam. Averaged weights (EMA) are what modes
use; --raw puts the others in their place. Context anchors, which a release does not have, are
made from images of FOLDER, or of the config's training set where it can be read. --released
fetches the paper's checkpoint of configs/NAME.py from the Hugging Face Hub.
"""

import argparse
import functools
import hashlib
import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from ml_collections import ConfigDict, FrozenConfigDict

from lzn_jax import configuration, data, models, optimization, train_state
from lzn_jax.configuration import EXIT_DONE, UserError
from lzn_jax.data import Examples, from_images
from lzn_jax.latent_space import LatentSpace
from lzn_jax.models import Variables, split_variables
from lzn_jax.release import hub
from lzn_jax.release import weights as released
from lzn_jax.release.torch_keys import shapes_in_execution_order, torch_keys
from lzn_jax.release.weights import Layout, Released
from lzn_jax.run import reporting, sharding
from lzn_jax.run import workdir as workdirs
from lzn_jax.run.checkpoints import Checkpoints
from lzn_jax.run.command_line import Parser, exit_code

REPORT_IMAGES = 2
ORIGIN_FILE = "released.json"  # in a run's folder: which of the released checkpoints it was

_log = logging.getLogger("lzn_jax.convert")  # also where this module is __main__


def load_released(path: str | Path, config: ConfigDict, ema: bool = True) -> Variables:
    """Variables of a released checkpoint's networks by name, averaged (EMA) or as trained.

    'encoder', 'decoder' and 'label_anchors', as far as the checkpoint and the config's study have
    them, float32. Raises UserError for a file that cannot be read, a key left over on either side
    or a shape that differs, and names it.
    """
    found = released.read(path, network_layouts(config), ema=ema)
    return jax.tree.map(jnp.asarray, found.averaged)


def convert(
    config: ConfigDict,
    checkpoint: str | Path,
    workdir: Path,
    *,
    raw: bool = False,
    context: str | None = None,
) -> ConfigDict:
    """Makes `workdir` the folder of a run that holds a released checkpoint, and reports on it.

    `context` is a folder with images for the context anchors; None: the training images. Returns
    the run's config: without context anchors if these cannot be read. Raises UserError where
    `load_released` does, where a network is missing, for a folder that holds checkpoints, and for
    a context of too few images.
    """
    _check_empty(workdir)
    layouts = network_layouts(config)
    found = released.read(checkpoint, layouts, ema=not raw)
    if lacking := [name for name in layouts if name not in found.raw]:
        raise UserError(f"{checkpoint} has no {lacking[0]}, which the config's study needs")
    config, images = _context_images(config, context)
    workdirs.prepare(config, workdir, is_training=True)
    workdirs.record(config, workdir)
    _save(config, found, images, workdir)
    _report(config, found, layouts)
    return config


def convert_released(name: str, config: ConfigDict, workdir: Path, **options: Any) -> ConfigDict:
    """`convert` of the released checkpoint of that name, fetched; released.json says what it was.

    Raises UserError where `convert` does, and for a checkpoint that cannot be had whole.
    """
    _check_empty(workdir)
    fetched = hub.fetch(name)
    config = convert(config, fetched.path, workdir, **options)
    reporting.write_json(workdir / ORIGIN_FILE, fetched.origin)
    return config


def released_run(name: str) -> Path:
    """The folder of a released checkpoint as a run, made in the cache when it is first asked for.

    Raises UserError where `convert_released` does.
    """
    hub.check_name(name)
    workdir = reporting.cache_folder() / "released" / name
    if not workdirs.has_checkpoint(workdir):
        config = configuration.load(configuration.shipped(name), (), from_images.resolved)
        convert_released(name, config, workdir)
    return workdir


def _check_empty(workdir: Path) -> None:
    if workdirs.has_checkpoint(workdir):
        raise UserError(f"{workdir} holds checkpoints already: choose another --workdir")


def network_layouts(config: ConfigDict) -> dict[str, Layout]:
    """Keys and shapes of the config's networks, in the release's order.

    Raises UserError for a network that the release cannot hold.
    """
    modules, inputs = models.build(config), example_inputs(config)
    layouts = {}
    for name in (name for name in released.ENTRIES if name in modules):
        init = functools.partial(_call, modules[name].init, inputs[name])
        shapes = shapes_in_execution_order(init)
        try:
            layouts[name] = Layout(torch_keys(modules[name], shapes), shapes)
        except ValueError as error:
            raise UserError(f"{name} cannot be converted: {error}") from error
    return layouts


def _call(function: Any, inputs: tuple[Any, ...], first: Any) -> Any:
    """`function` of a network: all but the label anchors, which have no inputs, have a mode."""
    return function(first, *inputs, **({"train": False} if inputs else {}))


def example_inputs(config: ConfigDict) -> dict[str, tuple[Any, ...]]:
    """Seeded inputs of the networks that a study can have, easy to make in PyTorch as well.

    Images (2, c, h, w), turned to (2, h, w, c), then latents (2, q), if there are any, are the
    first draws of NumPy's default_rng(0).standard_normal, as float32; times are 0.25 and 0.75;
    labels, in the joint space, are the classes 0 and 1.
    """
    data, latent, rng = config.data, config.latent, np.random.default_rng(0)
    shape = (REPORT_IMAGES, data.channels, data.image_size, data.image_size)
    images = rng.standard_normal(shape).astype(np.float32).transpose(0, 2, 3, 1)
    latents = labels = None
    if models.has_latents(config):
        latents = rng.standard_normal((REPORT_IMAGES, latent.dim)).astype(np.float32)
    if len(config.types) > 1:
        labels = np.eye(REPORT_IMAGES, data.num_classes, dtype=np.float32)
    times = np.linspace(0.25, 0.75, REPORT_IMAGES, dtype=np.float32)
    inputs = {
        "encoder": (images,),
        "decoder": (images, times, latents, labels),
        "label_anchors": (),
    }
    return jax.tree.map(jnp.asarray, inputs)


def _context_images(config: ConfigDict, folder: str | None) -> tuple[ConfigDict, Any]:
    """The config and the images of its context anchors, or one without any if none can be read."""
    if not models.has_latents(config) or config.latent.context_size == 0:
        if folder is not None:
            raise UserError(
                "--context needs latents and context anchors: say how many with "
                "--config.latent.context_size"
            )
        return config, ()
    if folder is not None:
        images = data.find_images(folder, config.data)
        data.check_context(config, len(images), f"the images in {folder}")
        return config, images
    try:
        images = data.load(config.data, "train").images
    except UserError as error:
        _log.warning(
            "no context anchors, as there are no training images (%s): evaluate, reconstruct, "
            "interpolate, classify and embed find latents among the images they are given, so that "
            "results for an image depend on the others; name a folder of images with --context, or "
            "add --config.latent.context_size=0 to every command on this work folder",
            error,
        )
        values = config.to_dict()
        values["latent"]["context_size"] = 0
        return FrozenConfigDict(values), ()
    data.check_context(config, len(images), f"the training images of {config.data.name}")
    return config, images


def _save(config: ConfigDict, found: Released, context: Any, workdir: Path) -> None:
    """An ordinary checkpoint, as of a run that was trained here but for Adam's state."""
    space = LatentSpace(config, sharding.inference_mesh())
    params, constants = split_variables(found.raw)
    averaged, _ = split_variables(found.averaged)
    optimizer = optimization.make_optimizer(config.training, list(space.modules))
    none = np.zeros((), np.int32)
    state = train_state.TrainState(
        step=np.array(found.iteration, np.int32),
        params=params,
        constants=constants,
        ema=averaged,
        # Adam starts at zeros; these take no memory until they are written.
        optimizer=jax.tree.map(
            lambda a: np.zeros(a.shape, a.dtype), jax.eval_shape(optimizer.init, params)
        ),
        skipped=none,
        skipped_in_a_row=none,
    )
    state = jax.tree.map(lambda a: a.view(_Constant), state)
    with Checkpoints(workdir, config.checkpoint.keep) as checkpoints:
        no_labels = np.zeros(len(context), np.int32)  # which context anchors do not need
        train_state.save_state(checkpoints, state, space, Examples(context, no_labels))


class _Constant(np.ndarray):
    """An array that nobody changes, which spares the copy that Orbax makes before it writes."""

    def __deepcopy__(self, memo: dict[int, Any] | None) -> "_Constant":
        return self


def _report(config: ConfigDict, found: Released, layouts: Mapping[str, Layout]) -> None:
    """Logs what the same weights in PyTorch must give, too.

    sha256 is of the trained weights' bytes, one after another as they are in the file. Outputs
    are of `example_inputs`, in float32.
    """
    inputs = example_inputs(config)
    _log.info("iteration %d", found.iteration)
    modules = models.build(config)
    for name, layout in layouts.items():
        apply = _float32_apply(modules[name])
        for kind, variables in (("raw", found.raw), ("averaged", found.averaged)):
            weights = list(released.trained_weights(variables[name], layout).values())
            output = np.asarray(_call(apply, inputs[name], variables[name]))
            _log.info(
                "%s %s: %d tensors, %d parameters, sha256 %s, output mean %.6g, deviation %.6g",
                name,
                kind,
                len(weights),
                sum(value.size for value in weights),
                _sha256(weights),
                output.mean(),
                output.std(),
            )


def _float32_apply(module: nn.Module) -> Any:
    if hasattr(module, "dtype"):
        module = module.clone(dtype=np.dtype(np.float32))
    # Runs twice: compiling costs more than running.
    fast_compile = {"xla_backend_optimization_level": 0}
    return jax.jit(module.apply, static_argnames="train", compiler_options=fast_compile)


def _sha256(arrays: list[np.ndarray]) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def main(arguments: list[str] | None = None) -> int:
    """Runs one command; returns its exit code (2: the user's input)."""
    return exit_code(_run, arguments)


def _run(arguments: list[str]) -> int:
    prefix = "--config."
    overrides = [a.removeprefix(prefix) for a in arguments if a.startswith(prefix)]
    parser = Parser(prog="python -m lzn_jax.convert", description=__doc__, allow_abbrev=False)
    parser.add_argument("--config", help="config file, configs/NAME.py; default that of --released")
    parser.add_argument("--workdir", required=True, help="folder of the run", type=Path)
    parser.add_argument("--checkpoint", help="released checkpoint to convert", type=Path)
    parser.add_argument("--released", help=f"one to fetch and convert: {', '.join(hub.FILES)}")
    parser.add_argument("--raw", action="store_true", help="take no averaged weights (EMA)")
    parser.add_argument("--context", help="folder of images for the context anchors")
    flags = parser.parse_args([a for a in arguments if not a.startswith(prefix)])
    _check(flags)
    path = flags.config or configuration.shipped(flags.released)
    config = configuration.load(path, overrides, from_images.resolved)
    logging.basicConfig(format="%(message)s", force=True)
    logging.getLogger("lzn_jax").setLevel(logging.INFO)
    options = {"raw": flags.raw, "context": flags.context}
    if flags.released is not None:
        convert_released(flags.released, config, flags.workdir, **options)
    else:
        convert(config, flags.checkpoint, flags.workdir, **options)
    return EXIT_DONE


def _check(flags: argparse.Namespace) -> None:
    reads = [each for each in (flags.checkpoint, flags.released) if each is not None]
    if len(reads) == 2:
        raise UserError("--checkpoint=FILE.pt and --released=NAME do not go together")
    if not reads:
        raise UserError("name a file with --checkpoint=FILE.pt or --released=NAME")
    if flags.released is not None:
        hub.check_name(flags.released)
    elif flags.config is None:
        raise UserError("name the config of the checkpoint with --config=configs/NAME.py")


if __name__ == "__main__":
    sys.exit(main())
