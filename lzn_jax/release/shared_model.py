"""Upload and download of shared models, as repositories of the Hugging Face Hub."""

import contextlib
import os
import re
import shutil
import tempfile
from collections.abc import Collection, Mapping, Set
from pathlib import Path
from types import UnionType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from lzn_jax import configuration, data, files, schema
from lzn_jax.configuration import CONFIG_FILE, TOKENIZER_FILE
from lzn_jax.data_types import Model
from lzn_jax.errors import UserError, explained
from lzn_jax.evaluation.headline import most_important
from lzn_jax.files import DamagedError
from lzn_jax.latent_space import LatentSpace
from lzn_jax.release import hub
from lzn_jax.run import devices
from lzn_jax.trained_model import TrainedModel

PREFIX = "hub:"  # of the argument of `lzn_jax.load`
WEIGHTS_FILE = "weights.safetensors"
CARD_FILE = "README.md"
SUMMARY_FILE = "summary.json"
SHOWN = 10  # metrics
# Figures of evaluation. Figures of other modes may show samples of the user.
_FIGURES = (
    *("samples", "unconditional_samples", "tasks", "reconstructions", "retrieval", "zones"),
    *("embedding", "classification", "curves"),
)
PICTURES = {f"figures/{name}.png": name.replace("_", " ").capitalize() for name in _FIGURES}
_OWN_FILES = {CONFIG_FILE, WEIGHTS_FILE, files.FILE}  # identifies a shared model
_LOG_IN = "log in with `hf auth login`"


def text(
    model: TrainedModel,
    metrics: Mapping[str, int | float | None],
    files: Collection[str],
    source: str,
    origin: Mapping[str, str],
) -> str:
    """Model card in Markdown, with the `PICTURES` among the `files` beside it.

    `source` is the argument of `lzn_jax.load`. `origin` names repository, revision and file of
    converted weights.
    """
    config, extensions = model.config, tuple(model.config.extensions)
    arguments = f'"{source}"' + (f", extensions={extensions}" if extensions else "")
    checksums = zip(extensions, config.extension_checksums, strict=True)
    needed = ", ".join(f"`{name}` (sha256 {digest[:12]})" for name, digest in checksums)
    pairs = ", ".join(" to ".join(pair) for pair in model.translations)
    pictures = [f"![{title}]({file})" for file, title in PICTURES.items() if file in files]
    shown = {name: metrics[name] for name in most_important(metrics, SHOWN)}
    rows = [
        f"| {name} | {f'{n:.4g}' if isinstance(n, float) else 'not finite' if n is None else n} |"
        for name, n in shown.items()
    ]
    sections = [
        "---\nlibrary_name: lzn_jax\ntags:\n- latent-zoning-network\n- jax\n---",
        f"# Latent Zoning Network on {config.data.name}",
        "[Latent Zoning Network](https://arxiv.org/abs/2509.15591) in JAX after "
        f"{model.step} updates. Data types: {', '.join(model.space.types)}.",
        pairs and f"Translations: {pairs}.",
        origin
        and f"The weights were converted from {origin['file']} of "
        f"https://huggingface.co/{origin['repository']} (MIT licence), revision "
        f"{origin['revision']}.",
        f"## Use\n\n```python\nimport lzn_jax\n\nmodel = lzn_jax.load({arguments})\n```",
        needed and f"Extensions are code and not part of this repository: {needed}.",
        f"## Data\n\nData set: `{config.data.name}`. "
        + (data.licence(config.data) or "Licence: unknown."),
        rows and "\n".join(["## Metrics\n\n| metric | value |\n|---|---|", *rows]),
        rows and f"{len(rows)} of {len(metrics)} metrics in summary.json.",
        pictures and "\n\n".join(["## Pictures", *pictures]),
    ]
    return "\n\n".join(str(section) for section in sections if section) + "\n"


