"""Upload and download of shared models, as repositories of the Hugging Face Hub."""

import logging
import os
import re
import shutil
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Shaped

from lzn_jax import configuration, data
from lzn_jax.configuration import CONFIG_FILE, TOKENIZER_FILE
from lzn_jax.errors import UserError
from lzn_jax.latent_space import LatentSpace, Model
from lzn_jax.release import hub
from lzn_jax.run import devices, files, log
from lzn_jax.run.files import DamagedError
from lzn_jax.trained_model import TrainedModel

Metrics = Mapping[str, int | float | None]
SHOWN = 10  # metrics
# Figures of evaluation and their captions. Figures of other modes may show samples of the user.
PICTURES = {
    "figures/samples.png": "Samples of the model.",
    "figures/unconditional_samples.png": "Samples from the prior, by decoded class.",
    "figures/tasks.png": "Translations of test examples, and samples from the prior.",
    "figures/reconstructions.png": "Test images and their reconstructions.",
    "figures/retrieval.png": "Test examples and the examples of the other type nearest to them.",
    "figures/zones.png": "Latent zones of the test examples in two dimensions.",
    "figures/embedding.png": "Features of the test images in two dimensions.",
    "figures/classification.png": "Test accuracy by noise, batch size and number of anchors.",
    "figures/curves.png": "Metrics during training.",
}

_HEADER = """\
---
library_name: lzn_jax
tags:
- latent-zoning-network
- jax
---
"""


def text(
    model: TrainedModel,
    metrics: Metrics,
    files: Collection[str],
    source: str,
    origin: Mapping[str, str] | None = None,
) -> str:
    """Model card in Markdown: use, data and licence, metrics, pictures.

    Args:
      model: the model.
      metrics: numbers of summary.json by name.
      files: files beside the card; it shows the `PICTURES` among them.
      source: argument of `lzn_jax.load`.
      origin: repository, revision and file of weights that were converted.
    """
    sections = [*_introduction(model, origin), *_use(model, source), *_data(model)]
    if metrics:
        names = log.most_important(metrics, SHOWN)
        rows = [f"| {name} | {_shown(metrics[name])} |" for name in names]
        table = "\n".join(["| metric | value |", "|---|---|", *rows])
        sections += [
            "## Metrics",
            table,
            f"{len(names)} of {len(metrics)} metrics in summary.json.",
        ]
    if pictures := [path for path in PICTURES if path in files]:
        shown = (f"{PICTURES[path]}\n\n![{PICTURES[path]}]({path})" for path in pictures)
        sections += ["## Pictures", *shown]
    return "\n\n".join([_HEADER.rstrip(), *sections]) + "\n"


def _introduction(model: TrainedModel, origin: Mapping[str, str] | None) -> Iterator[str]:
    yield f"# Latent Zoning Network on {model.config.data.name}"
    types = ", ".join(model.space.types)
    paper = "[Latent Zoning Network](https://arxiv.org/abs/2509.15591)"
    yield f"{paper} in JAX after {model.step} updates. Data types: {types}."
    if model.translations:
        pairs = ", ".join(" to ".join(pair) for pair in model.translations)
        yield f"Translations: {pairs}."
    if origin is not None:
        yield (
            f"The weights were converted from {origin['file']} of "
            f"https://huggingface.co/{origin['repository']} (MIT licence), revision "
            f"{origin['revision']}."
        )


def _use(model: TrainedModel, source: str) -> Iterator[str]:
    extensions = tuple(model.config.extensions)
    arguments = f'"{source}"' + (f", extensions={extensions}" if extensions else "")
    yield "## Use"
    yield f"```python\nimport lzn_jax\n\nmodel = lzn_jax.load({arguments})\n```"
    if extensions:
        checksums = zip(extensions, model.config.extension_checksums, strict=True)
        named = ", ".join(f"`{name}` (sha256 {digest[:12]})" for name, digest in checksums)
        yield f"Extensions are code and not part of this repository: {named}."


def _data(model: TrainedModel) -> Iterator[str]:
    yield "## Data"
    licence = data.licence(model.config.data) or "Licence: unknown."
    yield f"Data set: `{model.config.data.name}`. {licence}"


def _shown(value: int | float | None) -> str:
    if value is None:
        return "not finite"
    return str(value) if isinstance(value, int) else f"{value:.4g}"


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
    arrays = files.by_name({**model.model._asdict(), "step": np.int32(model.step)})
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
    found = {name: _content(workdir / name, workdir) for name in [*PICTURES, *tokenizer]}
    copied = {name: content for name, content in found.items() if content is not None}
    card = text(model, metrics, copied, source, origin)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=workdir) as temporary:
        new = Path(temporary) / folder.name
        files.write_json(new / CONFIG_FILE, configuration.nest(values))
        files.write_tensors(new / WEIGHTS_FILE, tensors(model))
        if metrics:
            files.write_json(new / SUMMARY_FILE, metrics)
        for name, content in copied.items():
            files.write_bytes(new / name, content)
        files.write_bytes(new / CARD_FILE, card.encode())
        files.add_files(new, files.files_below(new))
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
    has_tokenizer = TOKENIZER_FILE in files.listed(folder)
    return [CONFIG_FILE, WEIGHTS_FILE, *([TOKENIZER_FILE] if has_tokenizer else [])]


