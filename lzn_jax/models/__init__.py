"""Networks of a config."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from ml_collections import ConfigDict

from lzn_jax import parts

Variables = dict[str, Any]  # network name -> flax variables


def has_latents(config: ConfigDict) -> bool:
    """Whether a config has latents and encoders; the rectified-flow baseline does not."""
    return config.latent.get("enabled", True)


def build(config: ConfigDict) -> dict[str, Any]:
    """Networks of a config by name, such as 'encoder', 'decoder' and 'label_anchors'.

    With `latent.enabled` False there is only the 'decoder', a rectified flow.
    """
    modules: dict[str, Any] = {}
    for name in config.types:
        modules |= parts.get("type", name)(config).modules
    return modules


def encoder(config: ConfigDict) -> Any:
    """The network registered as `encoder.name`."""
    part = parts.get("encoder", config.encoder.name)
    return module(part, config.encoder, config, latent_dim=config.latent.dim)


def decoder(config: ConfigDict) -> tuple[Any, Any]:
    """The network registered as `decoder.name`, and the class that wraps it as a `Decoder`."""
    network, wrapper = parts.get("decoder", config.decoder.name)
    data = config.data
    shape = data.image_size, data.image_size, data.channels
    return module(network, config.decoder, config, image_shape=shape), wrapper


def module(part: Any, group: ConfigDict, config: ConfigDict, **sizes: Any) -> Any:
    """Instantiates a flax module class with the values of a config group.

    The fields of the class get the values of that name in the group, `training.compute_dtype` and
    `training.remat` as `dtype` and `remat`, and `sizes`. A part that is no dataclass is a network
    already and is returned.
    """
    if not (isinstance(part, type) and dataclasses.is_dataclass(part)):
        return part
    training = config.training
    values = {"dtype": jnp.dtype(training.compute_dtype), "remat": training.remat, **group, **sizes}
    # The fields `name` and `parent` of every flax module are not fields of the config.
    names = {field.name for field in dataclasses.fields(part)} - {"name", "parent"}
    return part(**{name: value for name, value in values.items() if name in names})


def split_variables(variables: Variables) -> tuple[dict[str, Any], dict[str, Any]]:
    """Trained parameters by network, and variables that are not trained by network."""
    params = {name: tree["params"] for name, tree in variables.items()}
    constants = {
        name: {kind: values for kind, values in tree.items() if kind != "params"}
        for name, tree in variables.items()
    }
    return params, constants


def join_variables(params: Mapping[str, Any], constants: Mapping[str, Any]) -> dict[str, Any]:
    """Inverse of `split_variables`."""
    return {name: {"params": params[name], **constants[name]} for name in params}
