"""Registers the measurements by name."""

from lzn_jax import parts

_MEASURES = "lzn_jax.evaluation"

parts.add("measurement", "representations", f"{_MEASURES}.representation:measure")
parts.add("measurement", "classification", f"{_MEASURES}.classification:measure")
parts.add("measurement", "samples", f"{_MEASURES}.sample_quality:measure")
parts.add("measurement", "reconstruction", f"{_MEASURES}.reconstruction:measure")
parts.add("measurement", "texts", f"{_MEASURES}.texts:measure")
