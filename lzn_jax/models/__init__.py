"""Networks of the case studies, built from a config."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from ml_collections import ConfigDict

from lzn_jax.models.labels import LabelAnchors
from lzn_jax.models.mlp import MLPDecoder, MLPEncoder, MLPGenerator
from lzn_jax.models.ncsnpp import NCSNppDecoder, NCSNppEncoder, NCSNppGenerator
from lzn_jax.models.resnet import ResNet
from lzn_jax.models.transformer import TextDecoder, TextEncoder

ENCODERS: dict[str, type[nn.Module]] = {
    "ncsnpp": NCSNppEncoder,
    "mlp": MLPEncoder,
    "resnet": ResNet,
}
VELOCITIES: dict[str, type[nn.Module]] = {"ncsnpp": NCSNppDecoder, "mlp": MLPDecoder}
GENERATORS: dict[str, type[nn.Module]] = {"direct": NCSNppGenerator, "direct_mlp": MLPGenerator}
DECODERS = VELOCITIES | GENERATORS

Variables = dict[str, Any]  # network name -> flax variables


def has_latents(config: ConfigDict) -> bool:
    """Whether a config has latents, and with them an encoder; a rectified flow needs none."""
    enabled: bool = config.latent.get("enabled", True)
    return enabled


def build(config: ConfigDict, num_tokens: int | None = None) -> dict[str, nn.Module]:
    """Modules of a config by name, as it has them: 'encoder', 'decoder', 'label_anchors' and more.

    Where the config has texts, `num_tokens` is the size of their vocabulary, the end included.
    Without latents (`latent.enabled` False) the plain rectified flow is left: 'decoder' alone.
    Raises ValueError for an unknown network name.
    """
    training = config.training
    given = {"dtype": jnp.dtype(training.compute_dtype), "remat": training.get("remat", False)}
    modules = {}
    if "decoder" in config:
        shape = config.data.image_size, config.data.image_size, config.data.channels
        modules["decoder"] = _network(DECODERS, config.decoder, {**given, "image_shape": shape})
    if has_latents(config):
        dim = config.latent.dim
        modules["encoder"] = _network(ENCODERS, config.encoder, {**given, "latent_dim": dim})
        if any("label" in pair.split(":") for pair in config.alignments):
            modules["label_anchors"] = LabelAnchors(config.data.num_classes, dim)
    if "text" in config.types:
        text = {**given, "latent_dim": config.latent.dim, "max_length": config.text.max_length}
        text["vocabulary"] = num_tokens
        modules["text_encoder"] = _module(TextEncoder, {**config.text_encoder, **text})
        modules["text_decoder"] = _module(TextDecoder, {**config.text_decoder, **text})
    return modules


def _network(
    known: dict[str, type[nn.Module]], group: ConfigDict, given: Mapping[str, Any]
) -> nn.Module:
    """Module of the group's name, its fields those of the group and the given ones it has."""
    if group.name not in known:
        raise ValueError(f"network {group.name!r} is unknown; known: {', '.join(known)}")
    return _module(known[group.name], {**group, **given})


def _module(module: type[nn.Module], values: Mapping[str, Any]) -> nn.Module:
    """A module with those of the values that are its fields."""
    # Every flax module also has a field `name`, which is not the group's.
    names = {field.name for field in dataclasses.fields(module)} - {"name", "parent"}
    return module(**{key: _frozen(value) for key, value in values.items() if key in names})


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
