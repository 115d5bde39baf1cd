"""Alignment parts: the paper's loss with probabilities, and with log probabilities."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

from jaxtyping import Array, Float, Int
from ml_collections import ConfigDict

from lzn_jax import parts, zoning
from lzn_jax.errors import UserError


def solver(setting: ConfigDict) -> zoning.Solver:
    """Solver of a config group such as `latent`; raises UserError if it rejects `num_steps`."""
    part: Callable[[int], zoning.Solver] = parts.get("solver", setting.solver)
    try:
        return part(setting.num_steps)
    except ValueError as error:
        raise UserError(f"solver {setting.solver!r}: {error}") from error


def _zone_alignment(
    latents: Float[Array, "m q"],
    zones: Any,
    targets: Int[Array, " m"],
    setting: ConfigDict,
    *,
    form: str,
) -> tuple[Float[Array, ""], Mapping[str, Array]]:
    """Loss that moves each latent into the zone of its target (paper §2.2.2), and metrics."""
    arrays = (latents, zones.anchors, targets)
    common = {"form": form, "log_weights": zones.log_weights, "is_present": zones.is_present}
    if setting.sharpness is None:
        flow = {"solver": solver(setting), "cutoff": setting.cutoff}
        return zoning.alignment_loss(*arrays, **flow, **common)
    sharpness = {"sharpness": setting.sharpness, "weights": setting.sharpness_weights}
    return zoning.alignment_loss_at(*arrays, **sharpness, **common)


probability = functools.partial(_zone_alignment, form="prob")
log_probability = functools.partial(_zone_alignment, form="log")
