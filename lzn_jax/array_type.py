"""Float arrays of one shape, such as time series: a data type that needs only its networks."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Float
from ml_collections import ConfigDict

from lzn_jax.data import Examples
from lzn_jax.data_types import DataType, Decoder, Encoder, NetworkEncoder, Reader, Samples
from lzn_jax.decoders.flow import ArrayFlow
from lzn_jax.errors import UserError
from lzn_jax.models import Module
from lzn_jax.parts import REQUIRED, Field, count_or_0, require

Shared = float | Sequence[float] | np.ndarray  # a number of all channels, or one of each


class ArrayType(DataType):
    """Arrays (n, *shape) of finite floats, from a column of the data set."""

    def __init__(
        self, name: str, shape: tuple[int, ...], *, config: ConfigDict, column: str | None = None,
        encoder: Module = None, decoder: Module = None, mean: Shared = 0.0, scale: Shared = 1.0,
    ) -> None:  # fmt: skip
        """Builds the type `name`, whose networks read and write rows (samples - mean) / scale.

        `column` is the key in `Examples.more`, batches and results, by default `name`. `encoder` is
        a network from rows to (b, q), or an `Encoder`. `decoder` is the network of an `ArrayFlow`,
        or a `Decoder`.
        """
        self.shape, self.column = tuple(shape), (column := column or name)
        self.mean, self.scale = np.asarray(mean, np.float32), np.asarray(scale, np.float32)
        require(bool(np.all(self.scale > 0)), f"the scale of {name} must be > 0, got {scale}")
        row = self._row = jax.numpy.asarray(self.encoded(np.zeros((1, *self.shape), np.float32)))
        if encoder is not None and not isinstance(encoder, Encoder | Reader):
            encoder = NetworkEncoder.from_config(name, config, encoder, column=column, example=row)
        if decoder is not None and not isinstance(decoder, Decoder):
            settings = {"shape": row.shape[1:], **ArrayFlow.settings(config)}
            decoder = ArrayFlow(name, decoder, output=column, **settings)
        super().__init__(name, encoder, decoder)

    @staticmethod
    def fields(name: str, context_size: object = REQUIRED) -> dict[str, Field]:
        """Config fields of the type `name`. `context_size` is a default."""
        return {f"{name}.context_size": count_or_0("context anchors, 0 = none", context_size)}

    def samples(self, examples: Examples) -> Samples:
        require(self.column in examples.more, f"no column {self.column!r} in {[*examples.more]}")
        return self.checked(examples.more[self.column])

    def columns(self, examples: Examples) -> dict[str, np.ndarray]:
        return {self.column: self.encoded(self.samples(examples))}

    def column_shapes(self) -> dict[str, jax.ShapeDtypeStruct]:
        return {self.column: jax.ShapeDtypeStruct(self._row.shape[1:], self._row.dtype)}

    def checked(self, samples: Samples) -> Samples:
        try:
            arrays = np.asarray(samples).astype(np.float32, casting="same_kind", copy=False)
        except (TypeError, ValueError) as error:
            raise UserError(f"{self.plural} must be numbers: {error}") from error
        if arrays.shape[1:] != self.shape or not np.isfinite(arrays).all():
            raise UserError(f"{self.plural} must be finite, each {self.shape}, got {arrays.shape}")
        return super().checked(arrays)

    def encoded(self, samples: Samples) -> Float[np.ndarray, "n ..."]:
        return (samples - self.mean) / self.scale

    def decoded(self, outputs: Samples) -> Samples:
        return self.scale * np.asarray(outputs) + self.mean

    def sample_format(self) -> dict[str, object]:
        units = {"shape": self.shape, "mean": self.mean.tolist(), "scale": self.scale.tolist()}
        return {"description": "rows are (samples - mean) / scale"} | units

    def parse(self, text: str) -> Samples:
        """Samples of a .npy, .npz or .csv file, or one sample from numbers separated by commas."""
        return self._read(text, is_file=text.endswith((".npy", ".npz", ".csv")))

    def written(self, value: str) -> Samples:
        return self._read(value, is_file=False)

    def _read(self, text: str, *, is_file: bool) -> Samples:
        try:
            if is_file and not text.endswith(".csv"):
                with open(text, "rb") as file:
                    found = np.load(file, allow_pickle=False)
                    found = found if isinstance(found, np.ndarray) else found[self.column]
            else:
                found = np.loadtxt(text if is_file else [text], delimiter=",", ndmin=2)
        except Exception as error:  # damaged files raise many kinds of errors
            raise UserError(f"{text!r} is no .npy, .npz, .csv file or numbers: {error}") from error
        one = np.empty(self.shape)
        is_table = found.squeeze().shape == one.squeeze().shape or found.shape[1:] == (one.size,)
        return found.reshape(-1, *self.shape) if is_table else found

    def draw(self, sample: Float[np.ndarray, "times ..."], axis: Any) -> None:
        """Draws a sample into axes of matplotlib, with a line for each channel."""
        axis.plot(np.reshape(sample, (*np.shape(sample)[:1], -1)))
