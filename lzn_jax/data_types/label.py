"""Labels: a table of anchors, or zones of images with each label (paper §5, E.2)."""

import difflib
import functools
import logging
import textwrap
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Int, PRNGKeyArray
from ml_collections import ConfigDict

from lzn_jax import data, models, parts, zoning
from lzn_jax.data import Examples
from lzn_jax.data_types import Batch, Classifier, Context, DataType, Keys, Zones, context_rows
from lzn_jax.data_types.protocols import Model, Samples
from lzn_jax.errors import UserError
from lzn_jax.models import Module, Variables
from lzn_jax.parts import Field, count, counts, positive, require

_log = logging.getLogger(__name__)


class LabelAnchors(nn.Module):
    """Learned anchors of the classes, initialised from N(0, 1)."""

    num_classes: int
    latent_dim: int

    @nn.compact
    def __call__(self) -> Float[Array, "c q"]:
        """All anchors, row i for class i."""
        shape = (self.num_classes, self.latent_dim)
        return self.param("anchors", nn.initializers.normal(1.0), shape, jnp.float32)


class Label(DataType):
    """Labels (n,) int32 from 0 to `data.num_classes` - 1.

    A decoder can be conditioned on labels even if labels are not encoded.
    """

    source_scale = 1.0  # a zone of a class contains many samples
    has_classes = True
    measurements = ("classification",)

    def __init__(self, config: ConfigDict) -> None:
        self._names = functools.partial(data.label_names, config.data)
        self.condition_dim = classes = config.data.num_classes
        if classes == 1:
            _log.warning(
                "one class, so nothing is classified: an image folder has one class for each class "
                "folder, and data.label_column names the labels of a Hub data set"
            )
        encoder: LabelEncoder | ZonesOfImages | None = None
        if models.has_latents(config):
            latent = config.latent
            if any("label" in pair.split(":") for pair in config.alignments):
                encoder = LabelEncoder(classes, latent.dim)
            else:
                encoder = ZonesOfImages(classes, latent.context_size, latent.dim, config.seed)
            encoder.probability_time = config.evaluation.probability_time
        super().__init__("label", encoder)

    @functools.cached_property
    def example(self) -> str:  # type: ignore[override]
        """The first two classes, by name unless it contains a comma."""
        names = self._names()[:2]
        return ",".join(str(i) if "," in name else name for i, name in enumerate(names))

    def encoded_shape(self) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((), np.int32)

    def sample_format(self) -> dict[str, object]:
        """Range of labels, and names of the classes."""
        names = self._names()
        description = f"numbers of classes from 0 to {len(names) - 1}, which `names` names"
        return {"description": description, "range": [0, len(names) - 1], "names": names}

    def samples(self, examples: Examples) -> Int[np.ndarray, " n"]:
        return examples.labels

    def checked(self, samples: Samples) -> Int[np.ndarray, " n"]:
        """Validated labels as int32."""
        labels, classes = np.asarray(samples), self.condition_dim
        super().checked(labels.reshape(-1))
        is_integer = np.issubdtype(labels.dtype, np.integer)
        if not is_integer or labels.ndim != 1:
            raise UserError(f"labels must be integers (n,), got {labels.dtype} {labels.shape}")
        for label in labels[(labels < 0) | (labels >= classes)][:1]:
            named = [name for i, name in enumerate(self._names()) if name != str(i)]
            names = f": {textwrap.shorten(', '.join(named), 80, placeholder=' ...')}" * bool(named)
            raise UserError(
                f"there is no class {label}, the run has classes 0 to {classes - 1}{names}"
            )
        return labels.astype(np.int32)

    def parse(self, text: str) -> Int[np.ndarray, " n"]:
        """Labels from a comma-separated list of class names or numbers. Names take precedence."""
        names = self._names()

        def label(word: str) -> int:
            try:
                return names.index(word) if word in names else int(word)
            except ValueError as error:
                near = difflib.get_close_matches(word, names, n=1)
                raise UserError(
                    f"--input must be names or numbers of labels, such as {','.join(names[:3])}, "
                    f"got {word!r}{f'; the nearest name is {near[0]}' if near else ''}"
                ) from error

        return np.array([label(word.strip()) for word in text.split(",")])

    def shown(self, samples: Int[np.ndarray, " n"]) -> np.ndarray:
        """Names of the classes."""
        return np.array(self._names())[samples]

    def condition(self, batch: Batch, zones: Zones | None) -> Float[Array, "b c"]:
        """One-hot labels."""
        return jax.nn.one_hot(batch["labels"], self.condition_dim)

    def condition_of(self, variables: Variables, samples: Array) -> Float[Array, "b c"]:
        return jax.nn.one_hot(samples, self.condition_dim)


