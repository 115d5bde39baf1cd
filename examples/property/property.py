"""A number of each example: a data type with its encoder and decoder, and a measurement."""

import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from lzn_jax import parts
from lzn_jax.data import digit_captions
from lzn_jax.data_types import DataType, NetworkEncoder
from lzn_jax.errors import UserError

NAME = "property"
MEASURED = {"ink": digit_captions.ink, "slant": digit_captions.slant}  # columns measured on images


class MLP(nn.Module):
    """Two hidden layers, whose initial biases have the standard deviation `bias`."""

    features: int
    outputs: int
    bias: float = 0.0

    @nn.compact
    def __call__(self, x, train):
        for _ in range(2):
            x = nn.gelu(nn.Dense(self.features, bias_init=nn.initializers.normal(self.bias))(x))
        return nn.Dense(self.outputs)(x)


class PropertyEncoder(NetworkEncoder):
    """Encoder of numbers; those that round to the same `property.step` share an anchor."""

    unit = 1.0  # `property.step` in units of `property.scale`

    def inputs(self, samples):
        return self.unit * samples


class Property(DataType):
    """Numbers (n,) float32, from the column `property.column` of the data set."""

    plural = "properties"
    measurements = (NAME,)

    def __init__(self, config):
        self.setting = setting = config.property
        # Without initial biases the anchor of 0 would start at 0.
        network = MLP(setting.features, config.latent.dim, bias=1.0)
        example = jnp.zeros((1, 1), jnp.int32)
        encoder = PropertyEncoder.from_config(
            NAME, config, network, column=NAME, example=example, distinct=True
        )
        encoder.unit = setting.step / setting.scale
        super().__init__(NAME, encoder, ValueDecoder(setting))
        self.condition_dim = config.latent.dim

    def columns(self, examples):
        return {NAME: self.encoded(self.samples(examples))}

    def sample_format(self):
        """Conversion from numbers to inputs, and from outputs to numbers."""
        return {
            "description": "inputs (batch, 1) are round((number - centre) / step), and numbers are "
            "scale * output + centre",
            **{name: self.setting[name] for name in ("centre", "scale", "step")},
        }

    def samples(self, examples):
        column = self.setting.column
        if column in MEASURED and examples.images is not None:
            return MEASURED[column](np.asarray(examples.images)).astype(np.float32)
        if column not in examples.more:
            known = ", ".join(examples.more) or "none"
            raise UserError(f"the data set has no column {column!r}; it has {known}")
        return np.asarray(examples.more[column], np.float32)

    def checked(self, samples):
        try:
            numbers = np.asarray(samples, np.float32)
        except (TypeError, ValueError) as error:
            raise UserError(f"properties must be numbers (n,): {error}") from error
        if numbers.ndim != 1 or not len(numbers) or not np.isfinite(numbers).all():
            raise UserError(f"properties must be finite numbers (n,), got {numbers.shape}")
        return numbers

    def encoded(self, samples):
        """Distances from `property.centre` in multiples of `property.step`, rounded (n, 1)."""
        centred = samples - self.setting.centre
        return np.rint(centred / self.setting.step)[:, None].astype(np.int32)

    def decoded(self, outputs):
        return (outputs * self.setting.scale + self.setting.centre).astype(np.float32)

    def parse(self, text):
        return self.checked(text.split(","))

    def shown(self, samples):
        return [f"{number:.3g}" for number in samples]


class ValueDecoder:
    """Regression from latents to numbers by least squares."""

    network, output, num_draws = "property_decoder", "properties", 0
    noise_scale, condition = None, None  # α uniform in [0, 1]

    def __init__(self, setting):
        self.sources, self.module = setting.sources, MLP(setting.features, 1)
        self.unit = setting.step / setting.scale

    def init(self, key, condition):
        return self.module.init(key, condition[0], train=False)

    def loss(self, variables, batch, condition, keys):
        """Mean squared error in units of `property.scale`."""
        return jnp.mean((self.numbers(variables, condition) - self.unit * batch[NAME][:, 0]) ** 2)

    def generate(self, variables, key, condition, index):
        return {self.output: self.numbers(variables, condition)}

    def numbers(self, variables, condition):
        return self.module.apply(variables[self.network], condition[0], train=False)[:, 0]


def measure(model, train, test, workdir):
    """Mean absolute error `TYPE_to_property_mae` and coefficient of determination `.._r2`."""
    numbers, metrics = model.space.types[NAME].samples(test), {}
    for source in (source for source, target in model.translations if target == NAME):
        predicted = model.translate(model.space.types[source].samples(test), source, NAME)
        errors, name = predicted - numbers, f"{source}_to_{NAME}"
        metrics[f"{name}_mae"] = float(np.mean(np.abs(errors)))
        if np.ptp(numbers) > 0:  # equal numbers have no variance to explain
            metrics[f"{name}_r2"] = float(1 - np.mean(errors**2) / np.var(numbers))
    return metrics


FIELDS = {
    "column": parts.word("column of the data set, or 'ink' or 'slant' of images"),
    "centre": parts.Field(float, "typical value", 0.0),
    "scale": parts.positive("typical deviation from property.centre", 1.0),
    "step": parts.positive("numbers that round to the same step share a zone", 0.01),
    "context_size": parts.count_or_0("number of context anchors, 0 = none"),
    "features": parts.count("units of each hidden layer", 64),
    "sources": parts.words(
        "types whose latents the decoder is trained on, in turn", ("property",), part="type"
    ),
}
RATES = parts.learning_rates("property_encoder", "property_decoder")
parts.add("type", NAME, Property, parts.group(NAME, FIELDS) | RATES)
parts.add("measurement", NAME, measure)
