"""Shared models: folders with weights, config, metrics, pictures and a model card.

Weights are a safetensors file; all other files are JSON, text or PNG. Reading runs no code.
"""

import json
import logging
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Shaped

from lzn_jax import configuration
from lzn_jax.configuration import CONFIG_FILE, TOKENIZER_FILE, UserError
from lzn_jax.latent_space import LatentSpace, Model
from lzn_jax.release import hub, model_card, safetensors_files
from lzn_jax.run import checksums, reporting, sharding
from lzn_jax.run.checksums import DamagedError
from lzn_jax.trained_model import TrainedModel

WEIGHTS_FILE = "weights.safetensors"
CARD_FILE = "README.md"
SUMMARY_FILE = "summary.json"
PICTURES = "figures/[!.]*.png"

_log = logging.getLogger(__name__)


def tensors(model: TrainedModel) -> dict[str, Shaped[np.ndarray, "..."]]:
    """Averaged variables, context and number of updates of a model by name.

    Names are paths, such as `variables/label_anchors/params/anchors`, `context/anchors` and
    `step`.
    """
    arrays = safetensors_files.by_name({**model.model._asdict(), "step": np.int32(model.step)})
    return {name: np.asarray(array) for name, array in arrays.items()}


def write(folder: Path, workdir: Path, model: TrainedModel, source: str) -> None:
    """Writes a model and the config, metrics and pictures of its run into a folder.

    Replaces an earlier such folder. Paths in the config lose their folders, see `portable`.
    `source` is the argument of `lzn_jax.load` in the model card. Raises UserError if the folder
    holds anything else, and for a summary.json that is not a table of numbers.
    """
    _check_replaceable(folder)
    values, replaced = portable(configuration.stored_values(workdir / CONFIG_FILE))
    if replaced:
        _log.info("%s leaves out the folders of %s", CONFIG_FILE, ", ".join(replaced))
    metrics = _metrics(workdir / SUMMARY_FILE)
    copied = [path.relative_to(workdir) for path in sorted(workdir.glob(PICTURES))]
    pictures = [path.as_posix() for path in copied]
    if values.get("data.tokenizer_path") is not None:
        copied.append(Path(TOKENIZER_FILE))
    origin = _json(workdir / hub.ORIGIN_FILE)
    card = model_card.text(model, metrics, pictures, source, origin)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=workdir) as temporary:
        new = Path(temporary) / folder.name
        reporting.write_json(new / CONFIG_FILE, configuration.nest(values))
        safetensors_files.write(new / WEIGHTS_FILE, tensors(model))
        if metrics:
            reporting.write_json(new / SUMMARY_FILE, metrics)
        for name in copied:
            reporting.write_bytes(new / name, (workdir / name).read_bytes())
        reporting.write_bytes(new / CARD_FILE, card.encode())
        checksums.add_files(new, checksums.files_below(new))
        shutil.rmtree(folder, ignore_errors=True)
        new.rename(folder)


def portable(values: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Config values without folders of this machine, and the names of the changed fields.

    Fields whose names end in `path`, and other absolute paths, keep the last name of the path.
    Defaults stay, as they are the same on every machine.
    """
    fields = configuration.schema_of(values)

    def without_folder(name: str, value: Any) -> Any:
        if isinstance(value, list):
            return [without_folder(name, item) for item in value]
        # An alphabet may start with a slash, but has no second one.
        is_path = name.endswith("path") or (str(value).startswith("/") and value.count("/") > 1)
        if not isinstance(value, str) or not is_path or value == fields[name].default:
            return value
        return Path(value).name or value

    changed = {name: without_folder(name, value) for name, value in values.items()}
    return changed, [name for name in values if changed[name] != values[name]]


def _metrics(path: Path) -> dict[str, int | float | None]:
    """Metrics by name, empty without a file."""
    metrics = _json(path) or {}
    if not isinstance(metrics, dict) or not all(
        isinstance(value, int | float | None) for value in metrics.values()
    ):
        raise UserError(f"{path} is not a table of numbers: run --mode=evaluate to write it again")
    return metrics


def _json(path: Path) -> Any:
    """Content of a JSON file, None without a file."""
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{path} is not JSON: {error}") from error


def needed_files(folder: Path) -> list[str]:
    """Names of the files that `read` needs; raises DamagedError if their list is not one."""
    has_tokenizer = TOKENIZER_FILE in checksums.listed(folder)
    return [CONFIG_FILE, WEIGHTS_FILE, *([TOKENIZER_FILE] if has_tokenizer else [])]


def is_shared(folder: Path) -> bool:
    """Whether a folder is a shared model, not the work folder of a run."""
    return (folder / WEIGHTS_FILE).is_file()


def verified(folder: Path) -> Path:
    """The folder of a shared model; raises UserError if a file differs from its checksum."""
    try:
        checksums.verify(folder, needed_files(folder))
    except DamagedError as error:
        raise UserError(f"{folder} is damaged: {error}; download it again") from error
    return folder


def read(folder: Path, extensions: Sequence[str] = ()) -> TrainedModel:
    """The model in a folder whose files are verified.

    `extensions` are files or modules that register the parts of the model. Raises UserError if a
    part or file is missing, and for the first tensor that does not fit the config.
    """
    config = configuration.load_run(folder, extensions=extensions)
    mesh = sharding.inference_mesh()
    space = LatentSpace(config, mesh)
    shapes = {**space.model_shapes(), "step": jax.ShapeDtypeStruct((), np.int32)}
    path = folder / WEIGHTS_FILE
    found = safetensors_files.read(path)
    try:
        _check_fit(found, safetensors_files.by_name(shapes))
    except ValueError as error:
        raise UserError(f"{path} does not fit its {CONFIG_FILE}: {error}") from error
    arrays = [found[name] for name in safetensors_files.by_name(shapes)]
    tree = jax.tree.unflatten(jax.tree.structure(shapes), arrays)
    shard = config.training.shard_parameters
    places = sharding.placed(shapes["variables"], mesh, shard=shard)
    variables = jax.device_put(tree["variables"], jax.tree.map(lambda a: a.sharding, places))
    context = jax.tree.map(jnp.asarray, tree["context"])
    return TrainedModel(space, Model(variables, context), int(tree["step"]))


def _check_fit(found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    for name, shape in expected.items():
        if name not in found:
            raise ValueError(f"{name} is missing")
        if _described(found[name]) != _described(shape):
            raise ValueError(f"{name} is {_described(found[name])}, not {_described(shape)}")
    if unexpected := sorted(found.keys() - expected.keys()):
        raise ValueError(f"{unexpected[0]!r} is unexpected")


def _described(array: Any) -> str:
    return f"{array.dtype} {tuple(array.shape)}"


def _check_replaceable(folder: Path) -> None:
    """Raises UserError for a folder with files other than those written by `write`."""
    if not folder.exists():
        return
    try:
        checksums.verify(folder, checksums.files_below(folder))
    except DamagedError as error:
        raise UserError(
            f"{folder} would be replaced, but {error}: move the folder away to keep your changes"
        ) from error
