"""Features of images: networks, extraction in batches, and metrics of two sets."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jaxtyping import Array, Float, UInt8
from scipy.special import softmax

from lzn_jax import data
from lzn_jax.evaluation.metrics import (
    Gaussian,
    cmmd,
    frechet_distance,
    gaussian_of,
    inception_score,
    kernel_inception_distance,
    precision_recall,
)
from lzn_jax.models import Tree
from lzn_jax.progress import progress
from lzn_jax.run import devices
from lzn_jax.run.batching import in_batches

INCEPTION = "inception"
CLIP = "clip"


class Outputs(NamedTuple):
    """Outputs of an extractor. Inception computes all three, CLIP only features."""

    features: Float[Array | np.ndarray, "b d"]
    spatial: Float[Array | np.ndarray, "b s"] | None = None  # for sFID
    logits: Float[Array | np.ndarray, "b c"] | None = None


class Extractor(NamedTuple):
    """A named network and its variables."""

    name: str
    variables: Tree
    apply: Callable[[Tree, UInt8[Array, "b h w c"]], Outputs]


NUM_FEATURES = 64
NUM_STEPS = 1000
BATCH_SIZE = 128
LEARNING_RATE = 2e-3


class FeatureNetwork(nn.Module):
    """Two convolutions of stride 2, a feature layer and a linear classifier."""

    num_classes: int

    @nn.compact
    def __call__(self, images: Float[Array, "b h w c"]) -> Outputs:
        """Features (d = 64) and logits of images in [-1, 1]."""
        x = nn.gelu(nn.Conv(32, (3, 3), 2, padding=1)(images))
        x = nn.gelu(nn.Conv(64, (3, 3), 2, padding=1)(x))
        features = nn.gelu(nn.Dense(NUM_FEATURES)(x.reshape(len(x), -1)))
        return Outputs(features, logits=nn.Dense(self.num_classes)(features))


def feature_extractor(train: data.Examples, *, name: str, seed: int = 0) -> Extractor:
    """Extractor `name`, trained to classify the real training images.

    Training is reproducible for a seed on the same machine.
    """
    module = FeatureNetwork(int(train.labels.max()) + 1)

    def apply(variables: Tree, images: UInt8[Array, "b h w c"]) -> Outputs:
        return cast(Outputs, module.apply(variables, data.normalise(images)))

    # On the host, so that training can use all device memory between evaluations.
    return Extractor(name, jax.device_get(_train(module, train, seed)), apply)


def _train(module: FeatureNetwork, train: data.Examples, seed: int) -> Tree:
    """Variables trained by AdamW on batches drawn with replacement."""
    init_key, batch_key = jax.random.split(jax.random.key(seed))
    schedule = optax.cosine_decay_schedule(LEARNING_RATE, NUM_STEPS)
    optimiser = optax.adamw(schedule, weight_decay=1e-2)

    def loss(variables: Tree, images: Array, labels: Array) -> Array:
        outputs: Any = module.apply(variables, data.normalise(images))
        losses = optax.softmax_cross_entropy_with_integer_labels(outputs.logits, labels)
        return jnp.mean(losses)

    @jax.jit
    def update(variables: Tree, state: Tree, step: Array, images: Array, labels: Array) -> Tree:
        key = jax.random.fold_in(batch_key, step)
        rows = jax.random.randint(key, (BATCH_SIZE,), 0, len(labels))
        gradient = jax.grad(loss)(variables, images[rows], labels[rows])
        change, state = optimiser.update(gradient, state, variables)
        return optax.apply_updates(variables, change), state

    images, labels = jnp.asarray(train.images), jnp.asarray(train.labels)
    variables = jax.jit(module.init)(init_key, data.normalise(images[:1]))
    state = optimiser.init(variables)
    with progress(NUM_STEPS, "feature network", brief=True) as bar:
        for step in range(NUM_STEPS):
            variables, state = update(variables, state, jnp.asarray(step), images, labels)
            bar.update()
    return variables


class FeatureSet(NamedTuple):
    """Outputs of an extractor for n images, and Gaussians of its maps and features."""

    features: Float[np.ndarray, "n d"]
    gaussian: Gaussian
    spatial: Gaussian | None
    logits: Float[np.ndarray, "n c"] | None


def extract(
    extractors: Sequence[Extractor], images: UInt8[np.ndarray, "n h w c"], *, batch_size: int = 64
) -> dict[str, FeatureSet]:
    """Features of the images by name of the extractor.

    Batches of at least `batch_size` images per process are divided over the devices.
    """
    mesh, sets = devices.inference_mesh(), {}
    size = batch_size * jax.process_count()
    for name, variables, apply in extractors:
        placed = devices.put_whole(variables, devices.replicated(mesh))
        function = functools.partial(jax.jit(apply), placed)
        features, spatial, logits = in_batches(
            function, images, mesh=mesh, batch_size=size, description="features"
        )
        of_spatial = None if spatial is None else gaussian_of(spatial)
        sets[name] = FeatureSet(features, gaussian_of(features), of_spatial, logits)
    return sets


CONFIDENT = 0.9  # least probability of the likeliest class of a recognised image


def generation_metrics(
    extractor: str, real: FeatureSet, generated: FeatureSet, *, seed: int
) -> dict[str, float]:
    """Metrics of samples by name, from one extractor's features of real and generated images.

    CLIP measures `cmmd`. Inception measures `fid`, `sfid`, `inception_score` and `kid`, whose
    subsets `seed` draws. A classifier X measures `fd_X`, and `recognised`: the share of images for
    which some class gets a probability of 0.9 or more. Inception and classifiers measure
    `precision` and `recall`. Raises UserError if a set contains fewer than 4 images.
    """
    if extractor == CLIP:
        return {"cmmd": cmmd(real.features, generated.features)}
    precision, recall = precision_recall(real.features, generated.features)
    distance = frechet_distance(real.gaussian, generated.gaussian)
    assert generated.logits is not None
    if extractor == INCEPTION:
        assert real.spatial is not None
        assert generated.spatial is not None
        kid = kernel_inception_distance(real.features, generated.features, seed=seed)
        metrics = {
            "fid": distance,
            "sfid": frechet_distance(real.spatial, generated.spatial),
            "inception_score": inception_score(generated.logits),
            "kid": kid,
        }
    else:
        likeliest = np.max(softmax(generated.logits, axis=1), axis=1)
        is_sure = float(np.mean(likeliest >= CONFIDENT))
        metrics = {f"fd_{extractor}": distance, "recognised": is_sure}
    return metrics | {"precision": precision, "recall": recall}
