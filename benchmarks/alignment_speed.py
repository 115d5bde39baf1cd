"""Time of an alignment's value and gradient, relative to the paper's form with 20 steps of Euler.

    python benchmarks/alignment_speed.py [--configs emoji_text digits_text] [--repeats 30]

Latents and anchors are N(0, I), of the config's batch size and dimension. The settings take turns.
Prints the median time of each, and its ratio to Euler's.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import shared
from ml_collections import ConfigDict

from lzn_jax import configuration, latent_space, parts
from lzn_jax.data_types import Zones

SETTINGS = {
    "Euler 20": "solver=euler num_steps=20 cutoff=0.2 sharpness=None",
    "config": "",
    "r = 1": "sharpness=1.0",
}


def gradient(config: str, overrides: str) -> Callable[[], object]:
    flags = [f"alignment.{flag}" for flag in overrides.split()]
    loaded = configuration.load(f"configs/{config}.py", flags)
    align = parts.get("alignment", loaded.alignment.form)
    setting = ConfigDict({**loaded.alignment, "solver": latent_space.solver(loaded.alignment)})
    shape = (2, loaded.training.batch_size, loaded.latent.dim)
    latents, anchors = jax.random.normal(jax.random.key(0), shape)
    targets = jnp.arange(len(latents))

    @jax.jit
    def both(latents: jax.Array, anchors: jax.Array) -> object:
        def loss(latents: jax.Array, anchors: jax.Array) -> jax.Array:
            return align(latents, Zones(anchors), targets, setting)[0]

        return jax.value_and_grad(loss, (0, 1))(latents, anchors)

    return functools.partial(both, latents, anchors)


def main() -> None:
    parser = shared.parser(__doc__)
    parser.add_argument("--configs", nargs="+", default=["emoji_text", "digits_text"])
    parser.add_argument("--repeats", type=int, default=30)
    arguments = parser.parse_args()
    for config in arguments.configs:
        calls = [gradient(config, overrides) for overrides in SETTINGS.values()]
        medians = np.median(shared.in_turns(*calls, repeats=arguments.repeats), axis=0)
        for name, median in zip(SETTINGS, medians, strict=True):
            ratio = median / medians[0]
            print(f"{config:14s} {name:15s} {1e3 * median:6.2f} ms, {ratio:.2f} of Euler 20")


if __name__ == "__main__":
    main()
