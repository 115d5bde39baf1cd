"""Conversion of the paper's released checkpoints to flax variables.

A checkpoint is a dict with two entries for each network. One contains weights by key. The other,
with the suffix `_ema`, is a list of averages. The averages follow the order of the weights, without
buffers and frozen weights.
"""

import os
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from lzn_jax import torch_files
from lzn_jax.errors import UserError
from lzn_jax.models import Tree, Variables
from lzn_jax.release.torch_keys import Keys, Shapes, to_variables

ENTRIES = {"encoder": "encoder", "decoder": "decoder", "label_anchors": "label_anchor"}
PREFIX = "model.module."  # of two wrappers
NOT_READ = ("optimizer", "lr_scheduler", "epoch", "grad_scalar")
BUFFER = "sigmas"  # unused buffer of the decoder


class Layout(NamedTuple):
    """Torch keys of a network's variables, in torch's order, and their shapes in flax."""

    keys: Keys
    shapes: Shapes


class Released(NamedTuple):
    """Trained weights, averages (or the weights again if not requested) and number of updates."""

    raw: Variables
    averaged: Variables
    iteration: int


def read(path: str | os.PathLike[str], layouts: Mapping[str, Layout], *, ema: bool) -> Released:
    """Variables of the networks that a released checkpoint contains, as views of its bytes.

    Raises UserError, which names the key, if the file does not match the networks.
    """
    entries = {ENTRIES[name]: name for name in layouts}
    averages = {f"{entry}_ema" for entry in entries}
    wanted = {*entries, *(averages if ema else ())}
    saved = torch_files.read(path, lambda keys: bool(keys) and keys[0] in wanted)
    raw: Variables = {}
    averaged: Variables = {}
    try:
        if not isinstance(saved, dict) or not set(saved) & set(ENTRIES.values()):
            raise ValueError(f"it has no entry {' or '.join(ENTRIES.values())}")
        known = {*entries, *averages, *NOT_READ, "iteration"}
        if extra := [key for key in saved if key not in known]:
            raise ValueError(f"its entry {extra[0]} is not a network of the config's study")
        iteration = saved.get("iteration")
        if type(iteration) is not int or iteration < 0:
            raise ValueError(f"its iteration is {iteration!r}, not a number of updates")
        for entry, name in entries.items():
            if entry in saved:
                weights = _weights(saved[entry], entry)
                raw[name] = averaged[name] = _variables(weights, layouts[name], entry)
                if ema:
                    shadow = _averaged(saved.get(f"{entry}_ema"), weights, layouts[name])
                    averaged[name] = _variables(shadow, layouts[name], f"{entry}_ema")
    except ValueError as error:
        raise UserError(f"{path} does not fit the config: {error}") from error
    return Released(raw, averaged, iteration)


def _weights(entry: object, name: str) -> dict[str, Tree]:
    if not isinstance(entry, dict):
        raise ValueError(f"its entry {name} is not a dict")
    if other := [key for key in entry if not str(key).startswith(PREFIX)]:
        raise ValueError(f"its entry {name} has the key {other[0]}, which lacks {PREFIX}")
    weights = {key.removeprefix(PREFIX): value for key, value in entry.items()}
    if name == ENTRIES["decoder"]:
        weights.pop(BUFFER, None)
    return weights


def _averaged(entry: object, weights: Mapping[str, object], layout: Layout) -> dict[str, Tree]:
    """Averages by key. The weights provide the keys, and arrays that are not averaged."""
    if list(weights) != list(layout.keys.values()):
        raise ValueError("its keys are in another order than the network's: averages have no key")
    shadow = entry.get("shadow_params") if isinstance(entry, dict) else None
    if not isinstance(shadow, list):
        raise ValueError("it has no averaged weights (EMA); use --raw for the trained ones")
    frozen = {key for path, key in layout.keys.items() if path[0] != "params"}
    trained = [key for key in weights if key not in frozen]
    if len(shadow) != len(trained):
        raise ValueError(f"it has {len(shadow)} averaged weights for {len(trained)} weights")
    return {**weights, **dict(zip(trained, shadow, strict=True))}


def _variables(weights: Mapping[str, Tree], layout: Layout, entry: str) -> dict[str, Tree]:
    try:
        for key, value in weights.items():
            kind = getattr(value, "dtype", type(value).__name__)
            if not isinstance(value, np.ndarray) or kind != np.float32:
                raise ValueError(f"{key} is {kind}, not float32")
        return to_variables(weights, layout.keys, layout.shapes)
    except ValueError as error:
        raise ValueError(f"{entry}'s {error}") from error
