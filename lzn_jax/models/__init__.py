"""Networks of the case studies, built from a config."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from ml_collections import ConfigDict

from lzn_jax import parts

Variables = dict[str, Any]  # network name -> flax variables


def has_latents(config: ConfigDict) -> bool:
    """Whether a config has latents, and with them encoders; a rectified flow needs none."""
    enabled: bool = config.latent.get("enabled", True)
    return enabled


def build(config: ConfigDict) -> dict[str, Any]:
    """Modules of a config by name, as it has them: 'encoder', 'decoder', 'label_anchors' and more.

    Without latents (`latent.enabled` False) the plain rectified flow is left: 'decoder' alone.
    """
    modules: dict[str, Any] = {}
    for name in config.types:
        modules |= parts.get("type", name)(config).modules
    return modules


def encoder(config: ConfigDict) -> Any:
    """The network that `encoder.name` names."""
    part = parts.get("encoder", config.encoder.name)
    return module(part, config.encoder, config, latent_dim=config.latent.dim)


def decoder(config: ConfigDict) -> tuple[Any, Any]:
    """The network that `decoder.name` names, and the class of its decoder."""
    network, wrapper = parts.get("decoder", config.decoder.name)
    data = config.data
    shape = data.image_size, data.image_size, data.channels
    return module(network, config.decoder, config, image_shape=shape), wrapper


def module(part: Any, group: ConfigDict, config: ConfigDict, **given: Any) -> Any:
    """A network of a config group: a class gets those of the values that are its fields.

    Values are the group's, `dtype` and `remat` of `training`, and the given ones. What is not a
    dataclass is a network already.
    """
    if not (isinstance(part, type) and dataclasses.is_dataclass(part)):
        return part
    training = config.training
    values = {"dtype": jnp.dtype(training.compute_dtype), "remat": training.remat, **group, **given}
    # Every flax module also has a field `name`, which is not the group's.
    names = {field.name for field in dataclasses.fields(part)} - {"name", "parent"}
    return part(**{key: _frozen(value) for key, value in values.items() if key in names})


def _frozen(value):
    return tuple(value) if isinstance(value, list) else value


def split_variables(variables: Variables) -> tuple[dict[str, Any], dict[str, Any]]:
    """Trained parameters and the other variables, each by network."""
    params = {name: tree["params"] for name, tree in variables.items()}
    constants = {
        name: {kind: values for kind, values in tree.items() if kind != "params"}
        for name, tree in variables.items()
    }
    return params, constants


def join_variables(params: Mapping[str, Any], constants: Mapping[str, Any]) -> dict[str, Any]:
    """What `split_variables` took apart."""
    return {name: {"params": params[name], **constants[name]} for name in params}
