"""Case studies: the only place where networks, zoning and losses are put together to a task."""

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import numpy as np
from flax import linen as nn
from jax.sharding import Mesh
from jaxtyping import PRNGKeyArray
from ml_collections import ConfigDict

from lzn_jax import data, models
from lzn_jax.configuration import UserError
from lzn_jax.data import Examples, Images
from lzn_jax.evaluation.batching import in_batches
from lzn_jax.models import Variables
from lzn_jax.run.sharding import examples_at_a_time


class Model(NamedTuple):
    """What inference needs: variables of the networks, and the study's context anchors."""

    variables: Variables
    context: Mapping[str, jax.Array]


class Predictions(NamedTuple):
    """Classes of n images, and the flow's probability of each, in [0, 1]."""

    classes: np.ndarray
    probabilities: np.ndarray


@runtime_checkable
class Study(Protocol):
    """What the trainer asks of a case study, and what inference does of every one.

    Where a method of inference draws, None for its key is the key of the config's seed.
    """

    modules: Mapping[str, nn.Module]
    latents: Any  # ImageLatents, or NoLatents in their place
    transform: data.Transform  # of training images, on the host
    main_feature: str  # of those that `embed` finds

    def init(self, key: jax.Array) -> Variables:
        """Fresh variables of every network."""

    def loss(
        self, variables: Variables, batch: Mapping[str, jax.Array], key: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Training loss of a global batch, and metrics; the key is consumed."""

    def context(self, variables: Variables, train: Examples) -> dict[str, jax.Array]:
        """Context anchors of a fixed random sample of training images; empty without any."""

    def context_shapes(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes of what `context` returns."""

    def prepare_evaluation(self) -> None:
        """Reads what `evaluate` needs beside data; raises UserError for what cannot be read."""

    def evaluate(
        self, model: Model, train: Examples, test: Examples, workdir: Path
    ) -> dict[str, float]:
        """Metrics by name; pictures go into `workdir`/figures, what to keep into its cache."""

    def embed(
        self, model: Model, images: Images, *, key: PRNGKeyArray | None = None
    ) -> dict[str, np.ndarray]:
        """Features of images by name, (n, d) each; not for a run without latents."""


@runtime_checkable
class Generates(Study, Protocol):
    """A study with an image decoder."""

    def sample(
        self,
        model: Model,
        count: int,
        labels: np.ndarray | None = None,
        key: PRNGKeyArray | None = None,
    ) -> Examples:
        """Generated images with the classes that were asked for; None: all in equal shares."""

    def reconstruct(
        self,
        model: Model,
        images: Images,
        labels: np.ndarray | None = None,
        key: PRNGKeyArray | None = None,
    ) -> dict[str, np.ndarray]:
        """`images` to noise and back, and their `errors`; labels None are found by the study."""

    def interpolate(
        self,
        model: Model,
        images: Images,
        labels: np.ndarray | None = None,
        *,
        key: PRNGKeyArray | None = None,
    ) -> dict[str, np.ndarray]:
        """`images` on the way from the first of two to the second, and `weights` of the second."""


@runtime_checkable
class Classifies(Study, Protocol):
    """A study with label anchors."""

    def classify(self, model: Model, images: Images) -> Predictions:
        """Classes of images; raises UserError for a run that has no latents."""


def build(config: ConfigDict, mesh: Mesh) -> Study:
    """The study that a config describes."""
    from lzn_jax.studies.generation import Generation
    from lzn_jax.studies.joint import Joint
    from lzn_jax.studies.representation import Representation

    known: dict[str, Callable[[ConfigDict, Mesh], Study]] = {
        "generation": Generation,
        "representation": Representation,
        "joint": Joint,
    }
    return known[config.study](config, mesh)


def batched(config: ConfigDict, mesh: Mesh) -> Callable[..., Any]:
    """`in_batches` of as many examples as the networks of a config see at once."""
    return functools.partial(in_batches, mesh=mesh, batch_size=examples_at_a_time(config.training))


def load_data(config: ConfigDict) -> tuple[Examples, Examples]:
    """Training and test examples.

    Raises UserError for a data set that cannot be read or is too small for the config.
    """
    train, test = data.load(config.data, "train"), data.load(config.data, "test")
    check_context(config, len(train.labels), f"the training images of {config.data.name}")
    return train, test


def check_context(config: ConfigDict, count: int, images: str) -> None:
    """Raises UserError where `count` images are too few for the config's context anchors."""
    if models.has_latents(config) and config.latent.context_size > count:
        raise UserError(
            f"latent.context_size must be at most {count}, {images}, got "
            f"{config.latent.context_size}"
        )


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
