"""Labels: a table holds their anchors; a latent decodes to the nearest to its end (§5, E.2)."""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key, PRNGKeyArray
from ml_collections import ConfigDict

from lzn_jax import data, models, zoning
from lzn_jax.configuration import UserError
from lzn_jax.data import Examples
from lzn_jax.data_types import DataType, Zones, context_rows
from lzn_jax.models import Variables
from lzn_jax.models.labels import LabelAnchors

_log = logging.getLogger(__name__)


class Label(DataType):
    """Labels (n,) int32 from 0 to `data.num_classes` - 1.

    A decoder can be conditioned on them even where they have no anchors.
    """

    source_scale = 1.0  # a zone of a class holds many samples
    has_classes = True
    measurements = ("classification",)
    example = "0,1"

    def __init__(self, config: ConfigDict) -> None:
        self._data, self.condition_dim = config.data, config.data.num_classes
        encoder: LabelEncoder | ZonesOfImages | None = None
        if any("label" in pair.split(":") for pair in config.alignments):
            encoder = LabelEncoder(config)
        elif models.has_latents(config):
            encoder = ZonesOfImages(config)
        if not models.has_latents(config):
            encoder = None
        super().__init__("label", encoder)

    def samples(self, examples: Examples) -> Int[np.ndarray, " n"]:
        """The labels."""
        return examples.labels

    def checked(self, samples: Any) -> Int[np.ndarray, " n"]:
        """Labels as int32."""
        labels, classes = np.asarray(samples), self._data.num_classes
        is_integer = np.issubdtype(labels.dtype, np.integer)
        if labels.ndim == 1 and len(labels) == 0:
            raise UserError("the number of samples must be at least 1, got 0")
        if not is_integer or labels.ndim != 1 or np.any(labels >= classes) or np.any(labels < 0):
            raise UserError(
                f"labels must be integers (n,) from 0 to {classes - 1}, got {labels.dtype} "
                f"{labels.shape}"
            )
        return labels.astype(np.int32)

    def parse(self, text: str) -> Int[np.ndarray, " n"]:
        """Labels of a list of names or numbers; a name counts before a number."""
        names, given = data.label_names(self._data), [part.strip() for part in text.split(",")]
        try:
            return np.array([names.index(part) if part in names else int(part) for part in given])
        except ValueError as error:
            raise UserError(
                f"--input must be labels by name or number, such as {','.join(names[:3])}, got "
                f"{text}"
            ) from error

    def shown(self, samples: Int[np.ndarray, " n"]) -> np.ndarray:
        """Names of the classes."""
        return np.array(data.label_names(self._data))[samples]

    def condition(self, batch: Mapping[str, Array], zones: Zones | None) -> Float[Array, "b c"]:
        """Labels of a training batch, one-hot."""
        return one_hot(batch["labels"], self.condition_dim)

    def condition_of(self, variables: Variables, samples: Array) -> Float[Array, "b c"]:
        """Labels, one-hot."""
        return one_hot(samples, self.condition_dim)


def one_hot(labels: Int[Array | np.ndarray, " b"], num_classes: int) -> Float[Array, "b c"]:
    """Labels as image decoders take them."""
    return jax.nn.one_hot(jnp.asarray(labels), num_classes)


class LabelEncoder:
    """A learned anchor for each class."""

    network = "label_anchors"
    num_draws = 0

    anchors_key = ""  # its table holds all anchors

    def __init__(self, config: ConfigDict) -> None:
        self.module = LabelAnchors(config.data.num_classes, config.latent.dim)

    def init(self, key: PRNGKeyArray):
        """Fresh anchors."""
        return self.module.init(key)

    def table(self, variables: Variables) -> Float[Array, "c q"]:
        """Anchors of all classes."""
        anchors: Any = self.module.apply(variables[self.network])
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
        size = self._config.latent.context_size
        labels = train.labels[context_rows(self._config.seed, len(train.labels), size)]
        if missing := sorted(set(range(self._config.data.num_classes)) - set(labels.tolist())):
            classes = ", ".join(map(str, missing))
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
