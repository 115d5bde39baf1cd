"""What several benchmarks use: flags, clocks, errors, rows, and the problem that zoning solves."""

import argparse
import functools
import time
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lzn_jax import zoning

Q, STEPS, NOISE_SCALE = 256, 20, 0.45
STDS = {"soft": 0.02, "Gaussian": 1.0}
PREFIX = "--config."


def parser(doc: str | None) -> argparse.ArgumentParser:
    """A parser that shows a script's docstring as it is written."""
    formatter = argparse.RawDescriptionHelpFormatter
    return argparse.ArgumentParser(description=doc, formatter_class=formatter, allow_abbrev=False)


def parse(parser: argparse.ArgumentParser) -> tuple[argparse.Namespace, list[str]]:
    """The flags of a script, and the overrides of config fields among them."""
    arguments, flags = parser.parse_known_args()
    if unknown := [flag for flag in flags if not flag.startswith(PREFIX)]:
        parser.error(f"unknown arguments: {' '.join(unknown)}")
    return arguments, [flag.removeprefix(PREFIX) for flag in flags]


def seconds(function: Callable[..., Any], *arguments: Any) -> float:
    """Wall-clock time of one call."""
    started = time.perf_counter()
    jax.block_until_ready(function(*arguments))
    return time.perf_counter() - started


def in_turns(*calls: Callable[[], Any], repeats: int) -> np.ndarray:
    """Seconds (repeats, calls) of calls that take turns, after one each that may compile."""
    rows = [[seconds(call) for call in calls] for _ in range(repeats + 1)]
    return np.array(rows[1:])


def relative_error(found: Any, reference: Any) -> float:
    """|found - reference| / |reference|, in the Frobenius norm."""
    difference = np.asarray(found, np.float64) - reference
    return float(np.linalg.norm(difference) / np.linalg.norm(reference))


def line(row: Mapping[str, Any]) -> str:
    """Names and values of a row."""
    numbers = {name: f"{v:.3g}" if isinstance(v, float) else v for name, v in row.items()}
    return "  ".join(f"{name} {value}" for name, value in numbers.items())


def print_table(rows: Sequence[Sequence[Any]]) -> None:
    """Rows in columns that are as wide as they must be."""
    texts = [[str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    for row in texts:
        cells = (f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True))
        print("  ".join(cells).rstrip())


@functools.cache
def gradient(form: ModuleType = zoning, **setting: Any) -> Callable[..., Any]:
    """The alignment loss, the latents, and the loss's gradient, of anchors, partners and noise."""

    def loss(anchors: jax.Array, partners: jax.Array, noise: jax.Array) -> Any:
        latents = form.compute_latents(anchors, noise, **setting)
        targets = jnp.arange(len(anchors))
        return form.alignment_loss(latents, partners, targets, **setting)[0], latents

    return jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))


def make_problem(n: int, std: float) -> tuple[np.ndarray, ...]:
    """Anchors, partners and scaled noise, float32 (n, q)."""
    rng = np.random.default_rng(0)
    anchors = std * rng.normal(size=(n, Q))
    partners = anchors + 0.5 * std * rng.normal(size=(n, Q))
    return tuple(np.float32(a) for a in (anchors, partners, NOISE_SCALE * rng.normal(size=(n, Q))))
