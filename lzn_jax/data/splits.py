"""Training and evaluation examples of a config, and its context size."""

import logging
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict, FrozenConfigDict

from lzn_jax.configuration import UserError
from lzn_jax.data.examples import Examples
from lzn_jax.data.sources import load
from lzn_jax.models import has_latents

_log = logging.getLogger(__name__)


def load_data(config: ConfigDict) -> tuple[Examples, Examples]:
    """Training and evaluation examples; the latter are the validation split if there is one.

    Raises UserError for a data set that cannot be read or is too small for the config.
    """
    train = load(config.data, "train")
    measured = load(config.data, "validation" if config.data.validation else "test")
    check_context(config, len(train.labels), f"the training examples of {config.data.name}")
    return train, measured


def measured_set(data: ConfigDict | Mapping[str, Any]) -> str:
    """Name of the evaluation examples: "validation", or `data.test_set`, or "test"."""
    name: str = "validation" if data["validation"] else data.get("test_set", "test")
    return name


def fit_context(config: ConfigDict) -> ConfigDict:
    """The config with at most as many context anchors as training examples.

    Without a validation split the config is unchanged. Raises UserError for a data set that cannot
    be read.
    """
    if not config.data.validation or not has_latents(config):
        return config
    count = len(load(config.data, "train").labels)
    fitted = ConfigDict(config)
    for group, size in _context_sizes(config).items():
        if size > count:
            _log.info("%s.context_size is %d, the size of the training split", group, count)
            fitted[group].context_size = count
    return FrozenConfigDict(fitted)


def check_context(config: ConfigDict, count: int, examples: str) -> None:
    """Raises UserError if `count` examples are too few for the config's context anchors."""
    for group, size in _context_sizes(config).items() if has_latents(config) else ():
        if size > count:
            raise UserError(f"{group}.context_size must be at most {count}, {examples}, got {size}")


def _context_sizes(config: ConfigDict) -> dict[str, int]:
    """Context size by config group, except texts, which are limited to the distinct ones."""
    groups = {n: g for n, g in config.items() if isinstance(g, ConfigDict | FrozenConfigDict)}
    sizes = {name: group.get("context_size") for name, group in groups.items()}
    return {n: size for n, size in sizes.items() if size is not None and n != "text"}
