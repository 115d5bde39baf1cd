"""A small classifier of real images whose hidden features replace Inception's.

For small grey images, which differ from Inception's training images, and for runs without
Inception weights.
"""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from flax import traverse_util
from jaxtyping import Array, Float, UInt8

from lzn_jax import data
from lzn_jax.evaluation import cache
from lzn_jax.evaluation.extractors import Extractor, Outputs
from lzn_jax.run.progress import progress

NUM_FEATURES = 64
NUM_STEPS = 1000
BATCH_SIZE = 128
LEARNING_RATE = 2e-3


class FeatureNetwork(nn.Module):
    """Two convolutions of stride 2, a feature layer and a linear classifier."""

    num_classes: int

    @nn.compact
    def __call__(
        self, images: Float[Array, "b h w c"]
    ) -> tuple[Float[Array, "b d"], Float[Array, "b k"]]:
        """Features (d = 64) and logits of images in [-1, 1]."""
        x = nn.gelu(nn.Conv(32, (3, 3), 2, padding=1)(images))
        x = nn.gelu(nn.Conv(64, (3, 3), 2, padding=1)(x))
        features = nn.gelu(nn.Dense(NUM_FEATURES)(x.reshape(len(x), -1)))
        return features, nn.Dense(self.num_classes)(features)


def feature_extractor(
    train: data.Examples, *, name: str, seed: int = 0, cache_folder: Path | None = None
) -> Extractor:
    """Extractor `name`, trained to classify the real training images.

    Training is reproducible for a seed on the same machine. With a `cache_folder`, the trained
    network is stored there and reused while images, labels, seed and the code of this module are
    unchanged.
    """
    module = FeatureNetwork(int(train.labels.max()) + 1)
    if cache_folder is None:
        variables = _train(module, train, seed)
    else:
        code = Path(__file__).read_text(encoding="utf-8")
        key = cache.key_of(train.images, train.labels, str(seed), code)
        path = cache_folder / f"extractor_{name}_{key[:16]}.npz"
        arrays = cache.load(path, key)
        if arrays is None:
            variables = jax.device_get(_train(module, train, seed))
            cache.save(path, key, **traverse_util.flatten_dict(variables, sep="/"))
        else:
            variables = traverse_util.unflatten_dict(arrays, sep="/")

    def apply(variables: Any, images: UInt8[Array, "b h w c"]) -> Outputs:
        outputs: Any = module.apply(variables, data.normalise(images))
        features, logits = outputs
        return Outputs(features, logits=logits)

    return Extractor(name, cache.key_of_variables(variables), variables, apply)


def _train(module: FeatureNetwork, train: data.Examples, seed: int) -> dict[str, Any]:
    """Variables trained by AdamW on batches drawn with replacement."""
    init_key, batch_key = jax.random.split(jax.random.key(seed))
    schedule = optax.cosine_decay_schedule(LEARNING_RATE, NUM_STEPS)
    optimiser = optax.adamw(schedule, weight_decay=1e-2)

    def loss(variables: Any, images: Array, labels: Array) -> Array:
        _, logits = module.apply(variables, data.normalise(images))
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, labels))

    @jax.jit
    def update(variables: Any, state: Any, step: Array, images: Array, labels: Array) -> Any:
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