def is_shared(folder: Path) -> bool:
    """Whether a folder is a shared model, not the work folder of a run."""
    return (folder / WEIGHTS_FILE).is_file()


def verified(folder: Path) -> Path:
    """The folder of a shared model; raises UserError if a file differs from its checksum."""
    try:
        files.verify(folder, needed_files(folder))
    except DamagedError as error:
        raise UserError(f"{folder} is damaged: {error}; download it again") from error
    return folder


def read(folder: Path, extensions: Sequence[str] = ()) -> TrainedModel:
    """The model in a folder whose files are verified.

    `extensions` are files or modules that register the parts of the model. Raises UserError if a
    part or file is missing, and for the first tensor that does not fit the config.
    """
    config = configuration.load_run(folder, extensions=extensions)
    mesh = devices.inference_mesh()
    space = LatentSpace(config, mesh)
    shapes = {**space.model_shapes(), "step": jax.ShapeDtypeStruct((), np.int32)}
    path = folder / WEIGHTS_FILE
    found = files.read_tensors(path)
    try:
        _check_fit(found, files.by_name(shapes))
    except ValueError as error:
        raise UserError(f"{path} does not fit its {CONFIG_FILE}: {error}") from error
    arrays = [found[name] for name in files.by_name(shapes)]
    tree = jax.tree.unflatten(jax.tree.structure(shapes), arrays)
    shard = config.training.shard_parameters
    places = devices.placed(shapes["variables"], mesh, shard=shard)
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
        files.verify(folder, [name for name in names if name != files.FILE])
    except DamagedError as error:
        raise UserError(
            f"{folder} would be replaced, but {error}: move the folder away to keep your changes"
        ) from error


PREFIX = "hub:"  # of the argument of `lzn_jax.load`
_OWN_FILES = {CONFIG_FILE, WEIGHTS_FILE, files.FILE}  # by which a shared model is recognised
_OPTIONAL_FILES = (SUMMARY_FILE, TOKENIZER_FILE, "figures/[!.]*.png")  # patterns
_LOG_IN = "log in with `hf auth login`"


def check_repository(repository: str) -> None:
    """Raises UserError if a name is not OWNER/NAME, or if the Hub's client is not installed."""
    if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", repository, re.ASCII):
        raise UserError(f"a repository is named OWNER/NAME, got {repository!r}")
    hub.hub_client()


def upload(folder: Path, repository: str, *, private: bool) -> str:
    """Uploads a shared model in one commit; returns the address of the repository.

    Creates the repository if there is none; an existing one loses pictures, metrics and tokenizer
    of an earlier model. Raises UserError if the repository holds files of anything else, if it is
    public despite `private`, and if the upload fails.
    """
    client = hub.hub_client()
    failure = f"{folder} cannot be uploaded to {repository}"
    remedy = f"check the name, {_LOG_IN} and a token that may write, and run the command again"
    with hub.explained(failure, remedy):
        api = client.HfApi()
        address = str(api.create_repo(repository, private=private or None, exist_ok=True))
        there = api.model_info(repository)
    names = {file.rfilename for file in there.siblings or ()} - {".gitattributes"}
    if names and not names >= _OWN_FILES:
        raise UserError(
            f"{repository} holds other files than a shared model, such as {min(names)!r}: choose "
            "another --repo"
        )
    if private and not there.private:
        raise UserError(
            f"{repository} is public: make it private in its settings, or leave out --private"
        )
    sent = [*files.files_below(folder), files.FILE]
    stale = sorted(name for name in names.difference(sent) if _is_optional(name))
    operations = [client.CommitOperationAdd(name, str(folder / name)) for name in sent]
    operations += [client.CommitOperationDelete(name) for name in stale]
    with hub.explained(failure, remedy):
        message = "Share a model with lzn_jax"
        api.create_commit(repository, operations, commit_message=message, parent_commit=there.sha)
    return address


def _is_optional(name: str) -> bool:
    # Only an absolute pattern matches whole paths.
    return any(PurePosixPath(f"/{name}").match(f"/{pattern}") for pattern in _OPTIONAL_FILES)


def fetch_model(repository: str) -> Path:
    """Folder of a shared model in the cache of the Hub's client, verified by its checksums.

    Downloads only the files that `shared_model.read` needs. Raises UserError if the download fails,
    and for a damaged file; the files are then removed from the cache.
    """
    check_repository(repository)
    download = hub.hub_client().hf_hub_download
    remedy = (
        "check the name of the model, which `python -m lzn_jax.share` uploads, and if it is "
        f"private, {_LOG_IN}"
    )
    with hub.explained(f"{repository} has no model that can be fetched", remedy):
        folder = Path(download(repository, files.FILE)).parent
    names = [files.FILE]
    try:
        names += needed_files(folder)
        with hub.explained(f"the model of {repository} cannot be fetched", "load it again"):
            for name in names:
                download(repository, name, revision=folder.name)
        files.verify(folder, names[1:])
    except DamagedError as error:
        for name in names:
            hub.forget(folder / name)
        raise UserError(
            f"{repository} is damaged: {error}; it was removed from the cache: load it again"
        ) from error
    return folder
