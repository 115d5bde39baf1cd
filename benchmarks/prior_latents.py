"""What it costs a generation run's samples that their latents are drawn from the prior.

    python benchmarks/prior_latents.py --workdir results/digits_gen --samples 5000

In training the decoder sees latents of batches of images, which follow the prior as far as their
solver is exact. Samples with the same noise from latents of the prior, as samples are drawn, and
of training batches by solvers of any exactness, the run's own marked. Prints what evaluation
measures of each, and the variance of its latents where anchors differ: the prior's is 1. Then, as a
floor, what it measures of as many training images, drawn one by one and in batches.
"""

import argparse
import functools
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from label_zones import decode, spread

import lzn_jax
from lzn_jax import studies, zoning
from lzn_jax.randomness import Stream, normal_by_index
from lzn_jax.studies.image_latents import SOLVERS
from lzn_jax.studies.sample_quality import SampleQuality
from lzn_jax.trained_model import TrainedModel
from lzn_jax.zoning.solvers import Solver

COMPARED = [("euler", 20), ("euler", 100), ("dpm", 20), ("euler", 1000)]


def latents_of_batches(
    anchors: np.ndarray, solver: Solver, batch_size: int, count: int, key: jax.Array
) -> np.ndarray:
    """Latents of `count` images, each among the anchors of a random batch, as in training."""

    @jax.jit
    def draw(key: jax.Array) -> jax.Array:
        rows_key, noise_key = jax.random.split(key)
        rows = jax.random.permutation(rows_key, len(anchors))[:batch_size]
        noise = jax.random.normal(noise_key, (batch_size, anchors.shape[1]))
        return zoning.compute_latents(jnp.asarray(anchors)[rows], noise, solver=solver)

    keys = jax.random.split(key, -(-count // batch_size))
    return np.concatenate([np.asarray(draw(key)) for key in keys])[:count]


def kinds_of_latents(
    trained: TrainedModel, anchors: np.ndarray, count: int, key: jax.Array
) -> Iterator[tuple[str, np.ndarray]]:
    """Names and latents of samples."""
    index, shape = jnp.arange(count), anchors.shape[1:]
    yield "prior", np.asarray(normal_by_index(key, Stream.PRIOR_LATENTS, index, shape))
    latent, batch_size = trained.config.latent, trained.config.training.batch_size
    for name, num_steps in COMPARED:
        own = "*" if (name, num_steps) == (latent.solver, latent.num_steps) else ""
        solver = SOLVERS[name](num_steps)
        latents = latents_of_batches(anchors, solver, batch_size, count, jax.random.key(1))
        yield f"{name} {num_steps}{own}", latents


def training_images(total: int, batch_size: int, count: int) -> Iterator[tuple[str, np.ndarray]]:
    """Names and rows of `count` of `total` images, drawn one by one, and in batches."""
    rng = np.random.default_rng(0)
    yield "images", rng.integers(total, size=count)
    batches = [rng.permutation(total)[:batch_size] for _ in range(-(-count // batch_size))]
    yield "of batches", np.concatenate(batches)[:count]


def main() -> None:
    """Prints a line a kind."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--samples", type=int, default=5000)
    arguments = parser.parse_args()
    trained = lzn_jax.load(arguments.workdir)
    config = trained.config
    if config.study != "generation" or not config.latent.enabled:
        parser.error(f"{arguments.workdir} is no generation run with latents")
    train, _ = studies.load_data(config)
    anchors, quality = trained.anchors(train.images), SampleQuality(config)
    key, count = jax.random.key(config.seed), arguments.samples
    measure = functools.partial(quality, train, cache=arguments.workdir / "cache")
    for name, latents in kinds_of_latents(trained, anchors, count, key):
        cells = measure(decode(trained, (latents, None), count, key))
        _print(name, cells | {"variance": spread(anchors, latents)})
    for name, rows in training_images(len(anchors), config.training.batch_size, count):
        _print(name, measure(train.images[rows]))


def _print(name: str, cells: dict[str, float]) -> None:
    print(f"{name:12s}", *(f"{metric} {value:.3f}" for metric, value in cells.items()))


if __name__ == "__main__":
    main()
