"""Pictures for people, from arrays. Each function writes one PNG file, whole or not at all."""

from lzn_jax.plots.embedding import MIN_POINTS, tsne
from lzn_jax.plots.grids import interpolation, predictions, reconstructions, sample_grid
from lzn_jax.plots.lines import accuracy_curves, classification, curves
from lzn_jax.plots.translations import MAX_PAIRS, tasks, translations
from lzn_jax.plots.zones import latent_zones

__all__ = [
    "MAX_PAIRS",
    "MIN_POINTS",
    "accuracy_curves",
    "classification",
    "curves",
    "interpolation",
    "latent_zones",
    "predictions",
    "reconstructions",
    "sample_grid",
    "tasks",
    "translations",
    "tsne",
]