def write(
    folder: Path, workdir: Path, model: TrainedModel, source: str, *, is_half: bool = False
) -> None:
    """Writes a model and the config, metrics and pictures of its run into a folder.

    `is_half` stores weights and context anchors in half precision. Replaces an earlier such folder.
    Paths in the config lose their folders (see `portable`). Raises UserError if the folder contains
    anything else, for a link in place of a file to share, and for a summary.json with anything but
    numbers.
    """
    _check_replaceable(folder)
    values = portable(configuration.stored_values(workdir / CONFIG_FILE))
    metrics = _table(workdir, SUMMARY_FILE, int | float | None)
    origin = _table(workdir, hub.ORIGIN_FILE, str, {"repository", "revision", "file"})
    tokenizer = [] if values.get("data.tokenizer_path") is None else [TOKENIZER_FILE]
    found = {name: _content(workdir, name) for name in [*PICTURES, *tokenizer, SUMMARY_FILE]}
    copied = {name: content for name, content in found.items() if content is not None}
    arrays = files.by_name({**model.model._asdict(), "step": np.int32(model.step)})
    if is_half:
        arrays = {n: a.astype("f2") if a.dtype == np.float32 else a for n, a in arrays.items()}
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as temporary:
        new = Path(temporary) / folder.name
        files.write_json(new / CONFIG_FILE, configuration.nest(values))
        files.write_tensors(new / WEIGHTS_FILE, jax.tree.map(np.asarray, arrays))
        for name, content in copied.items():
            files.write_bytes(new / name, content)
        card = text(model, metrics, copied, source, origin)
        files.write_bytes(new / CARD_FILE, card.encode())
        files.add_files(new, files.files_below(new))
        shutil.rmtree(folder, ignore_errors=True)
        new.rename(folder)


def portable(values: Mapping[str, Any]) -> dict[str, Any]:
    """Config values without folders of this machine. Paths keep their last name, defaults stay."""
    fields = schema.schema_of(values)

    def without_folder(name: str, value: Any) -> Any:
        if isinstance(value, list):
            return [without_folder(name, item) for item in value]
        # An alphabet may start with a slash, but contains no second slash.
        is_path = name.endswith("path") or (str(value).startswith("/") and value.count("/") > 1)
        is_changed = isinstance(value, str) and is_path and value != fields[name].default
        return Path(value).name or value if is_changed else value

    return {name: without_folder(name, value) for name, value in values.items()}


def _check_replaceable(folder: Path) -> None:
    """Raises UserError for a folder with files that `write` does not write."""
    if not os.path.lexists(folder):
        return
    try:
        if folder.is_symlink() or not folder.is_dir():
            raise DamagedError("it is not a folder")
        found = (path for path in folder.rglob("*") if path.is_symlink() or path.is_file())
        names = {path.relative_to(folder).as_posix() for path in found} - {files.FILE}
        files.verify(folder, sorted(names))
    except DamagedError as error:
        raise UserError(
            f"{folder} would be replaced, but {error}: move the folder away to keep your changes"
        ) from error


def _table(
    workdir: Path, name: str, kind: type | UnionType, names: Set[str] = frozenset()
) -> dict[str, Any]:
    """JSON object with values of a `kind`, for at least `names`, or {} without a file."""
    if (content := _content(workdir, name)) is None:
        return {}
    with contextlib.suppress(ValueError):
        table = files.parse_json(content)
        is_table = isinstance(table, dict) and names <= table.keys()
        if is_table and all(isinstance(value, kind) for value in table.values()):
            return table
    raise UserError(
        f"{workdir / name} is not a table of {'texts' if kind is str else 'numbers'}: move it away"
    )


def _content(workdir: Path, name: str) -> bytes | None:
    path = workdir / name
    if os.path.realpath(path) != os.path.join(os.path.realpath(workdir), name):
        raise UserError(f"{path} is a link, which may lead to any file: put the file in its place")
    return path.read_bytes() if path.is_file() else None


