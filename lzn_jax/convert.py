"""Converts checkpoints of the paper's PyTorch release, without PyTorch.

    python -m lzn_jax.convert --config=configs/NAME.py --workdir=DIR --checkpoint=FILE.pt [--raw]
        [--context=FOLDER]
    python -m lzn_jax.convert --released=NAME --workdir=DIR [--raw] [--context=FOLDER]

DIR becomes the folder of a run at the checkpoint's iteration: every mode works on it, and training
resumes from there with a new Adam state. Modes use the averaged weights (EMA); --raw replaces them
by the trained ones. Context anchors, which the release lacks, are computed from images of FOLDER,
or of the config's training set if it can be read. --released downloads the paper's checkpoint of
configs/NAME.py from the Hugging Face Hub.
"""

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

from lzn_jax import configuration, models, train
from lzn_jax.data import Examples, check_context, load
from lzn_jax.data.folder import find_images, resolved
from lzn_jax.errors import EXIT_DONE, UserError
from lzn_jax.latent_space import LatentSpace
from lzn_jax.models import Variables, split_variables
from lzn_jax.release import hub
from lzn_jax.release import weights as released
from lzn_jax.release.torch_keys import shapes_in_execution_order, torch_keys
from lzn_jax.release.weights import Layout, Released
from lzn_jax.run import devices
from lzn_jax.run import workdir as workdirs
from lzn_jax.run.checkpoints import Checkpoints
from lzn_jax.run.command_line import Parser, exit_code
from lzn_jax.run.files import cache_folder, write_json

REPORT_IMAGES = 2

_log = logging.getLogger("lzn_jax.convert")  # the name differs if this is __main__


def load_released(path: str | Path, config: ConfigDict, ema: bool = True) -> Variables:
    """Variables of a released checkpoint's networks by name, averaged (EMA) or as trained.

    The names are 'encoder', 'decoder' and 'label_anchors', if checkpoint and config have them;
    values are float32. Raises UserError if the file cannot be read, and for a missing or unexpected
    key or a wrong shape.
    """
    checkpoint = released.read(path, network_layouts(config), ema=ema)
    return jax.tree.map(jnp.asarray, checkpoint.averaged)


def convert(
    config: ConfigDict,
    checkpoint: str | Path,
    workdir: Path,
    *,
    raw: bool = False,
    context: str | None = None,
) -> ConfigDict:
    """Creates a run in `workdir` from a released checkpoint, and logs a report.

    Context anchors are computed from the images in the folder `context`, by default from the
    training images. Returns the run's config, without context anchors if there are no images.
    Raises UserError as `load_released`, and if a network is missing, if `workdir` has checkpoints,
    or if the images are fewer than the context anchors.
    """
    _check_empty(workdir)
    layouts = network_layouts(config)
    weights = released.read(checkpoint, layouts, ema=not raw)
    if missing := [name for name in layouts if name not in weights.raw]:
        raise UserError(f"{checkpoint} has no {missing[0]}, which the config's study needs")
    config, images = _context_images(config, context)
    workdirs.prepare(config, workdir, is_training=True)
    workdirs.record(config, workdir)
    _save(config, weights, images, workdir)
    _report(config, weights, layouts)
    return config


def convert_released(name: str, config: ConfigDict, workdir: Path, **options: Any) -> ConfigDict:
    """Downloads and converts the released checkpoint `name`; writes its origin to released.json.

    Raises UserError as `convert` does, and if the download fails.
    """
    _check_empty(workdir)
    fetched = hub.fetch(name)
    config = convert(config, fetched.path, workdir, **options)
    write_json(workdir / hub.ORIGIN_FILE, fetched.origin)
    return config


def released_run(name: str) -> Path:
    """Folder of the run of a released checkpoint, created in the cache by the first call.

    Raises UserError as `convert_released` does.
    """
    hub.check_name(name)
    workdir = cache_folder() / "released" / name
    if not workdirs.has_checkpoint(workdir):
        config = configuration.load(configuration.shipped(name), (), resolved)
        convert_released(name, config, workdir)
    return workdir


def _check_empty(workdir: Path) -> None:
    if workdirs.has_checkpoint(workdir):
        raise UserError(f"{workdir} already has checkpoints: choose another --workdir")


