"""What several benchmarks use: a parser of flags, clocks, and the problem that zoning solves."""

import argparse
import functools
import statistics
import time
from collections.abc import Callable
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lzn_jax import zoning

Q, STEPS, NOISE_SCALE = 256, 20, 0.45
STDS = {"soft": 0.02, "Gaussian": 1.0}


def parser(doc: str, **options: Any) -> argparse.ArgumentParser:
    """A parser that shows a script's docstring as it is written."""
    formatter = argparse.RawDescriptionHelpFormatter
    return argparse.ArgumentParser(description=doc, formatter_class=formatter, **options)


def seconds(function: Callable[..., Any], *arguments: Any) -> float:
    """Wall-clock time of one call."""
    started = time.perf_counter()
    jax.block_until_ready(function(*arguments))
    return time.perf_counter() - started


def median_seconds(function: Callable[..., Any], *arguments: Any, repeats: int = 5) -> float:
    """Median of several calls."""
    return statistics.median(seconds(function, *arguments) for _ in range(repeats))


@functools.cache
def gradient(solver: zoning.Solver, form: ModuleType = zoning) -> Callable[..., Any]:
    """The alignment loss, the latents, and the loss's gradient, of anchors, partners and noise."""

    def loss(anchors: jax.Array, partners: jax.Array, noise: jax.Array) -> Any:
        latents = form.compute_latents(anchors, noise, solver=solver)
        targets = jnp.arange(len(anchors))
        return form.alignment_loss(latents, partners, targets, solver=solver)[0], latents

    return jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))


def make_problem(n: int, std: float) -> tuple[np.ndarray, ...]:
    """Anchors, partners and scaled noise, float32 (n, q)."""
    rng = np.random.default_rng(0)
    anchors = std * rng.normal(size=(n, Q))
    partners = anchors + 0.5 * std * rng.normal(size=(n, Q))
    return tuple(np.float32(a) for a in (anchors, partners, NOISE_SCALE * rng.normal(size=(n, Q))))
