"""Feature extractors: networks that turn images into what the metrics compare."""

import os
from collections.abc import Callable
from typing import Any, NamedTuple

from jaxtyping import Array, Float, UInt8

from lzn_jax.evaluation.clip import clip_embeddings
from lzn_jax.evaluation.clip_weights import load_clip
from lzn_jax.evaluation.inception import inception_outputs
from lzn_jax.evaluation.inception_weights import load_inception

INCEPTION = "inception"
CLIP = "clip"


class Outputs(NamedTuple):
    """What an extractor makes of images; Inception alone has all three, CLIP features alone."""

    features: Float[Array, "b d"]
    spatial: Float[Array, "b s"] | None = None
    logits: Float[Array, "b c"] | None = None


class Extractor(NamedTuple):
    """A named network with its variables; `key` is the hash of its variables."""

    name: str
    key: str
    variables: Any
    apply: Callable[[Any, UInt8[Array, "b h w c"]], Outputs]


def inception_extractor(path: str | os.PathLike[str]) -> Extractor:
    """The FID Inception network with the weights at `path`; raises UserError as they do."""
    weights = load_inception(path)
    return Extractor(
        INCEPTION,
        weights.key,
        weights.variables,
        lambda variables, images: Outputs(*inception_outputs(variables, images)),
    )


def clip_extractor(path: str | os.PathLike[str]) -> Extractor:
    """CLIP's image side with the weights at `path`; raises UserError as they do."""
    network, variables, key = load_clip(path)
    return Extractor(
        CLIP,
        key,
        variables,
        lambda variables, images: Outputs(clip_embeddings(network, variables, images)),
    )
