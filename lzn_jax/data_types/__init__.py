"""Data types: the interface between one kind of sample and the latent space (paper §2.1).

A `DataType` reads, checks and displays its samples. Its encoder maps samples to anchors, and its
decoder maps latents to samples. Either may be absent. In training, `Encoder.zones` returns the
anchors of a batch, which cut the latent space into zones. Latents are drawn in these zones and
passed to `Decoder.loss`. At inference, anchors of training samples (the context) cut the zones, and
`Decoder.generate` decodes latents.

A data type does not depend on other types: `lzn_jax.latent_space` connects them by alignments and
conditions. Register your own type with `lzn_jax.parts.add("type", ...)`, as in docs/parts.md.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from lzn_jax.data import Examples
from lzn_jax.data.batches import RowTransform
from lzn_jax.data_types.display import Displayed, are_images
from lzn_jax.data_types.encoder import NetworkEncoder, context_rows
from lzn_jax.data_types.protocols import (
    Batch,
    Classifier,
    Condition,
    Context,
    Decoder,
    Encoder,
    Invertible,
    Keys,
    Loss,
    Measuring,
    Model,
    Reader,
    Samples,
    Zones,
    given,
    strided,
    trained_on,
)
from lzn_jax.errors import UserError
from lzn_jax.models import Module, Variables
from lzn_jax.parts import require

__all__ = [
    "Batch",
    "Classifier",
    "Condition",
    "Context",
    "DataType",
    "Decoder",
    "Displayed",
    "Encoder",
    "Invertible",
    "Keys",
    "Loss",
    "Measuring",
    "Model",
    "NetworkEncoder",
    "Reader",
    "Samples",
    "Zones",
    "are_images",
    "context_rows",
    "given",
    "strided",
    "trained_on",
]


class DataType(Displayed):
    """One kind of sample. Subclasses implement `samples` and override defaults."""

    weight: float = 1.0  # of the decoder's loss; 0: the decoder is not trained
    # The default α of a translation is the larger of the source's `source_scale` and the target's
    # `target_scale`. 0 gives the centre of a zone, 1 a random point in it.
    source_scale = target_scale = 0.0
    condition_dim = 0  # size of the condition that a sample gives another type's decoder
    has_classes = False  # whether samples are classes, integers from 0
    is_images = False  # whether samples are images (n, h, w, c) uint8
    measurements: tuple[str, ...] = ()  # of a run with this type, by name
    figures: tuple[str, ...] = ("tasks",)  # after an evaluation of such a run, by name
    # `transform(row, rng) -> columns` to add to an example, or to replace, in training on the host.
    transform: RowTransform | None = None

    def __init__(
        self, name: str, encoder: Encoder | Reader | None = None, decoder: Decoder | None = None
    ) -> None:
        """Builds the type `name` of configs, commands and batches.

        Without `encoder`, samples are not encoded. Without `decoder`, no network decodes latents.
        """
        super().__init__(name)
        self.encoder, self.decoder, self.loss_name = encoder, decoder, f"{name}_loss"
        self.output = decoder.output if decoder else self.plural
        if isinstance(encoder, NetworkEncoder) and encoder.samples is None:
            encoder.samples = lambda examples: self.encoded(self.samples(examples))

    @property
    def modules(self) -> dict[str, Module]:
        """Networks by name."""
        both = (self.encoder, self.decoder)
        return {each.network: each.module for each in both if isinstance(each, Encoder | Decoder)}

    def columns(self, examples: Examples) -> dict[str, np.ndarray]:
        """Columns of the training data besides images and labels, with one row per example."""
        return {}

    def column_shapes(self) -> dict[str, jax.ShapeDtypeStruct] | None:
        """Shape and dtype of one row of each column, for `--mode=compile` without the data.

        None means the columns of the first training example.
        """
        return {} if type(self).columns is DataType.columns else None

    def encoded_shape(self) -> jax.ShapeDtypeStruct:
        """Shape and dtype of one row of `encoded`, by default of the column or the example."""
        encoder: Any = self.encoder
        example = jax.eval_shape(lambda: encoder.example[0])
        return (self.column_shapes() or {encoder.column: example})[encoder.column]

    def samples(self, examples: Examples) -> Samples:
        """Samples of a split."""
        raise NotImplementedError(f"{type(self).__qualname__}.samples is not defined")

    def readable(self, examples: Examples) -> Int[np.ndarray, " k"]:
        """Indices of the examples whose sample can be encoded."""
        return np.arange(len(examples.labels))

    def check(self, examples: Examples, name: str) -> None:
        """Logs which samples of a split are left out, and facts about the others."""

    def checked(self, samples: Samples) -> Samples:
        """Validates samples passed by a user. Raises UserError for invalid samples."""
        if isinstance(samples, str):
            raise UserError(f"{self.plural} must be a list of samples, got the string {samples!r}")
        if len(samples) == 0:
            raise UserError("the number of samples must be at least 1, got 0")
        if isinstance(samples, np.ndarray | jax.Array):
            is_finite = samples.dtype.kind != "f" or bool(np.isfinite(samples).all())
            require(is_finite, f"{self.plural} must be finite, got NaN or infinity")
            row = np.shape(self.encoded(samples[:1]))[1:]
            needed = getattr(getattr(self.encoder, "example", None), "shape", (1, *row))[1:]
            require(row == needed, f"the encoder reads {self.plural} of shape {needed}, got {row}")
        return samples

    def encoded(self, samples: Samples) -> Samples:
        """Inputs of the encoder. Raises UserError for samples that cannot be encoded."""
        return samples

    def decoded(self, outputs: Samples) -> Samples:
        """Samples from outputs of the decoder."""
        return outputs

    def condition(self, batch: Batch, zones: Zones | None) -> Array:
        """Condition (b, condition_dim) of another type's decoder for a training batch.

        The default is each sample's anchor, and 0 for a missing sample. Raises UserError for a type
        without zones.
        """
        if zones is None:
            raise UserError(f"no decoder can be conditioned on {self.name}")
        # Computed by rows, since indexing by `own` would gather the anchors from all devices again.
        anchors = zones.anchors if zones.own is None else strided(zones.anchors, len(zones.own))
        if zones.is_present is None:
            return anchors
        return jnp.where(zones.is_present[:, None], anchors, 0)

    def condition_of(self, variables: Variables, samples: Samples) -> Array:
        """The same condition for samples at inference."""
        encoder: Any = self.encoder
        return encoder.anchors(variables, samples)
