"""Shared models: folders with weights, config, metrics, pictures and a model card.

Weights are a safetensors file; all other files are JSON, text or PNG. Reading runs no code.
"""

import logging
import os
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

_ORIGIN = {"repository", "revision", "file"}  # of converted weights, in the model card
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
    holds anything else, for a link in place of a file to share, and for a summary.json that is not
    a table of numbers.
    """
    _check_replaceable(folder)
    values, replaced = portable(configuration.stored_values(workdir / CONFIG_FILE))
    if replaced:
        _log.info("%s leaves out the folders of %s", CONFIG_FILE, ", ".join(replaced))
    metrics, origin = _metrics(workdir), _origin(workdir)
    tokenizer = [] if values.get("data.tokenizer_path") is None else [TOKENIZER_FILE]
    found = {name: _content(workdir / name, workdir) for name in [*model_card.PICTURES, *tokenizer]}
    copied = {name: content for name, content in found.items() if content is not None}
    card = model_card.text(model, metrics, copied, source, origin)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=workdir) as temporary:
        new = Path(temporary) / folder.name
        reporting.write_json(new / CONFIG_FILE, configuration.nest(values))
        safetensors_files.write(new / WEIGHTS_FILE, tensors(model))
        if metrics:
            reporting.write_json(new / SUMMARY_FILE, metrics)
        for name, content in copied.items():
            reporting.write_bytes(new / name, content)
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


def _metrics(workdir: Path) -> dict[str, int | float | None]:
    """Metrics by name, empty without a file."""
    path = workdir / SUMMARY_FILE
    metrics = _json(path, workdir) or {}
    if not isinstance(metrics, dict) or not all(
        isinstance(value, int | float | None) for value in metrics.values()
    ):
        raise UserError(f"{path} is not a table of numbers: run --mode=evaluate to write it again")
    return metrics


def _origin(workdir: Path) -> dict[str, str] | None:
    """Origin of converted weights, None without a file."""
    path = workdir / hub.ORIGIN_FILE
    origin: dict[str, str] | None = _json(path, workdir)
    if origin is not None and not (isinstance(origin, dict) and origin.keys() >= _ORIGIN):
        raise UserError(f"{path} does not name the origin of weights: convert them again")
    return origin


def _json(path: Path, workdir: Path) -> Any:
    """Value of a JSON file of the work folder, None without a file."""
    content = _content(path, workdir)
    try:
        return None if content is None else configuration.parse_json(content)
    except ValueError as error:
        raise UserError(f"{path} is not JSON: {error}") from error


def _content(path: Path, workdir: Path) -> bytes | None:
    """Content of a file of the work folder, None without a file; raises UserError for a link."""
    if os.path.realpath(path) != os.path.join(os.path.realpath(workdir), path.relative_to(workdir)):
        raise UserError(f"{path} is a link, which may lead to any file: put the file in its place")
    return path.read_bytes() if path.is_file() else None


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
    if not os.path.lexists(folder):
        return
    try:
        if folder.is_symlink() or not folder.is_dir():
            raise DamagedError("it is not a folder")
        found = [path for path in sorted(folder.rglob("*")) if path.is_symlink() or path.is_file()]
        names = [path.relative_to(folder).as_posix() for path in found]
        checksums.verify(folder, [name for name in names if name != checksums.FILE])
    except DamagedError as error:
        raise UserError(
            f"{folder} would be replaced, but {error}: move the folder away to keep your changes"
        ) from error
