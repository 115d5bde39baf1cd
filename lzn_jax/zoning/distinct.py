"""Equal samples of a batch are one sample: they share an anchor, weighted by their number."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


class Distinct(NamedTuple):
    """Which rows of a batch of b samples are equal; for zoning with one anchor a row.

    Attributes:
      first: (b,) int32, for each row the first that is equal to it: `own`, or `targets`.
      log_counts: (b,) `log_weights`: at a first row the log of how many are equal to it, else -inf.
    """

    first: Int[Array, " b"]
    log_counts: Float[Array, " b"]


@jax.jit
def distinct(samples: Int[Array, "b ..."], is_present: Bool[Array, " b"] | None = None) -> Distinct:
    """The distinct samples of a batch, b > 0, such as labels (b,) or tokens (b, l).

    Rows that are not present count for nothing, whatever they hold; their `first` is a row that is
    present. Where none is, row 0 stands for all, so that there is an anchor.
    """
    count = len(samples)
    if is_present is None:
        is_present = jnp.ones(count, bool)
    is_present = jnp.where(jnp.any(is_present), is_present, jnp.arange(count) == 0)
    rows = jnp.column_stack([is_present.astype(samples.dtype), samples.reshape(count, -1)])
    _, row, group = jnp.unique(rows, axis=0, return_index=True, return_inverse=True, size=count)
    first = jnp.where(is_present, row[group.reshape(-1)], jnp.argmax(is_present))
    counts = jnp.zeros(count).at[first].add(is_present)
    return Distinct(first.astype(jnp.int32), jnp.log(counts))
