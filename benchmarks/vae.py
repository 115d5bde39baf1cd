"""A variational autoencoder of a config's networks, trained as long: LZN alone is held against it.

    python benchmarks/vae.py --config=configs/digits_alone.py --seconds 300

Trains with each weight β of the Kullback-Leibler term for the given time, prints what
`lzn_jax.main` measures of samples, and names the β with the smallest Fréchet distance.
"""

import functools
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import shared

from lzn_jax import configuration, data, models
from lzn_jax.data import Examples, normalise, to_uint8
from lzn_jax.evaluation.samples import SampleQuality, nearest_training_images
from lzn_jax.run import files

METRICS = ("fd_features", "precision", "recall", "recognised", "nearest_ratio", "updates")


def train(config: Any, examples: Examples, beta: float, seconds: float) -> tuple[Any, int]:
    """Averaged variables of encoder and decoder, and the updates that the time was enough for."""
    training, dim = config.training, config.latent.dim
    decoder = models.build(config)["decoder"]
    encoder = models.build(config)["encoder"].clone(latent_dim=2 * dim)
    images = jnp.asarray(examples.images)
    keys = jax.random.split(jax.random.key(config.seed), 3)
    variables = {
        "encoder": encoder.init(keys[0], normalise(images[:1]), train=False),
        "decoder": decoder.init(keys[1], jnp.zeros((1, dim)), None, train=False),
    }
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.scale_by_adam())

    def loss(variables: Any, batch: jax.Array, key: jax.Array) -> jax.Array:
        encoded = encoder.apply(variables["encoder"], batch, train=True)
        mean, log_std = jnp.split(encoded, 2, axis=1)
        latents = mean + jnp.exp(log_std) * jax.random.normal(key, mean.shape)
        made = decoder.apply(variables["decoder"], latents, None, train=True)
        divergence = 0.5 * (mean**2 + jnp.exp(2 * log_std) - 1 - 2 * log_std)
        errors = jnp.sum((made - batch) ** 2, axis=(1, 2, 3)) / 2
        return jnp.mean(errors + beta * jnp.sum(divergence, axis=1)) / batch[0].size

    @jax.jit  # without a scan, in which convolutions are slow on CPUs
    def update(state: Any, step: int, rate: float) -> Any:
        variables, moments, ema = state
        rows_key, noise_key = jax.random.split(jax.random.fold_in(keys[2], step))
        size = training.queries or training.batch_size
        rows = jax.random.randint(rows_key, (size,), 0, len(images))
        gradient = jax.grad(loss)(variables, normalise(images[rows]), noise_key)
        changes, moments = optimizer.update(gradient, moments)
        variables = jax.tree.map(lambda a, b: a - rate * b, variables, changes)
        ema = optax.incremental_update(variables, ema, 1 - training.ema_decay)
        return variables, moments, ema

    state, count = (variables, optimizer.init(variables), variables), 0
    jax.block_until_ready(update(state, 0, 0.0))  # compiled before the clock runs
    start = time.perf_counter()
    while (share := (time.perf_counter() - start) / seconds) < 1:
        rate = training.learning_rate.decoder * (1 + np.cos(np.pi * share)) / 2  # as LZN's falls
        state = jax.block_until_ready(update(state, count, float(rate)))
        count += 1
    return state[2], count


def measure(
    quality: SampleQuality, config: Any, variables: Any, train: Examples, test: Examples
) -> Any:
    """Metrics of samples from the prior."""
    decode = jax.jit(functools.partial(models.build(config)["decoder"].apply, train=False))
    count = config.evaluation.num_samples
    latents = jax.random.normal(jax.random.key(1), (count, config.latent.dim))
    made = np.asarray(to_uint8(decode(variables["decoder"], latents, None)))
    return quality(train, made) | nearest_training_images(train, test, made)


def main() -> None:
    parser = shared.parser(__doc__)
    parser.add_argument("--config", default="configs/digits_alone.py")
    parser.add_argument("--seconds", type=float, required=True, help="of training, for each β")
    parser.add_argument("--betas", type=float, nargs="+", default=[0.05, 0.1, 0.2, 0.4, 0.8])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=Path("results/vae"))
    arguments = parser.parse_args()
    config = configuration.load(arguments.config, [f"seed={arguments.seed}"])
    examples, test = data.load_data(config)
    quality = SampleQuality(config)
    real = quality(examples, test.images)
    print("test images:", shared.line(real))
    results = {}
    for beta in arguments.betas:
        variables, count = train(config, examples, beta, arguments.seconds)
        found = measure(quality, config, variables, examples, test) | {"updates": count}
        results[str(beta)] = found
        print(shared.line({"β": beta} | {name: found[name] for name in METRICS}), flush=True)
    best = min(results, key=lambda beta: results[beta]["fd_features"])
    print(f"the smallest distance is that of β = {best}")
    name = f"{Path(arguments.config).stem}_seed{arguments.seed}.json"
    files.write_json(arguments.folder / name, results)


if __name__ == "__main__":
    main()
