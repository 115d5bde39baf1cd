"""Solvers and alignments that configs name, bound to their settings."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
from ml_collections import ConfigDict

from lzn_jax import configuration, models, parts, schema, zoning
from lzn_jax.data_types import Zones
from lzn_jax.errors import UserError
from lzn_jax.models import Tree

LossAndMetrics = tuple[Float[Array, ""], Mapping[str, Array]]


def solver(setting: ConfigDict) -> zoning.Solver:
    """Solver of a config group such as `latent`. Raises UserError if it rejects its values."""
    try:
        return models.built(parts.get("solver", setting.solver), setting)
    except ValueError as error:
        raise UserError(f"solver {setting.solver!r}: {error}") from error


def in_words(name: str, solver: zoning.Solver) -> str:
    """Steps and name of a solver, as a plan prints them."""
    steps = getattr(solver, "num_steps", None)
    return name if steps is None else f"{steps} steps of {name}"


@dataclasses.dataclass(frozen=True)
class Bound:
    """The alignment of a pair of types, bound to its settings."""

    setting: SimpleNamespace  # values of the pair, with the solver built
    align: Callable[..., Tree]  # of its form
    solver_name: str

    @classmethod
    def from_config(cls, config: ConfigDict, source: str, target: str) -> "Bound":
        """The alignment of a pair. Raises UserError if its solver rejects the values."""
        values = schema.of_pair(configuration.flatten(config.to_dict()), f"{source}:{target}")
        group = ConfigDict(configuration.nest(values)["alignment"])
        built = {"solver": solver(group), "source": source, "target": target}
        setting = SimpleNamespace(**{**group, **built})
        return cls(setting, parts.get("alignment", group.form), group.solver)

    def __call__(
        self, latents: Float[Array, "b q"], zones: Zones, targets: Array, source_zones: Zones
    ) -> LossAndMetrics:
        """Loss that moves each latent into the zone of its target, and metrics."""
        setting = SimpleNamespace(**vars(self.setting), source_zones=source_zones)
        with parts.mistakes(f"alignment {setting.form!r}"):
            return scalars(self.align(latents, zones, targets, setting))

    def __str__(self) -> str:
        form, sharpness = f"form {self.setting.form}", getattr(self.setting, "sharpness", None)
        if sharpness is not None:
            return f"{form}, sharpness {sharpness:g}"
        flow = in_words(self.solver_name, self.setting.solver)
        return f"{form}, {flow}, cut-off {self.setting.cutoff:g}"


def scalars(found: Tree, needed: str = "(scalar, dict of scalars)") -> LossAndMetrics:
    """A loss and its metrics. Raises TypeError for anything else."""
    shapes = jax.tree.map(jnp.shape, found)
    metrics = found[-1] if isinstance(found, tuple) and found else None
    if not isinstance(metrics, dict) or shapes != ((), dict.fromkeys(metrics, ())):
        raise TypeError(f"it must return {needed}, got the shapes {shapes}")
    return found


def _zone_alignment(
    latents: Array, zones: Zones, targets: Array, setting: SimpleNamespace, *, form: str
) -> LossAndMetrics:
    """Loss that moves each latent into the zone of its target (paper §2.2.2), and metrics."""
    arrays = (latents, zones.anchors, targets)
    common = {"form": form, "log_weights": zones.log_weights, "is_present": zones.is_present}
    if setting.sharpness is None:
        flow = {"solver": setting.solver, "cutoff": setting.cutoff}
        return zoning.alignment_loss(*arrays, **flow, **common)
    return zoning.alignment_loss_at(*arrays, sharpness=setting.sharpness, **common)


_SHARPNESS = {
    "alignment.sharpness": parts.positive(
        "inverse temperature r of the assignments in the loss, None = the paper's form: the best "
        "assignment of the flow after alignment.cutoff",
        None,
    )
}


def _check_dpm(values: Mapping[str, Any]) -> None:
    for flow in ("latent", "alignment"):
        got = values.get(f"{flow}.num_steps", 3)
        parts.require(
            values.get(f"{flow}.solver") != "dpm" or got >= 3,
            f"{flow}.num_steps must be an integer >= 3 with {flow}.solver 'dpm', got {got}",
        )


for _name, _solver in zoning.SOLVERS.items():
    _check = _check_dpm if _name == "dpm" else None
    parts.add("solver", _name, _solver, check=_check, owner=__name__)
for _form in ("prob", "log"):
    _loss = functools.partial(_zone_alignment, form=_form)
    parts.add("alignment", _form, _loss, _SHARPNESS)
