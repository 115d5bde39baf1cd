"""Encoder for any network, with a context of training samples."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray
from ml_collections import ConfigDict

from lzn_jax import models, zoning
from lzn_jax.data import Examples
from lzn_jax.data.batches import Transform
from lzn_jax.data_types.protocols import Batch, Context, Keys, Samples, Zones
from lzn_jax.models import Module, Tree, Variables, in_training


@dataclasses.dataclass(eq=False)
class NetworkEncoder:
    """Encoder whose network reads one column of the batch.

    Its context anchors are the anchors of a random subset of the training samples.
    """

    name: str  # of the type; the network is called `NAME_encoder`
    module: Module  # the network, (b, ...) -> (b, q)
    _: dataclasses.KW_ONLY
    column: str  # name of the network's inputs in a batch
    example: Array | np.ndarray  # one input row (1, ...), for `init`
    samples: Samples = None  # from a split to its inputs; None: what the type encodes
    latent_dim: int  # q
    context_size: int  # of context anchors; 0: samples that are encoded together cut the zones
    seed: int  # draws the training samples of the context
    microbatch_size: int | None  # examples per micro-batch in training; None: the whole batch
    distinct: bool = False  # whether equal inputs of a batch share one anchor
    transform: Transform | None = (
        None  # of training images on the host; None: the network takes no images
    )

    num_draws = 1
    main_feature = anchor_feature = "anchor"  # keys in `features`: to evaluate, and of the anchor

    def __post_init__(self) -> None:
        self.network = f"{self.name}_encoder"
        self.module = models.functional(self.module)

    @classmethod
    def from_config(cls, name: str, config: ConfigDict, module: Module, **others: Any) -> Any:
        """Encoder of type `name` with the numbers of a config, such as `NAME.context_size`."""
        return cls(name, module, **cls.settings(config, name), **others)

    @staticmethod
    def settings(config: ConfigDict, group: str) -> dict[str, Any]:
        """Arguments of the constructor from a config, with the context size of a config group."""
        return {
            "latent_dim": config.latent.dim,
            "context_size": config[group].context_size,
            "seed": config.seed,
            "microbatch_size": config.training.microbatch_size,
        }

    def init(self, key: PRNGKeyArray) -> Tree:
        """Initial variables."""
        return self.module.init(key, self.example, train=False)

    def anchors_shape(self) -> tuple[int, ...]:
        """Shape of the anchors of one sample, (1, q), found without running the network."""
        return _output_shape(self.module, jax.eval_shape(lambda: self.example))

    def inputs(self, samples: Samples) -> Tree:
        """Inputs of the network for rows of the column."""
        return samples

    def zones(self, variables: Variables, batch: Batch, keys: Keys) -> tuple[Zones, ...]:
        """Zones of a training batch. The key is for dropout."""
        inputs, (key,) = batch[self.column], keys
        network = in_training(self.module, self.microbatch_size)
        anchors = network(variables[self.network], key, self.inputs(inputs))
        if not self.distinct:
            return (Zones(anchors),)
        is_present = self.is_present(inputs)
        own, log_counts = zoning.distinct(inputs, is_present)
        return (Zones(anchors, own, log_counts, is_present),)

    def is_present(self, inputs: Array) -> Array | None:
        """Which samples of a batch are present; None: all."""
        return None

    def anchors(self, variables: Variables, samples: Samples) -> Float[Array, "b q"]:
        """Anchors of samples."""
        return self.module.apply(variables[self.network], self.inputs(samples), train=False)

    def features(self, variables: Variables, samples: Samples) -> dict[str, Float[Array, "b d"]]:
        """Features of samples by name, including the anchor. Must be a pure function."""
        return {"anchor": self.anchors(variables, samples)}

    def context_shapes(self) -> Context | None:
        """Shapes and dtypes of the context. None if the config defines no context."""
        shape: Any = jax.ShapeDtypeStruct((self.context_size, self.latent_dim), jnp.float32)
        return Context(shape) if self.context_size else None

    def context(self, anchors: Callable[..., Array], train: Examples) -> Context | None:
        """The context. `anchors(samples, description=...)` must return anchors of samples."""
        if self.context_size == 0:
            return None
        rows = context_rows(self.seed, len(train.labels), self.context_size)
        return Context(anchors(self.samples(train)[rows], description="context anchors"))


@functools.lru_cache(maxsize=64)
def _output_shape(module: Module, example: jax.ShapeDtypeStruct) -> tuple[int, ...]:
    def output(example: Array) -> Array:
        variables = module.init(jax.random.key(0), example, train=False)
        return module.apply(variables, example, train=False)

    return getattr(jax.eval_shape(output, example), "shape", ())


def context_rows(seed: int, count: int, size: int) -> Int[np.ndarray, " c"]:
    """Indices of the `size` training examples, out of `count`, that form the context."""
    key = models.named(jax.random.key(seed), "context")
    return np.asarray(jax.random.permutation(key, count)[:size])
