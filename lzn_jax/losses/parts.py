"""Registers the solvers of the flow and the alignment losses."""

from collections.abc import Mapping
from typing import Any

from lzn_jax import parts


def _check_dpm(values: Mapping[str, Any]) -> None:
    for flow in ("latent", "alignment"):
        got = values.get(f"{flow}.num_steps", 3)
        parts.require(
            values.get(f"{flow}.solver") != "dpm" or got >= 3,
            f"{flow}.num_steps must be an integer >= 3 with {flow}.solver 'dpm', got {got}",
        )


parts.add("solver", "euler", "lzn_jax.zoning:Euler")
parts.add("solver", "dpm", "lzn_jax.zoning:DPMSolver", check=_check_dpm)
parts.add("solver", "adams", "lzn_jax.zoning:AdamsBashforth")
parts.add("alignment", "prob", "lzn_jax.losses.zone_alignment:probability")
parts.add("alignment", "log", "lzn_jax.losses.zone_alignment:log_probability")