def network_layouts(config: ConfigDict) -> dict[str, Layout]:
    """Keys and shapes of the config's networks, in the release's order.

    Raises UserError for a network that the release does not have.
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
    """Calls a network; only label anchors, which have no inputs, lack the argument `train`."""
    return function(first, *inputs, **({"train": False} if inputs else {}))


def example_inputs(config: ConfigDict) -> dict[str, tuple[Any, ...]]:
    """Seeded inputs of each network, easy to reproduce for PyTorch.

    Images (2, c, h, w), transposed to (2, h, w, c), and latents (2, q), if the config has any, are
    the first draws of NumPy's default_rng(0).standard_normal, as float32. Times are 0.25 and 0.75.
    Labels, in the joint space, are the classes 0 and 1, one-hot.
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
    """Config and images of the context anchors; a config without them if there are no images."""
    if not models.has_latents(config) or config.latent.context_size == 0:
        if folder is not None:
            raise UserError(
                "--context needs latents and context anchors: set their number with "
                "--config.latent.context_size"
            )
        return config, ()
    if folder is not None:
        images = find_images(folder, config.data)
        check_context(config, len(images), f"the images in {folder}")
        return config, images
    try:
        images = load(config.data, "train").images
    except UserError as error:
        _log.warning(
            "no context anchors, as there are no training images (%s): evaluate, reconstruct, "
            "interpolate, classify and embed compute zones from their input images, so that "
            "results for an image depend on the others; give a folder of images with --context, or "
            "add --config.latent.context_size=0 to every command on this work folder",
            error,
        )
        values = config.to_dict()
        values["latent"]["context_size"] = 0
        return FrozenConfigDict(values), ()
    check_context(config, len(images), f"the training images of {config.data.name}")
    return config, images


def _save(config: ConfigDict, weights: Released, context: Any, workdir: Path) -> None:
    """Saves a checkpoint as training does, with Adam's initial state."""
    space = LatentSpace(config, devices.inference_mesh())
    params, constants = split_variables(weights.raw)
    averaged, _ = split_variables(weights.averaged)
    optimizer = train.make_optimizer(config.training, list(space.modules))
    zero = np.zeros((), np.int32)
    state = train.TrainState(
        step=np.array(weights.iteration, np.int32),
        params=params,
        constants=constants,
        ema=averaged,
        # Adam starts at zeros, which take no memory until they are written.
        optimizer=jax.tree.map(
            lambda a: np.zeros(a.shape, a.dtype), jax.eval_shape(optimizer.init, params)
        ),
        skipped=zero,
        skipped_in_a_row=zero,
    )
    state = jax.tree.map(lambda a: a.view(_Uncopied), state)
    with Checkpoints(workdir, config.checkpoint.keep) as checkpoints:
        no_labels = np.zeros(len(context), np.int32)  # context anchors need no labels
        train.save_state(checkpoints, state, space, Examples(context, no_labels))


class _Uncopied(np.ndarray):
    """An array that Orbax does not copy before it writes; it must not be modified."""

    def __deepcopy__(self, memo: dict[int, Any] | None) -> "_Uncopied":
        return self


def _report(config: ConfigDict, weights: Released, layouts: Mapping[str, Layout]) -> None:
    """Logs values to compare with the same weights in PyTorch.

    sha256 is over the bytes of the trained weights, concatenated in the file's order. Outputs are
    for `example_inputs`, in float32.
    """
    inputs = example_inputs(config)
    _log.info("iteration %d", weights.iteration)
    modules = models.build(config)
    for name, layout in layouts.items():
        apply = _float32_apply(modules[name])
        for kind, variables in (("raw", weights.raw), ("averaged", weights.averaged)):
            arrays = list(released.trained_weights(variables[name], layout).values())
            output = np.asarray(_call(apply, inputs[name], variables[name]))
            _log.info(
                "%s %s: %d tensors, %d parameters, sha256 %s, output mean %.6g, deviation %.6g",
                name,
                kind,
                len(arrays),
                sum(array.size for array in arrays),
                _sha256(arrays),
                output.mean(),
                output.std(),
            )


def _float32_apply(module: nn.Module) -> Any:
    if hasattr(module, "dtype"):
        module = module.clone(dtype=np.dtype(np.float32))
    # It runs only twice, so compilation takes longer than execution.
    fast_compile = {"xla_backend_optimization_level": 0}
    return jax.jit(module.apply, static_argnames="train", compiler_options=fast_compile)


def _sha256(arrays: list[np.ndarray]) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def main(arguments: list[str] | None = None) -> int:
    """Runs one command; returns its exit code, 2 for wrong input."""
    return exit_code(_run, arguments)


def _run(arguments: list[str]) -> int:
    prefix = "--config."
    overrides = [a.removeprefix(prefix) for a in arguments if a.startswith(prefix)]
    parser = Parser(prog="python -m lzn_jax.convert", description=__doc__, allow_abbrev=False)
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
    flags = parser.parse_args([a for a in arguments if not a.startswith(prefix)])
    if flags.released is None and flags.config is None:
        raise UserError("name the config of the checkpoint with --config=configs/NAME.py")
    path = flags.config or configuration.shipped(flags.released)
    config = configuration.load(path, overrides, resolved)
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