class LabelEncoder(Classifier):
    """A learned anchor for each class."""

    network, num_draws = "label_anchors", 0

    def __init__(self, num_classes: int, latent_dim: int) -> None:
        self.num_classes = num_classes
        self.module: Module = LabelAnchors(num_classes, latent_dim)

    def init(self, key: PRNGKeyArray):
        return self.module.init(key)

    def table(self, variables: Variables) -> Float[Array, "c q"]:
        """Anchors of all classes."""
        return self.module.apply(variables[self.network])

    def zones(self, variables: Variables, batch: Batch, keys: Keys) -> tuple[Zones, ...]:
        """Zones of all classes, weighted by frequency in the batch. Absent classes get no zone."""
        table, labels = self.table(variables), batch["labels"]
        counts = jnp.sum(jax.nn.one_hot(labels, len(table)), axis=0)
        return (Zones(table, labels, jnp.log(counts)),)

    def anchors(self, variables: Variables, labels: Int[Array, " b"]) -> Float[Array, "b q"]:
        return self.table(variables)[labels]

    def encode(
        self,
        model: Model,
        labels: Int[Array, " b"],
        noise: Array,
        keys: Array,
        solver: zoning.Solver,
    ) -> Float[Array, "b q"]:
        """Latents of labels in zones of equally weighted classes."""
        return zoning.compute_latents(self.table(model.variables), noise, labels, solver=solver)

    def classes(self, model: Model) -> tuple[Float[Array, "c q"], Int[Array, " c"]]:
        return self.table(model.variables), jnp.arange(self.num_classes)


class ZonesOfImages(Classifier):
    """Encodes labels without alignment. A class's zone unites the zones of its context images."""

    def __init__(self, num_classes: int, context_size: int, latent_dim: int, seed: int) -> None:
        self.num_classes, self._has_warned = num_classes, False
        self._size, self._dim, self._seed = context_size, latent_dim, seed

    def context_shapes(self) -> Context:
        anchors: Any = jax.ShapeDtypeStruct((self._size, self._dim), jnp.float32)
        labels: Any = jax.ShapeDtypeStruct((self._size,), jnp.int32)
        return Context(anchors, samples=labels)

    def context(self, anchors: Callable[..., Array], train: Examples) -> Context:
        """Images with their labels. Logs one warning for classes without images."""
        rows = context_rows(self._seed, len(train.labels), self._size)
        labels = train.labels[rows]
        missing = sorted(set(range(self.num_classes)) - set(labels.tolist()))
        if missing and not self._has_warned:
            self._has_warned, classes = True, ", ".join(map(str, missing))
            message = "classes without a zone among latent.context_size %d: %s"
            _log.warning(message, self._size, classes)
        of_images = anchors(train.images[rows], description="anchors of classes", source="image")
        return Context(of_images, samples=labels)

    def encode(
        self,
        model: Model,
        labels: Int[Array, " b"],
        noise: Array,
        keys: Array,
        solver: zoning.Solver,
    ) -> Float[Array, "b q"]:
        """Latents in zones of random context images, one image for each label."""
        context = model.context["label"]
        is_member = labels[:, None] == context.samples
        own = jax.vmap(jax.random.categorical)(keys, jnp.where(is_member, 0.0, -jnp.inf))
        return zoning.compute_latents(context.anchors, noise, own, solver=solver)

    def classes(self, model: Model) -> tuple[Float[Array, "n q"], Int[Array, " n"]]:
        context = model.context["label"]
        assert context.samples is not None
        return context.anchors, context.samples


_LABEL = {
    "data.num_classes": count("number of classes"),
    **parts.learning_rates("label_anchors"),
    "evaluation.noise_scales": Field(
        tuple,
        "α of the latents from which test images are classified",
        (0.0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.2),
        item=float,
        minimum=0,
    ),
    "evaluation.probability_time": positive(
        "time of the flow at which probabilities of classes are read, 1 = before its last step",
        1.0,
        maximum=1,
    ),
    "evaluation.batch_sizes": counts(
        "sizes of batches of test samples that cut their own zones", (), at_most="test"
    ),
    "evaluation.context_sizes": counts(
        "numbers of context anchors for classification; larger ones than there are: left out",
        (),
        at_most="train",
    ),
}


def _check_label(values: Mapping[str, Any]) -> None:
    is_aligned = any("label" in pair.split(":") for pair in values["alignments"])
    require(
        is_aligned or "image" in values["types"],
        "alignments must name 'label' without images, for example 'TYPE:label', got "
        f"{values['alignments']}",
    )
    for name in ("decoder.sources", "text_decoder.sources"):
        require(
            is_aligned or "label" not in values.get(name, ()) or not values["latent.enabled"],
            f"{name} must not name 'label' unless alignments do, got {values.get(name)}",
        )
    require(
        is_aligned or not values["latent.enabled"] or values["latent.context_size"] > 0,
        "latent.context_size must be > 0 if nothing is aligned with labels, got 0: the zones of a "
        "class are those of its context images",
    )


parts.add("type", "label", Label, _LABEL, check=_check_label)
