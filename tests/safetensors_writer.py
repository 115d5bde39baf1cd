"""Writes safetensors files."""

from lzn_jax import files


def write(path, tensors):
    """Writes arrays by name; returns the path."""
    files.write_tensors(path, tensors)
    return path
