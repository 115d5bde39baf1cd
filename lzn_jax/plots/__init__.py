"""Pictures of arrays. Functions that take a path write one PNG file, atomically."""

from lzn_jax.plots.curves import classification, curves
from lzn_jax.plots.embedding import MIN_POINTS, tsne
from lzn_jax.plots.sheets import (
    MAX_PAIRS,
    enlarged,
    interpolation,
    predictions,
    reconstructions,
    retrieval,
    sample_grid,
    tasks,
    translations,
)
from lzn_jax.plots.zones import ZoneMap, among_zones, latent_zones, zone_map

__all__ = [
    "MAX_PAIRS", "MIN_POINTS", "ZoneMap", "among_zones", "classification", "curves", "enlarged",
    "interpolation", "latent_zones", "predictions", "reconstructions", "retrieval",
    "sample_grid", "tasks", "translations", "tsne", "zone_map",
]  # fmt: skip
