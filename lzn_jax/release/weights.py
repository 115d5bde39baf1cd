"""Conversion of the paper's released checkpoints to flax variables and back.

Such a file is a dict. Each network has an entry of weights by key and an entry with the suffix
`_ema`: a list of averages in the order of the weights, without buffers and frozen weights. Adam's
state and the schedule are not read.
"""

import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from lzn_jax.errors import UserError
from lzn_jax.models import Variables
from lzn_jax.release import torch_files
from lzn_jax.release.torch_keys import Keys, Shapes, to_variables, to_weights

ENTRIES = {"encoder": "encoder", "decoder": "decoder", "label_anchors": "label_anchor"}
PREFIX = "model.module."  # from two wrappers
NOT_READ = ("optimizer", "lr_scheduler", "epoch", "grad_scalar")
BUFFER = "sigmas"  # unused buffer of the decoder


class Layout(NamedTuple):
    """Torch keys of a network's variables, in torch's order, and their shapes in flax."""

    keys: Keys
    shapes: Shapes

    def frozen(self) -> set[str]:
        """Keys of variables that are not trained."""
        return {key for path, key in self.keys.items() if path[0] != "params"}


class Released(NamedTuple):
    """Trained weights, averages (or the weights again if not requested) and number of updates."""

    raw: Variables
    averaged: Variables
    iteration: int


def read(path: str | os.PathLike[str], layouts: Mapping[str, Layout], *, ema: bool) -> Released:
    """Variables of the networks that a released checkpoint has; arrays are views of its bytes.

    Raises UserError, with the key, if the file does not match the networks.
    """
    entries = {ENTRIES[name]: name for name in layouts}
    wanted = {*entries, *(f"{entry}_ema" for entry in entries if ema)}
    saved = torch_files.read(path, lambda keys: bool(keys) and keys[0] in wanted)
    try:
        _check_entries(saved, entries)
        raw: Variables = {}
        averaged: Variables = {}
        for entry, name in entries.items():
            if entry in saved:
                weights = _weights(saved[entry], entry)
                raw[name] = _variables(weights, layouts[name], entry)
                if ema:
                    shadow = _averaged(saved.get(f"{entry}_ema"), weights, layouts[name])
                    averaged[name] = _variables(shadow, layouts[name], f"{entry}_ema")
        return Released(raw, averaged if ema else raw, _iteration(saved))
    except ValueError as error:
        raise UserError(f"{path} does not fit the config: {error}") from error


def _check_entries(saved: Any, entries: Mapping[str, str]) -> None:
    if not isinstance(saved, dict) or not set(saved) & set(ENTRIES.values()):
        raise ValueError(f"it has no entry {' or '.join(ENTRIES.values())}")
    known = {*entries, *(f"{entry}_ema" for entry in entries), *NOT_READ, "iteration"}
    if extra := [key for key in saved if key not in known]:
        raise ValueError(f"its entry {extra[0]} is not a network of the config's study")


def _iteration(saved: Mapping[str, Any]) -> int:
    iteration = saved.get("iteration")
    if type(iteration) is not int or iteration < 0:
        raise ValueError(f"its iteration is {iteration!r}, not a number of updates")
    return iteration


def _weights(entry: Any, name: str) -> dict[str, np.ndarray]:
    """Arrays by key in the file's order, without prefix and buffer."""
    if not isinstance(entry, dict):
        raise ValueError(f"its entry {name} is not a dict")
    for key, value in entry.items():
        if not str(key).startswith(PREFIX):
            raise ValueError(f"its entry {name} has the key {key}, which lacks the prefix {PREFIX}")
        _check_array(value, f"{name}'s {key}", np.float64 if key == PREFIX + BUFFER else np.float32)
    weights = {key.removeprefix(PREFIX): value for key, value in entry.items()}
    if name == ENTRIES["decoder"]:
        weights.pop(BUFFER, None)
    return weights


def _check_array(value: Any, name: str, dtype: type[np.floating]) -> None:
    if not isinstance(value, np.ndarray) or value.dtype != dtype:
        kind = getattr(value, "dtype", type(value).__name__)
        raise ValueError(f"{name} is {kind}, not {np.dtype(dtype)}")


def _averaged(
    entry: Any, weights: Mapping[str, np.ndarray], layout: Layout
) -> dict[str, np.ndarray]:
    """Averages by key; keys, and arrays that are not averaged, are taken from the weights."""
    if list(weights) != list(layout.keys.values()):
        raise ValueError(
            "its keys are in another order than the network's, so averages have no key"
        )
    frozen = layout.frozen()
    trained = [key for key in weights if key not in frozen]
    match entry:
        case {"shadow_params": list(shadow)}:
            pass
        case _:
            raise ValueError("it has no averaged weights (EMA); use --raw for the trained ones")
    if len(shadow) != len(trained):
        raise ValueError(f"it has {len(shadow)} averaged weights for {len(trained)} weights")
    for key, value in zip(trained, shadow, strict=True):
        _check_array(value, f"the average of {key}", np.float32)
    named = dict(zip(trained, shadow, strict=True))
    return {key: named.get(key, value) for key, value in weights.items()}


def _variables(weights: Mapping[str, np.ndarray], layout: Layout, entry: str) -> dict[str, Any]:
    try:
        return to_variables(weights, layout.keys, layout.shapes)
    except ValueError as error:
        raise ValueError(f"{entry}'s {error}") from error


def trained_weights(variables: Mapping[str, Any], layout: Layout) -> dict[str, np.ndarray]:
    """Trained weights of a network by key, in the release's order and layout."""
    frozen = layout.frozen()
    weights = to_weights(variables, layout.keys)
    return {key: value for key, value in weights.items() if key not in frozen}
