"""Representations by LZN, SimCLR, an untrained network and raw pixels, over seeds.

    python benchmarks/representation_evidence.py --seeds 5 --variants LZN SimCLR
    python benchmarks/representation_evidence.py --config=configs/fashion_repr.py --seeds 1

Linear probe (protocol `cached`) and nearest neighbours on four features; the same network, batches
and updates. `paper` has the paper's α and alignment, `alpha_*` other latents, `batch_*` other
batches in micro-batches of 64, `latent_steps_*` and `alignment_steps_*` other solver steps,
`all_alignment_steps` no cut-off, `learning_rate_*` other learning rates. Prints a table; writes
evidence.json and accuracy.png, the probe's accuracy from the untrained network on, every
evaluation.every_steps updates.
"""

import functools
from pathlib import Path

import evidence
import jax
import numpy as np

from lzn_jax import configuration, data, plots
from lzn_jax.evaluation import measurements, probes
from lzn_jax.evaluation.neighbours import knn_log_votes
from lzn_jax.latent_space import LatentSpace, Model
from lzn_jax.randomness import named
from lzn_jax.run import reporting, sharding
from lzn_jax.run.sharding import examples_at_a_time
from lzn_jax.trained_model import TrainedModel

VARIANTS = {
    "LZN": [],
    "SimCLR": ["--config.objective=simclr"],
    "paper": [
        "--config.latent.noise_scale=0.45",
        "--config.latent.solver=euler",
        "--config.latent.num_steps=20",
        "--config.alignment.num_steps=20",
        "--config.alignment.cutoff=0.2",
    ],
    **{f"alpha_{a}": [f"--config.latent.noise_scale={a}"] for a in (0.0, 0.2, 0.45, 1.0)},
    **{
        f"batch_{n}": [f"--config.training.batch_size={n}", "--config.training.microbatch_size=64"]
        for n in (64, 1024, 4096)
    },
    **{f"latent_steps_{n}": [f"--config.latent.num_steps={n}"] for n in (5, 50)},
    **{f"alignment_steps_{n}": [f"--config.alignment.num_steps={n}"] for n in (2, 3, 5, 20)},
    "all_alignment_steps": ["--config.alignment.cutoff=0.0"],
    **{
        f"learning_rate_{rate}": [f"--config.training.learning_rate.encoder={rate}"]
        for rate in (2e-3, 4e-3, 8e-3, 1.6e-2)
    },
}
SUFFIXES = ("", "_head", "_latent", "_latent_centre")
METRICS = (
    *(f"linear_probe_top1{suffix}" for suffix in SUFFIXES),
    *(f"knn_top1{suffix}" for suffix in SUFFIXES),
    "steps_per_second",
    "seconds",
)
CURVE = "linear_probe_top1"


def untrained(config_path: str, flags: list[str], seed: int, folder: Path) -> evidence.Summary:
    """The evaluation of a network as it is initialised."""
    overrides = [flag.removeprefix("--config.") for flag in flags]
    config = configuration.load(config_path, [*overrides, f"seed={seed}"])
    mesh = sharding.make_mesh(examples_at_a_time(config.training))
    space = LatentSpace(config, mesh)
    train, test = data.load_data(config)
    variables = jax.jit(space.init)(named(jax.random.key(seed), "init"))
    model = Model(variables, space.context(variables, train))
    return measurements.evaluate(TrainedModel(space, model, 0), train, test, folder)


def raw_pixels(config_path: str, flags: list[str]) -> evidence.Summary:
    """Probe and neighbours on the images themselves."""
    config = configuration.load(config_path, [flag.removeprefix("--config.") for flag in flags])
    train, test = data.load_data(config)
    bank, queries = (
        np.reshape(np.asarray(split.images, np.float32) / 255, (len(split.labels), -1))
        for split in (train, test)
    )
    num_classes = config.data.num_classes
    classifier, _ = probes.fit_cached(bank, train.labels, num_classes)
    votes = knn_log_votes(bank, train.labels, queries, num_classes=num_classes)
    return {
        "linear_probe_top1": probes.accuracy(classifier(queries), test.labels)[1],
        "knn_top1": probes.accuracy(votes, test.labels)[1],
    }


def draw_curves(folder: Path, results: evidence.Results) -> None:
    """Accuracy against updates of every variant over seeds, from the untrained network on."""
    start = np.array([row[CURVE] for row in results["untrained"]])
    curves = {}
    for name in filter(VARIANTS.__contains__, results):
        runs = [
            reporting.read_metrics(folder / f"{name}_seed{seed}")[CURVE]
            for seed in range(len(start))
        ]
        steps = functools.reduce(np.intersect1d, [steps for steps, _ in runs])
        trained = np.stack([values[np.isin(at, steps)] for at, values in runs])
        curves[name] = np.append(0, steps), np.column_stack([start, trained])
    last = max(steps[-1] for steps, _ in curves.values())
    curves["raw pixels"] = np.array([0, last]), np.full((1, 2), results["pixels"][0][CURVE])
    plots.accuracy_curves(folder / "accuracy.png", curves, title="Linear probe on the backbone")


def main() -> None:
    """Runs all variants and seeds, then prints the table."""
    arguments, flags = evidence.arguments_of(__doc__, "configs/digits_repr.py", VARIANTS, seeds=5)
    results = evidence.run_all(arguments, VARIANTS, flags)
    seeds = range(arguments.seeds)
    results["untrained"] = [
        untrained(arguments.config, flags, seed, arguments.folder / "untrained") for seed in seeds
    ]
    results["pixels"] = [raw_pixels(arguments.config, flags)]
    draw_curves(arguments.folder, results)
    reporting.write_json(arguments.folder / "evidence.json", results)
    evidence.print_table(results, METRICS)


if __name__ == "__main__":
    main()
