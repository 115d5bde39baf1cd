"""What it costs a generation run's samples that their latents are drawn from the prior.

    python benchmarks/prior_latents.py --workdir results/digits_gen --samples 5000

In training the decoder sees latents of batches of images, which follow the prior as far as their
solver is exact. Samples with the same noise from latents of the prior, as samples are drawn, of the
prior drawn in or out, and of training batches by solvers of any exactness, the run's own marked. A
run without latents has but one kind. Prints what evaluation measures of each, the variance of its
pixels, that of the training images being 1, and the variance of its latents where anchors differ:
the prior's is 1. Then, as a floor, what it measures of as many training images, drawn one by one
and in batches.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from label_zones import decode, spread

import lzn_jax
from lzn_jax import studies, zoning
from lzn_jax.randomness import Stream, normal_by_index
from lzn_jax.studies.sample_quality import SampleQuality
from lzn_jax.trained_model import TrainedModel
from lzn_jax.zoning.solvers import Solver

SCALES = (0.8, 1.0, 1.2)
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
    trained: TrainedModel, anchors: np.ndarray | None, count: int, key: jax.Array
) -> Iterator[tuple[str, np.ndarray | None]]:
    """Names and latents of samples."""
    if anchors is None:
        yield "no latents", None
        return
    prior = normal_by_index(key, Stream.PRIOR_LATENTS, jnp.arange(count), anchors.shape[1:])
    for scale in SCALES:
        yield f"{scale} x prior", scale * np.asarray(prior)
    latent, batch_size = trained.config.latent, trained.config.training.batch_size
    own = (latent.solver, latent.num_steps)
    for compared in dict.fromkeys([own, *COMPARED]):
        name, num_steps = compared
        solver = zoning.SOLVERS[name](num_steps)
        latents = latents_of_batches(anchors, solver, batch_size, count, jax.random.key(1))
        yield f"{name} {num_steps}{'*' if compared == own else ''}", latents


def pixel_variance(images: np.ndarray) -> float:
    """Summed variance of the pixels of images (n, h, w, c)."""
    return float(np.var(images, axis=0, dtype=np.float64).sum())


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
    if config.study != "generation":
        parser.error(f"{arguments.workdir} is no generation run")
    train, _ = studies.load_data(config)
    anchors = trained.anchors(train.images) if config.latent.enabled else None
    quality, total_variance = SampleQuality(config), pixel_variance(train.images)
    key, count = jax.random.key(config.seed), arguments.samples

    def show(name: str, images: np.ndarray, latents: np.ndarray | None = None) -> None:
        cells = quality(train, images, arguments.workdir / "cache")
        cells["pixel variance"] = pixel_variance(images) / total_variance
        if anchors is not None and latents is not None:
            cells["latent variance"] = spread(anchors, latents)
        print(f"{name:12s}", *(f"{metric} {value:.3f}" for metric, value in cells.items()))

    for name, latents in kinds_of_latents(trained, anchors, count, key):
        show(name, decode(trained, (latents, None), count, key), latents)
    for name, rows in training_images(len(train.images), config.training.batch_size, count):
        show(name, train.images[rows])


if __name__ == "__main__":
    main()
