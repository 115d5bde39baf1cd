"""A small classifier of real images whose inner features take Inception's place.

For small grey images, which Inception has never seen, and where its weights are not given.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
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
    """Two convolutions that halve the image, a layer of features, a linear classifier."""

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
    """An extractor called `name`, trained to classify the real training images.

    The same seed gives the same network on the same machine. With a `cache_folder` it is trained
    once for each content of the images, seed and state of this code, and then read from there.
    """
    module = FeatureNetwork(int(train.labels.max()) + 1)
    if cache_folder is None:
        variables = _train(module, train, seed)
    else:
        code = Path(__file__).read_text(encoding="utf-8")
        key = cache.key_of(train.images, train.labels, str(seed), code)
        path = cache_folder / f"extractor_{name}_{key[:16]}.npz"
        found = cache.load(path, key)
        variables = _train(module, train, seed) if found is None else _nested(found)
        if found is None:
            cache.save(path, key, **_flat(variables))
    flat = _flat(variables)
    parts = [part for leaf in sorted(flat) for part in (leaf, flat[leaf])]
    return Extractor(name, cache.key_of(*parts), variables, _features_of(module))


def _features_of(module: FeatureNetwork) -> Callable[[Any, UInt8[Array, "b h w c"]], Outputs]:
    def apply(variables: Any, images: UInt8[Array, "b h w c"]) -> Outputs:
        outputs: Any = module.apply(variables, data.normalise(images))
        features, logits = outputs
        return Outputs(features, logits=logits)

    return apply


def _train(module: FeatureNetwork, train: data.Examples, seed: int) -> dict[str, Any]:
    """Variables after Adam with weight decay on batches drawn with replacement."""
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


def _flat(variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
    flat = traverse_util.flatten_dict(variables, sep="/")
    return {name: np.asarray(array) for name, array in flat.items()}


def _nested(flat: Mapping[str, np.ndarray]) -> dict[str, Any]:
    return traverse_util.unflatten_dict(jax.tree.map(jnp.asarray, dict(flat)), sep="/")
