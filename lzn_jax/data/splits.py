"""The training and test examples of a config."""

from ml_collections import ConfigDict

from lzn_jax.configuration import UserError
from lzn_jax.data.examples import Examples
from lzn_jax.data.sources import load
from lzn_jax.models import has_latents


def load_data(config: ConfigDict) -> tuple[Examples, Examples]:
    """Training and test examples.

    Raises UserError for a data set that cannot be read or is too small for the config.
    """
    train, test = load(config.data, "train"), load(config.data, "test")
    check_context(config, len(train.labels), f"the training images of {config.data.name}")
    return train, test


def check_context(config: ConfigDict, count: int, images: str) -> None:
    """Raises UserError where `count` images are too few for the config's context anchors."""
    if has_latents(config) and config.latent.context_size > count:
        raise UserError(
            f"latent.context_size must be at most {count}, {images}, got "
            f"{config.latent.context_size}"
        )
