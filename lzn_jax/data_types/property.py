"""A numeric property of each example: an encoder, a decoder by regression, a measurement."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Int, PRNGKeyArray
from ml_collections import ConfigDict

from lzn_jax import parts
from lzn_jax.data import Examples, captions
from lzn_jax.data_types import Condition, DataType, NetworkEncoder
from lzn_jax.errors import UserError
from lzn_jax.models import Variables

NAME = "property"
MEASURED = {"ink": captions.ink, "slant": captions.slant}  # columns of images


class MLP(nn.Module):
    """Two hidden layers, (b, d) to (b, outputs).

    Initial biases have the standard deviation `bias`.
    """

    features: int
    outputs: int
    bias: float = 0.0

    @nn.compact
    def __call__(self, x: Float[Array, "b d"], train: bool) -> Float[Array, "b o"]:
        """Outputs; `train` has no effect."""
        for _ in range(2):
            x = nn.gelu(nn.Dense(self.features, bias_init=nn.initializers.normal(self.bias))(x))
        return nn.Dense(self.outputs)(x)


class PropertyEncoder(NetworkEncoder):
    """Encoder of numbers; those that round to the same `property.step` share an anchor."""

    unit = 1.0  # `property.step` in units of `property.scale`

    def inputs(self, samples: Int[Array, "b 1"]) -> Float[Array, "b 1"]:
        """Numbers in units of `property.scale`."""
        return self.unit * samples


class Property(DataType):
    """Numbers (n,) float32, from the column `property.column` of the data set."""

    plural = "properties"
    measurements = (NAME,)

    def __init__(self, config: ConfigDict) -> None:
        setting = config.property
        self._column, self._centre, self._scale = setting.column, setting.centre, setting.scale
        self._step = setting.step
        encoder = PropertyEncoder(
            NAME,
            # Without initial biases the anchor of 0 would start at 0.
            MLP(setting.features, config.latent.dim, bias=1.0),
            column=NAME,
            samples=lambda examples: self.encoded(self.samples(examples)),
            example=jnp.zeros((1, 1)),
            distinct=True,
            latent_dim=config.latent.dim,
            context_size=setting.context_size,
            seed=config.seed,
            microbatch_size=config.training.microbatch_size,
        )
        encoder.unit = setting.step / setting.scale
        super().__init__(NAME, encoder, ValueDecoder(config))
        self.weight, self.condition_dim = config.training.property_weight, config.latent.dim

    def columns(self, examples: Examples) -> dict[str, np.ndarray]:
        """Numbers as multiples of `property.step`."""
        return {NAME: self.encoded(self.samples(examples))}

    def column_shapes(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Shape and dtype of one number."""
        return {NAME: jax.ShapeDtypeStruct((1,), np.int32)}

    def sample_format(self) -> dict[str, Any]:
        """Conversion from numbers to inputs, and from outputs to numbers."""
        return {
            "description": "inputs (batch, 1) are round((number - centre) / step), and numbers are "
            "scale * output + centre",
            "centre": self._centre,
            "scale": self._scale,
            "step": self._step,
        }

    def samples(self, examples: Examples) -> Float[np.ndarray, " n"]:
        """Numbers of a split; raises UserError if the data set lacks the column."""
        if self._column in MEASURED and examples.images is not None:
            return MEASURED[self._column](np.asarray(examples.images)).astype(np.float32)
        if self._column not in examples.more:
            known = ", ".join(examples.more) or "none"
            raise UserError(f"the data set has no column {self._column!r}; it has {known}")
        return np.asarray(examples.more[self._column], np.float32)

    def checked(self, samples: Any) -> Float[np.ndarray, " n"]:
        """Validated numbers as float32; raises UserError unless they are finite and (n,)."""
        try:
            numbers = np.asarray(samples, np.float32)
        except (TypeError, ValueError) as error:
            raise UserError(f"properties must be numbers (n,): {error}") from error
        if numbers.ndim != 1 or not len(numbers) or not np.isfinite(numbers).all():
            raise UserError(f"properties must be finite numbers (n,), got {numbers.shape}")
        return numbers

    def encoded(self, samples: Float[np.ndarray, " n"]) -> Int[np.ndarray, "n 1"]:
        """Distances from `property.centre` in multiples of `property.step`, rounded."""
        return np.rint((samples - self._centre) / self._step)[:, None].astype(np.int32)

    def decoded(self, outputs: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        """Numbers in the units of the data."""
        return (outputs * self._scale + self._centre).astype(np.float32)

    def parse(self, text: str) -> Float[np.ndarray, " n"]:
        """Comma-separated numbers."""
        return self.checked(text.split(","))

    def shown(self, samples: Float[np.ndarray, " n"]) -> list[str]:
        """Numbers as strings with three significant digits."""
        return [f"{number:.3g}" for number in samples]


class ValueDecoder:
    """Regression from latents to numbers by least squares."""

    network, output, num_draws = "property_decoder", "properties", 0
    noise_scale: float | None = None  # α uniform in [0, 1]
    condition: str | None = None

    def __init__(self, config: ConfigDict) -> None:
        self.sources: tuple[str, ...] = config.property.latents
        self.module: Any = MLP(config.property.features, 1)
        self._unit = config.property.step / config.property.scale

    def init(self, key: PRNGKeyArray, condition: Condition) -> Any:
        """Initial variables."""
        return self.module.init(key, condition[0], train=False)

    def loss(
        self,
        variables: Variables,
        batch: Mapping[str, Array],
        condition: Condition,
        keys: Sequence[PRNGKeyArray],
    ) -> Float[Array, ""]:
        """Mean squared error in units of `property.scale`."""
        predicted = self._numbers(variables, condition)
        return jnp.mean((predicted - self._unit * batch[NAME][:, 0]) ** 2)

    def generate(
        self,
        variables: Variables,
        key: PRNGKeyArray,
        condition: Condition,
        index: Int[Array, " b"],
    ) -> dict[str, Array]:
        """Number for each latent."""
        return {self.output: self._numbers(variables, condition)}

    def _numbers(self, variables: Variables, condition: Condition) -> Float[Array, " b"]:
        return self.module.apply(variables[self.network], condition[0], train=False)[:, 0]


def measure(model: Any, train: Examples, test: Examples, workdir: Path) -> dict[str, float]:
    """Mean absolute error `TYPE_to_property_mae` and coefficient of determination `.._r2`."""
    numbers, metrics = model.space.types[NAME].samples(test), {}
    for source in (source for source, target in model.translations if target == NAME):
        predicted = model.translate(model.space.types[source].samples(test), source, NAME)
        errors, name = predicted - numbers, f"{source}_to_{NAME}"
        metrics[f"{name}_mae"] = float(np.mean(np.abs(errors)))
        if np.ptp(numbers) > 0:  # equal numbers have no variance to explain
            metrics[f"{name}_r2"] = float(1 - np.mean(errors**2) / np.var(numbers))
    return metrics


parts.add(
    "type",
    "property",
    Property,
    {
        "property.column": parts.word("column of the data set, or 'ink' or 'slant' of images"),
        "property.centre": parts.Field(float, "typical value", 0.0),
        "property.scale": parts.positive("typical deviation from property.centre", 1.0),
        "property.step": parts.positive("numbers that round to the same step share a zone", 0.01),
        "property.context_size": parts.count_or_0("number of context anchors, 0 = none"),
        "property.features": parts.count("units of each hidden layer", 64),
        "property.latents": parts.words(
            "types whose latents the decoder is trained on, in turn", ("property",), part="type"
        ),
        "training.property_weight": parts.amount("weight of the squared error", 1.0),
        "training.learning_rate.property_encoder": parts.positive("learning rate of the encoder"),
        "training.learning_rate.property_decoder": parts.positive("learning rate of the decoder"),
    },
)
parts.add("measurement", "property", measure)
