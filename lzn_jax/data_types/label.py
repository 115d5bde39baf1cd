"""Labels: a table holds their anchors; a latent decodes to the nearest to its end (§5, E.2)."""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Int, Key, PRNGKeyArray
from ml_collections import ConfigDict

from lzn_jax import zoning
from lzn_jax.data import Examples
from lzn_jax.data_types import DataType, Zones, context_rows
from lzn_jax.models import Variables

_log = logging.getLogger(__name__)


def build(config: ConfigDict, modules: Mapping[str, nn.Module]) -> DataType:
    """Labels of a config; a decoder can be told them even where they have no anchors."""
    num_classes, table = config.data.num_classes, modules.get("label_anchors")

    def tell(batch: Mapping[str, Array], zones: Zones | None) -> Float[Array, "b c"]:
        return one_hot(batch["labels"], num_classes)

    encoder: LabelEncoder | ZonesOfImages | None = None
    if table is not None:
        encoder = LabelEncoder(table)
    elif modules.get("encoder") is not None:
        encoder = ZonesOfImages(config)
    return DataType(encoder, tell=tell, dim_to_tell=num_classes)


def one_hot(labels: Int[Array | np.ndarray, " b"], num_classes: int) -> Float[Array, "b c"]:
    """Labels as image decoders take them."""
    return jax.nn.one_hot(jnp.asarray(labels), num_classes)


class LabelEncoder:
    """A learned anchor for each class."""

    network = "label_anchors"
    num_draws = 0

    def __init__(self, network: nn.Module) -> None:
        self._module = network

    def init(self, key: PRNGKeyArray):
        """Fresh anchors."""
        return self._module.init(key)

    def table(self, variables: Variables) -> Float[Array, "c q"]:
        """Anchors of all classes."""
        anchors: Any = self._module.apply(variables[self.network])
        return anchors

    def zones(
        self, variables: Variables, batch: Mapping[str, Array], keys: Sequence[PRNGKeyArray]
    ) -> tuple[Zones, ...]:
        """Classes weigh as much as their share of the batch; one that is absent has no zone."""
        del keys
        table, labels = self.table(variables), batch["labels"]
        counts = jnp.sum(one_hot(labels, len(table)), axis=0)
        return (Zones(table, labels, jnp.log(counts)),)

    def anchors(self, variables: Variables, labels: Int[Array, " b"]) -> Float[Array, "b q"]:
        """Anchors of labels."""
        return self.table(variables)[labels]

    def latents(
        self,
        model: Any,
        labels: Int[Array, " b"],
        noise: Array,
        keys: Key[Array, " b"],
        solver: zoning.Solver,
    ) -> Float[Array, "b q"]:
        """Latents of labels, all classes alike."""
        del keys
        return zoning.compute_latents(self.table(model.variables), noise, labels, solver=solver)

    def predict(
        self, model: Any, latents: Float[Array, "b q"], solver: zoning.Solver
    ) -> dict[str, Array]:
        """`classes` (b,) of latents, and the flow's `probabilities` of them (paper §5.1)."""
        table = self.table(model.variables)
        classes = zoning.classify(latents, table, solver=solver)
        log_probs = zoning.assignment_log_probs(latents, table, classes, solver=solver)
        return {"classes": classes, "probabilities": jnp.exp(log_probs[-1])}

    def class_probabilities(
        self, model: Any, latents: Float[Array, "b q"], solver: zoning.Solver
    ) -> Float[Array, "b c"]:
        """The flow's probabilities of all classes."""
        return _probabilities(latents, self.table(model.variables), solver)


class ZonesOfImages:
    """Labels that nothing is aligned with: a class's zone is those of its images in the context."""

    def __init__(self, config: ConfigDict) -> None:
        self._config = config

    def context_shapes(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Of the labels of the images in the context."""
        return {"labels": jax.ShapeDtypeStruct((self._config.latent.context_size,), jnp.int32)}

    def context(self, anchors: Callable[..., Any], train: Examples) -> dict[str, Any]:
        """The labels of the images in the context; the log names a class of which there is none."""
        del anchors
        labels = train.labels[context_rows(self._config, len(train.labels))]
        if missing := sorted(set(range(self._config.data.num_classes)) - set(labels.tolist())):
            size, classes = self._config.latent.context_size, ", ".join(map(str, missing))
            _log.warning("classes without a zone among latent.context_size %d: %s", size, classes)
        return {"labels": labels}

    def latents(
        self,
        model: Any,
        labels: Int[Array, " b"],
        noise: Array,
        keys: Key[Array, " b"],
        solver: zoning.Solver,
    ) -> Float[Array, "b q"]:
        """Latents in the zone of a random image of each label."""
        is_member = labels[:, None] == model.context["labels"]
        own = jax.vmap(jax.random.categorical)(keys, jnp.where(is_member, 0.0, -jnp.inf))
        return zoning.compute_latents(model.context["anchors"], noise, own, solver=solver)

    def predict(
        self, model: Any, latents: Float[Array, "b q"], solver: zoning.Solver
    ) -> dict[str, Array]:
        """`classes` (b,) of the images in whose zones latents lie, and `probabilities` of these."""
        bank = model.context["anchors"]
        own = zoning.classify(latents, bank, solver=solver)
        log_probs = zoning.assignment_log_probs(latents, bank, own, solver=solver)
        return {"classes": model.context["labels"][own], "probabilities": jnp.exp(log_probs[-1])}

    def class_probabilities(
        self, model: Any, latents: Float[Array, "b q"], solver: zoning.Solver
    ) -> Float[Array, "b c"]:
        """The flow's probabilities of all classes: those of their images together."""
        of_images = _probabilities(latents, model.context["anchors"], solver)
        return of_images @ one_hot(model.context["labels"], self._config.data.num_classes)


def _probabilities(
    latents: Float[Array, "b q"], anchors: Float[Array, "n q"], solver: zoning.Solver
) -> Float[Array, "b n"]:
    """Assignments of latents to all anchors before the flow's last step."""
    last = np.nextafter(np.float32(1), np.float32(0)).item()
    return jnp.exp(zoning.best_assignment_log_probs(latents, anchors, solver=solver, cutoff=last))
