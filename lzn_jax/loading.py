"""Loads trained runs and shared models: `lzn_jax.load(path)`."""

from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from lzn_jax import configuration
from lzn_jax.data_types import Model
from lzn_jax.errors import UserError
from lzn_jax.latent_space import LatentSpace
from lzn_jax.models import Tree, join_variables, split_variables
from lzn_jax.release import shared_model
from lzn_jax.run import devices
from lzn_jax.run.checkpoints import Checkpoints
from lzn_jax.run.command_line import use_compile_cache
from lzn_jax.run.workdir import has_checkpoint
from lzn_jax.trained_model import TrainedModel

MANIFEST = "manifest.json"  # describes the programs of an export
SHIPPED = Path(__file__).parent / "shipped"  # shared models in the package, by name


def load(path: str | Path, extensions: Sequence[str] = ()) -> TrainedModel:
    """Loads a trained run at its newest intact checkpoint, or at a given one, or a shared model.

    Args:
      path: folder of a run, one of its `checkpoints/STEP`, or folder of a shared model;
        "digits_text" for the model in this package; "hub:OWNER/NAME" for a model on the Hugging
        Face Hub; "released/NAME" for the paper's checkpoint of configs/NAME.py. The last two are
        downloaded on first use.
      extensions: files or modules that register the parts of the run.

    Raises UserError if there is no readable run or model.
    """
    use_compile_cache()
    path = find(path)
    if path.parent == Path("released") and not path.is_dir():
        from lzn_jax import convert  # here, since it imports all of training

        path = convert.released_run(path.name)
    step = None
    if path.parent.name == "checkpoints" and path.name.isdigit():
        path, step = path.parent.parent, int(path.name)
    return restore(configuration.load_run(path, extensions=extensions), path, step)


def find(path: str | Path) -> Path:
    """Folder of a run or of a verified shared model, which is downloaded from the Hub if needed.

    The name of a model in the package stands for it, unless the current folder contains a folder
    of that name. Raises UserError for an export, and for a shared model that is damaged or cannot
    be downloaded.
    """
    if str(path).startswith(shared_model.PREFIX):
        return shared_model.fetch_model(str(path).removeprefix(shared_model.PREFIX))
    path = Path(path)
    if (path / MANIFEST).is_file():
        raise UserError(f"{path} has the programs of an export: load its run, {path.parent}")
    if path.parent == Path() and not path.is_dir() and (SHIPPED / path).is_dir():
        path = SHIPPED / path
    return shared_model.verified(path) if shared_model.is_shared(path) else path


def restore(config: ConfigDict, workdir: Path, step: int | None = None) -> TrainedModel:
    """Restores a run from its work folder, at its newest intact checkpoint or at `step`.

    Reads only the averaged weights and the context anchors. The folder may also contain a shared
    model. Raises UserError if there is no readable checkpoint.
    """
    if shared_model.is_shared(workdir):
        return shared_model.read(config, workdir)
    folder = workdir / "checkpoints"
    if not has_checkpoint(workdir) or (step is not None and not (folder / str(step)).is_dir()):
        raise UserError(f"there is no checkpoint {folder / str(step or '')}: train first")
    mesh = devices.inference_mesh()
    space = LatentSpace(config, mesh)
    shapes = space.model_shapes()
    params, constants = split_variables(shapes["variables"])
    targets: dict[str, Tree] = {"ema": {"params": params, "constants": constants}}
    if shapes["context"]:
        targets["context"] = shapes["context"]
    placed = devices.placed(targets, mesh, shard=config.training.shard_parameters)
    with Checkpoints(workdir) as checkpoints:
        restored = checkpoints.restore(placed, step)
    if restored is None:
        raise UserError(f"there is no finished checkpoint in {folder}: train first")
    step, items = restored
    averaged = join_variables(items["ema"]["params"], items["ema"]["constants"])
    context = jax.tree.map(jnp.asarray, devices.fetch(items.get("context", {})))
    return TrainedModel(space, Model(averaged, context), step)