def is_shared(folder: Path) -> bool:
    """Whether a folder is a shared model, not the work folder of a run."""
    return (folder / WEIGHTS_FILE).is_file()


def verified(folder: Path) -> Path:
    """The folder of a shared model. Raises UserError if a file differs from its checksum."""
    try:
        tokenizer = {TOKENIZER_FILE} & files.listed(folder).keys()
        files.verify(folder, [CONFIG_FILE, WEIGHTS_FILE, *tokenizer])
    except DamagedError as error:
        raise UserError(f"{folder} is damaged: {error}; download it again") from error
    return folder


def read(config: ConfigDict, folder: Path) -> TrainedModel:
    """The model in a folder of verified files. Weights in half precision become float32.

    Raises UserError for a tensor that does not fit the config.
    """
    mesh = devices.inference_mesh()
    space = LatentSpace(config, mesh)
    shapes = {**space.model_shapes(), "step": jax.ShapeDtypeStruct((), np.int32)}
    path = folder / WEIGHTS_FILE
    found, expected = files.read_tensors(path), files.by_name(shapes)
    whole = {n: a.astype("f4") if a.dtype == np.float16 else a for n, a in found.items()}
    there, wanted = (
        {name: f"{array.dtype} {array.shape}" for name, array in arrays.items()}
        for arrays in (whole, expected)
    )
    for name in [*wanted, *there]:
        if there.get(name) != wanted.get(name):
            problem = f"{there.get(name, 'missing')}, not {wanted.get(name, 'expected')}"
            raise UserError(f"{path} does not fit its {CONFIG_FILE}: {name!r} is {problem}")
    tree = jax.tree.unflatten(jax.tree.structure(shapes), [whole[name] for name in expected])
    shard = config.training.shard_parameters
    places = devices.placed(shapes["variables"], mesh, shard=shard)
    variables = jax.device_put(tree["variables"], jax.tree.map(lambda a: a.sharding, places))
    context = jax.tree.map(jnp.asarray, tree["context"])
    return TrainedModel(space, Model(variables, context), int(tree["step"]))


def check_repository(repository: str) -> None:
    """Raises UserError if a name is not OWNER/NAME, or if the Hub's client is not installed."""
    if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", repository, re.ASCII):
        raise UserError(f"a repository is named OWNER/NAME, got {repository!r}")
    hub.hub_client()


def upload(folder: Path, repository: str, *, private: bool) -> str:
    """Uploads a shared model in place of an earlier model. Returns the repository's address.

    Creates the repository if it does not exist. Raises UserError if it contains other files, if it
    is public despite `private`, and if the upload fails.
    """
    api = hub.hub_client().HfApi()
    failure = f"{folder} cannot be uploaded to {repository}"
    remedy = f"check the name, {_LOG_IN} and a token that may write, and run the command again"
    with explained(failure, remedy):
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
    with explained(failure, remedy):
        api.upload_folder(
            repo_id=repository,
            folder_path=folder,
            commit_message="Share a model with lzn_jax",
            parent_commit=there.sha,
            delete_patterns=[SUMMARY_FILE, TOKENIZER_FILE, *PICTURES],
        )
    return address


def fetch_model(repository: str) -> Path:
    """Folder in the cache of the Hub's client with the verified files that `read` needs.

    Raises UserError if the download fails, and for a damaged file, which is removed from the cache.
    """
    check_repository(repository)
    wanted = [*_OWN_FILES, TOKENIZER_FILE]
    remedy = f"check the name of the model, and if it is private, {_LOG_IN}"
    with explained(f"{repository} has no model that can be fetched", remedy):
        folder = Path(hub.hub_client().snapshot_download(repository, allow_patterns=wanted))
        if not is_shared(folder):
            raise FileNotFoundError(f"it holds no {WEIGHTS_FILE}")
    try:
        return verified(folder)
    except UserError:
        for name in wanted:
            hub.forget(folder / name)
        raise
