"""Where along the decoder's flow reconstruction errs, and where latents help.

    python benchmarks/generation_evidence.py --seeds 1
    python benchmarks/reconstruction_profile.py --runs results/digits_gen_evidence

Test images go back to noise only as far as time t (1 = data), then to t = 1 again, by Euler with
the time steps of the config's sampler; the error of the whole way is `reconstruction_l2`. Prints
the mean errors of a run without latents and of one with them, and what share the latter is.
"""

import argparse
import functools
from pathlib import Path

import jax
import jax.numpy as jnp

import lzn_jax
from lzn_jax import studies
from lzn_jax.data import normalise
from lzn_jax.losses import rectified_flow
from lzn_jax.studies.reconstruction import evaluated_rows
from lzn_jax.trained_model import TrainedModel

TURNS = 10  # at even steps of time


def errors(trained: TrainedModel, num_steps: int) -> dict[float, float]:
    """Mean l2 error of test images by the time at which they turn."""
    _, test = studies.load_data(trained.config)
    images = test.images[evaluated_rows(len(test.labels))]
    latents = None
    if trained.config.latent.enabled:
        latents = jnp.asarray(trained.encode(images, jax.random.key(0), noise_scale=1.0))
    condition = (latents, None)
    velocity = functools.partial(trained.study.decoder.velocity, trained.model.variables)

    @functools.partial(jax.jit, static_argnames="steps")
    def moved(x, start, end, steps):
        sampler = rectified_flow.Sampler("euler", steps)
        return rectified_flow.integrate(velocity, x, condition, sampler, start, end).x

    x1, found = normalise(jnp.asarray(images)), {}
    for turn in sorted({round(num_steps * i / TURNS) for i in range(1, TURNS + 1)} - {0}):
        t = 1 - (1 - rectified_flow.T_MIN) * turn / num_steps
        again = moved(moved(x1, 1.0, t, turn), t, 1.0, turn)
        found[t] = float(jnp.mean(jnp.sqrt(jnp.sum((again - x1) ** 2, axis=(1, 2, 3)))))
    return found


def main() -> None:
    """Prints a line for each time."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=Path, required=True, help="folder of LZN_seed0 and RF_seed0")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, help="Euler steps; default: the config's")
    arguments = parser.parse_args()
    runs = [lzn_jax.load(arguments.runs / f"{name}_seed{arguments.seed}") for name in ("LZN", "RF")]
    if any(run.config.study != "generation" for run in runs):
        parser.error(f"the runs in {arguments.runs} must be of the generation study")
    steps = arguments.steps or runs[0].config.sampling.num_steps
    with_latents, flow_alone = (errors(run, steps) for run in runs)
    print(f"{'t':>5s}{'flow alone':>12s}{'latents':>10s}{'share':>8s}")
    for time, error in flow_alone.items():
        told = with_latents[time]
        print(f"{time:5.2f}{error:12.4f}{told:10.4f}{told / error:8.2f}")


if __name__ == "__main__":
    main()
