"""What it costs a joint run's samples that their latents are drawn in label zones.

    python benchmarks/label_zones.py --workdir results/fashion_joint --samples 2000

In training the decoder sees latents of images, in sampling those of their class's zone; the two are
alike as far as they are aligned. Samples in equal shares of the classes, with the same noise, from
latents of four kinds: of label zones, as samples are drawn; of label zones solved in many more
steps; of the zones of training images, as in training; and of these the ones that lie in the zone
of their class. A run without latents has but one kind. Prints what evaluation measures of each, and
the variance of its latents where label anchors differ: the prior's is 1.
"""

import argparse
import functools
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import lzn_jax
from lzn_jax import studies, zoning
from lzn_jax.data import Examples
from lzn_jax.evaluation.judge import fit_judge
from lzn_jax.randomness import Stream, normal_by_index
from lzn_jax.run import sharding
from lzn_jax.studies.image_decoder import Condition
from lzn_jax.studies.sample_quality import SampleQuality
from lzn_jax.trained_model import TrainedModel

EXACT = zoning.Euler(1000)
CANDIDATES = 3  # images looked at for each sample whose latent must lie in the zone of its class


def random_rows(labels: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """A random row for each of `classes`, none twice, that has it among `labels`.

    Ends the program where a class has too few.
    """
    order = np.random.default_rng(0).permutation(len(labels))
    rows = np.empty(len(classes), np.int64)
    for k, wanted in zip(*np.unique(classes, return_counts=True), strict=True):
        found = order[labels[order] == k][:wanted]
        if len(found) < wanted:
            raise SystemExit(f"{len(found)} images of {wanted} in class {k}: take fewer --samples")
        rows[classes == k] = found
    return rows


def kinds_of_latents(
    trained: TrainedModel, train: Examples, classes: np.ndarray, key: jax.Array
) -> Iterator[tuple[str, np.ndarray | None]]:
    """Names and latents of samples of `classes`."""
    if not trained.config.latent.enabled:
        yield "no latents", None
        return
    yield "label zones", label_latents(trained, classes, key, trained.study.label_solver)
    yield "exact zones", label_latents(trained, classes, key, EXACT)
    rows = random_rows(train.labels, np.tile(classes, CANDIDATES))
    latents = trained.encode(train.images[np.sort(rows)], key, noise_scale=1.0)
    latents, labels = latents[np.argsort(np.argsort(rows))], train.labels[rows]
    yield "image zones", latents[: len(classes)]
    inside = np.asarray(trained.study.predict(trained.model.variables, latents)["classes"])
    print(f"latents of image zones in the zone of their class: {np.mean(inside == labels):.3f}")
    allowed = np.flatnonzero(inside == labels)
    yield "both", latents[allowed[random_rows(labels[allowed], classes)]]


def label_anchors(trained: TrainedModel) -> jax.Array:
    """Anchors of the classes, (c, q)."""
    return trained.study.modules["label_anchors"].apply(trained.model.variables["label_anchors"])


def label_latents(
    trained: TrainedModel, classes: np.ndarray, key: jax.Array, solver: zoning.Euler
) -> np.ndarray:
    """Points of label zones, (n, q), from the noise that samples take theirs from."""
    anchors = label_anchors(trained)
    noise = normal_by_index(key, Stream.SAMPLE_LATENTS, jnp.arange(len(classes)), anchors.shape[1:])
    return np.asarray(zoning.compute_latents(anchors, noise, jnp.asarray(classes), solver=solver))


def spread(anchors: np.ndarray, latents: np.ndarray) -> float:
    """Mean variance of latents (n, q) in the directions in which anchors differ; the prior has 1.

    Directions of less than a hundredth of the largest difference do not count.
    """
    _, sizes, directions = np.linalg.svd(anchors - anchors.mean(axis=0), full_matrices=False)
    return float(np.var(latents @ directions[sizes > 0.01 * sizes[0]].T, axis=0).mean())


def decode(trained: TrainedModel, condition: Condition, count: int, key: jax.Array) -> np.ndarray:
    """Image i from the same noise as sample i has."""
    study, config = trained.study, trained.config
    mesh = sharding.make_mesh(studies.examples_at_a_time(config.training))

    @jax.jit
    def generate(request: dict) -> dict:
        variables = trained.model.variables
        return study.decoder.generate(variables, key, request["condition"], request["index"])

    request = {"condition": condition, "index": np.arange(count)}
    return studies.batched(config, mesh)(generate, request, description="sampling")["images"]


def main() -> None:
    """Prints a line a kind."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--samples", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0, help="of the noise")
    arguments = parser.parse_args()
    trained = lzn_jax.load(arguments.workdir)
    if trained.config.study != "joint":
        parser.error(f"{arguments.workdir} is no joint run")
    train, _ = studies.load_data(trained.config)
    classes = np.arange(arguments.samples, dtype=np.int32) % trained.config.data.num_classes
    key = jax.random.key(arguments.seed)
    judge, quality = fit_judge(train), SampleQuality(trained.config)
    measure = functools.partial(quality, train, cache=arguments.workdir / "cache")
    for name, latents in kinds_of_latents(trained, train, classes, key):
        one_hot = np.eye(trained.config.data.num_classes, dtype=np.float32)[classes]
        images = decode(trained, (latents, one_hot), len(classes), key)
        cells = {"recognised": np.mean(judge(images) == classes), **measure(images)}
        if latents is not None:
            cells["variance"] = spread(np.asarray(label_anchors(trained)), latents)
        print(f"{name:12s}", *(f"{metric} {value:.3f}" for metric, value in cells.items()))


if __name__ == "__main__":
    main()
