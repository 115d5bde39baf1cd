"""Feature extractors: networks that turn images into features for the metrics."""

from collections.abc import Callable
from typing import Any, NamedTuple

from jaxtyping import Array, Float, UInt8

INCEPTION = "inception"
CLIP = "clip"


class Outputs(NamedTuple):
    """Outputs of an extractor: Inception computes all three, CLIP only features."""

    features: Float[Array, "b d"]
    spatial: Float[Array, "b s"] | None = None  # for sFID
    logits: Float[Array, "b c"] | None = None


class Extractor(NamedTuple):
    """A named network and its variables; `key` is the hash of its variables."""

    name: str
    key: str
    variables: Any
    apply: Callable[[Any, UInt8[Array, "b h w c"]], Outputs]
