"""Registers the measurements by name."""

from lzn_jax import parts

_MEASURES = "lzn_jax.evaluation"

parts.add("measurement", "representations", f"{_MEASURES}.representation:measure")
parts.add("measurement", "classification", f"{_MEASURES}.classification:measure")
parts.add("measurement", "samples", f"{_MEASURES}.samples:measure")
parts.add("measurement", "reconstruction", f"{_MEASURES}.samples:measure_reconstruction")
parts.add("measurement", "texts", f"{_MEASURES}.texts:measure")
