"""Upload and download of shared models, as repositories of the Hugging Face Hub."""

import re
from pathlib import Path, PurePosixPath

from lzn_jax.configuration import CONFIG_FILE, TOKENIZER_FILE, UserError
from lzn_jax.release import hub, shared_model
from lzn_jax.release.shared_model import SUMMARY_FILE, WEIGHTS_FILE
from lzn_jax.run import checksums
from lzn_jax.run.checksums import DamagedError

PREFIX = "hub:"  # of the argument of `lzn_jax.load`
_OWN_FILES = {CONFIG_FILE, WEIGHTS_FILE, checksums.FILE}  # by which a shared model is recognised
_OPTIONAL_FILES = (SUMMARY_FILE, TOKENIZER_FILE, "figures/[!.]*.png")  # patterns
_LOG_IN = "log in with `hf auth login`"


def check_name(repository: str) -> None:
    """Raises UserError if a name is not OWNER/NAME, or if the Hub's client is not installed."""
    if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", repository, re.ASCII):
        raise UserError(f"a repository is named OWNER/NAME, got {repository!r}")
    hub.client()


def upload(folder: Path, repository: str, *, private: bool) -> str:
    """Uploads a shared model in one commit; returns the address of the repository.

    Creates the repository if there is none; an existing one loses pictures, metrics and tokenizer
    of an earlier model. Raises UserError if the repository holds files of anything else, if it is
    public despite `private`, and if the upload fails.
    """
    client = hub.client()
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
    sent = [*checksums.files_below(folder), checksums.FILE]
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


def fetch(repository: str) -> Path:
    """Folder of a shared model in the cache of the Hub's client, verified by its checksums.

    Downloads only the files that `shared_model.read` needs. Raises UserError if the download fails,
    and for a damaged file; the files are then removed from the cache.
    """
    check_name(repository)
    download = hub.client().hf_hub_download
    remedy = (
        "check the name of the model, which `python -m lzn_jax.share` uploads, and if it is "
        f"private, {_LOG_IN}"
    )
    with hub.explained(f"{repository} has no model that can be fetched", remedy):
        folder = Path(download(repository, checksums.FILE)).parent
    names = [checksums.FILE]
    try:
        names += shared_model.needed_files(folder)
        with hub.explained(f"the model of {repository} cannot be fetched", "load it again"):
            for name in names:
                download(repository, name, revision=folder.name)
        checksums.verify(folder, names[1:])
    except DamagedError as error:
        for name in names:
            hub.forget(folder / name)
        raise UserError(
            f"{repository} is damaged: {error}; it was removed from the cache: load it again"
        ) from error
    return folder
