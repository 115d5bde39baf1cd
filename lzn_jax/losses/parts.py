"""Registers the solvers of the flow and the alignment losses."""

import itertools
from collections.abc import Mapping
from typing import Any

from lzn_jax import parts

_SHARPNESS = {
    "alignment.sharpness": parts.Field(
        tuple,
        "inverse temperatures r of the assignments in the loss, increasing, None = the paper's "
        "form: the best assignment of the flow after alignment.cutoff",
        None,
        item=float,
        above=0,
        nonempty=True,
    ),
    "alignment.sharpness_weights": parts.Field(
        tuple, "weight of each inverse temperature, () = equal", (), item=float, minimum=0
    ),
}


def _check_dpm(values: Mapping[str, Any]) -> None:
    for flow in ("latent", "alignment"):
        got = values.get(f"{flow}.num_steps", 3)
        parts.require(
            values.get(f"{flow}.solver") != "dpm" or got >= 3,
            f"{flow}.num_steps must be an integer >= 3 with {flow}.solver 'dpm', got {got}",
        )


def _check_sharpness(values: Mapping[str, Any]) -> None:
    sharpness, weights = values["alignment.sharpness"], values["alignment.sharpness_weights"]
    if sharpness is None:
        parts.require(
            not weights, "alignment.sharpness_weights needs alignment.sharpness, got None"
        )
        return
    is_increasing = all(low < high for low, high in itertools.pairwise(sharpness))
    parts.require(is_increasing, f"alignment.sharpness must be increasing, got {sharpness}")
    parts.require(
        not weights or (len(weights) == len(sharpness) and sum(weights) > 0),
        f"alignment.sharpness_weights must be () or {len(sharpness)} numbers, not all 0, as "
        f"alignment.sharpness has {len(sharpness)}, got {weights}",
    )


parts.add("solver", "euler", "lzn_jax.zoning:Euler")
parts.add("solver", "dpm", "lzn_jax.zoning:DPMSolver", check=_check_dpm)
parts.add("solver", "adams", "lzn_jax.zoning:AdamsBashforth")
for _form, _name in (("prob", "probability"), ("log", "log_probability")):
    _part = f"lzn_jax.latent_space:{_name}"
    parts.add("alignment", _form, _part, _SHARPNESS, check=_check_sharpness)
