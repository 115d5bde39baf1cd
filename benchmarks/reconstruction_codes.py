"""The reconstruction error of a decoder that is told codewords of images in place of latents.

    python benchmarks/reconstruction_codes.py --config.training.num_steps=1000

A yardstick for latents: one of n codewords tells at most log n nats, as one of n zones does, but no
training has to find it. It is in which of n k-means cells an image lies, n the batch size, or which
other training image is nearest. Otherwise it is the config's own training, without an encoder.
Prints the mean error of test images in 2 to 50 Euler steps, and what share that is of the flow's
alone; writes reconstruction_codes.json. About 20 minutes on one CPU core for 1000 updates.
"""

import argparse
import functools
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray
from ml_collections import ConfigDict
from sklearn.cluster import KMeans

from lzn_jax import configuration, data, optimization, studies, train
from lzn_jax.data import Examples, normalise
from lzn_jax.run import reporting, sharding
from lzn_jax.studies.generation import Generation
from lzn_jax.studies.reconstruction import evaluated_rows

STEPS = (2, 5, 10, 20, 50)
Code = Callable[[Array], Float[Array, "b q"]]  # of images (b, h, w, c) in [-1, 1]


class Codewords:
    """Stands in for the latents of a study: anchor and latent of an image are its codeword."""

    def __init__(self, code: Code) -> None:
        self.code = code

    def training_anchors(self, variables: dict, images: Array, key: PRNGKeyArray) -> Array:
        """Codewords of a training batch."""
        return self.code(images)

    def draw(self, anchors: Array, key: PRNGKeyArray, noise_scale: float) -> Array:
        """The same: a codeword has no noise."""
        return anchors

    def all_anchors(self, variables: dict, images: np.ndarray) -> np.ndarray:
        """Codewords of uint8 images."""
        return np.asarray(self.code(normalise(jnp.asarray(images))))

    def latents(self, context: dict, anchors: np.ndarray, *_, **__) -> np.ndarray:
        """The same."""
        return anchors


class Told(Generation):
    """A generation study whose decoder sees codewords of images."""

    def __init__(self, config: ConfigDict, code: Code) -> None:
        super().__init__(config, sharding.make_mesh(1))
        self.latents = Codewords(code)

    def init(self, key: jax.Array) -> studies.Variables:
        """Fresh variables of the decoder."""
        return {"decoder": super().init(key)["decoder"]}


def nearest(codebook: Float[np.ndarray, "n d"], dim: int) -> Code:
    """The codeword nearest in pixels but not the image itself, in `dim` principal components."""
    centred = codebook - codebook.mean(axis=0)
    _, _, axes = np.linalg.svd(centred, full_matrices=False)
    words = centred @ axes[:dim].T
    words /= words.std()

    def code(images):
        distances = jnp.sum((images.reshape(len(images), 1, -1) - codebook) ** 2, axis=-1)
        others = jnp.where(distances < 1e-6, jnp.inf, distances)
        return jnp.asarray(words)[jnp.argmin(others, axis=1)]

    return jax.jit(code)


def trained(study: Told | Generation, examples: Examples) -> studies.Model:
    """The model after the config's training."""
    config, training = study.config, study.config.training
    optimizer = optimization.make_optimizer(training, ["decoder"])
    mesh = sharding.make_mesh(1)
    init = functools.partial(train.init_state, study, optimizer, config.seed)
    state = jax.device_put(jax.jit(init)(), sharding.replicated(mesh))
    update = train.jit_update(study, optimizer, config, mesh, state)
    with (
        data.TrainingBatches(
            examples, training.batch_size, config.seed, study.transform
        ) as batches,
        reporting.progress(training.num_steps, "training") as bar,
    ):
        for _ in range(training.num_steps):
            state, _ = update(state, next(batches))
            bar.update()
    return studies.Model(train.join_variables(state.ema, state.constants), {})


def variants(
    config: ConfigDict, images: Float[np.ndarray, "n d"]
) -> Iterator[tuple[str, Code | None]]:
    """Names and codes; none for the flow alone."""
    yield "flow alone", None
    cells = config.training.batch_size
    means = KMeans(cells, n_init=1, random_state=config.seed).fit(images).cluster_centers_
    yield f"one of {cells} cells", nearest(means.astype(np.float32), config.latent.dim)
    yield "nearest other image", nearest(images, config.latent.dim)


def errors_by_steps(path: str, overrides: list[str]) -> dict[str, list[float]]:
    """Mean error of test images by variant, one for each of STEPS."""
    config = configuration.load(path, overrides)
    examples, test = studies.load_data(config)
    images = test.images[evaluated_rows(len(test.labels))]
    pixels = np.asarray(examples.images, np.float32).reshape(len(examples.labels), -1) / 127.5 - 1
    found = {}
    for name, code in variants(config, pixels):
        own = [*overrides, f"latent.enabled={code is not None}"]

        def build(*more, own=own, code=code):
            config = configuration.load(path, [*own, *more])
            return Told(config, code) if code else Generation(config, sharding.make_mesh(1))

        model = trained(build(), examples)
        found[name] = [
            float(np.mean(build(f"sampling.num_steps={n}").reconstruct(model, images)["errors"]))
            for n in STEPS
        ]
    return found


def main() -> None:
    """Prints and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", default="configs/digits_gen.py")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--folder", type=Path, default=Path("results/reconstruction_codes"))
    arguments, flags = parser.parse_known_args()
    overrides = [flag.removeprefix("--config.") for flag in flags]
    runs = [
        errors_by_steps(arguments.config, [*overrides, f"seed={seed}"])
        for seed in range(arguments.seeds)
    ]
    reporting.write_json(arguments.folder / "reconstruction_codes.json", runs)
    print(f"{'Euler steps':24s}" + "".join(f"{n:>14d}" for n in STEPS))
    for name in runs[0]:
        errors = np.mean([run[name] for run in runs], axis=0)
        ratios = errors / np.mean([run["flow alone"] for run in runs], axis=0)
        cells = "".join(f"{e:8.3f} ({r:.2f})" for e, r in zip(errors, ratios, strict=True))
        print(f"{name:24s}{cells}")


if __name__ == "__main__":
    main()
