"""What sampling any number of images costs over the bare flow that it consists of.

    python benchmarks/sampling_speed.py [--config configs/digits_gen.py] [--count 1000]

`study.sample` (noise by index, batches, padding, progress bar, images on the host) against the
jitted flow of the decoder in a bare loop over as many batches whose noise and latents are drawn
beforehand. Fresh networks, taken in turns, best of the repeats: images a second, and the share of
the bare loop's speed that sampling reaches. Prints a table; writes sampling_speed.json. Goal: 0.85.
"""

import argparse
import functools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from lzn_jax import configuration, studies
from lzn_jax.losses import rectified_flow
from lzn_jax.run import reporting, sharding
from lzn_jax.studies.generation import Generation


def bare_loop(study: Generation, variables: studies.Variables, count: int) -> Callable[[], Any]:
    """The decoder's flow over batches of noise and latents that are there already."""
    config, decoder = study.config, study.decoder
    data, size = config.data, studies.examples_at_a_time(config.training)
    shape = (data.image_size, data.image_size, data.channels)

    @jax.jit
    def flow(variables, noise, latents):
        velocity = functools.partial(decoder.velocity, variables)
        return rectified_flow.generate(velocity, noise, (latents, None), decoder.sampler).x

    batches = []
    for key in jax.random.split(jax.random.key(0), -(-count // size)):
        noise_key, latent_key = jax.random.split(key)
        noise = jax.random.normal(noise_key, (size, *shape))
        batches.append((noise, jax.random.normal(latent_key, (size, config.latent.dim))))
    return lambda: [jax.block_until_ready(flow(variables, *batch)) for batch in batches]


def measure(path: str, sampling: list[str], count: int, repeats: int) -> dict[str, Any]:
    """A table row: both speeds with one sampler."""
    config = configuration.load(path, sampling)
    mesh = sharding.make_mesh(studies.examples_at_a_time(config.training))
    study = Generation(config, mesh)
    variables = jax.jit(study.init)(jax.random.key(0))
    model = studies.Model(variables, {})
    runs = {
        "bare": bare_loop(study, variables, count),
        "sample": functools.partial(study.sample, model, count),
    }
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for repeat in range(repeats + 1):  # the first one compiles
        for name, run in runs.items():
            started = time.perf_counter()
            run()
            if repeat > 0:
                seconds[name].append(time.perf_counter() - started)
    speed = {name: count / float(np.min(times)) for name, times in seconds.items()}
    return {
        "sampler": config.sampling.sampler,
        "bare, images/s": speed["bare"],
        "sample, images/s": speed["sample"],
        "share": speed["sample"] / speed["bare"],
    }


def main() -> None:
    """Measures both samplers, prints and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", default="configs/digits_gen.py")
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=Path("results/sampling_speed"))
    arguments = parser.parse_args()
    rows = []
    for sampling in (
        ["sampling.sampler=euler", "sampling.num_steps=50"],
        ["sampling.sampler=rk45"],
    ):
        row = measure(arguments.config, sampling, arguments.count, arguments.repeats)
        rows.append(row)
        numbers = (f"{k} {v:.3g}" if isinstance(v, float) else v for k, v in row.items())
        print("  ".join(numbers), flush=True)
    reporting.write_json(arguments.folder / "sampling_speed.json", rows)
    print(f"written to {arguments.folder}")


if __name__ == "__main__":
    main()
