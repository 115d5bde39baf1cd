"""Choice of settings: grids for a config and for its baseline, compared on validation data.

    python benchmarks/choose.py digits_joint
    python benchmarks/choose.py fashion_gen --folder results/fashion_gen_choice

Trains each setting of GRIDS with two seeds on the training part of the split. The config and its
baseline try equally many settings. The best one has the lowest mean rank over the metrics of the
study. A finished run is not repeated. Writes docs/results/NAME_choice.json and prints all settings.
`--jobs` runs train side by side, because small networks leave cores idle.
"""

import itertools
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import evidence
import numpy as np
import shared
import tables
from scipy.stats import rankdata

from lzn_jax import files

SEEDS = (0, 1)  # `evidence.py --first_seed` measures others
DECODER, ENCODER = "training.learning_rate.decoder", "training.learning_rate.encoder"
ALPHA, FORM, DIM = "alignment.noise_scale", "alignment.form", "latent.dim"
Setting = tuple[str, ...]


def grid(fields: Mapping[str, Iterable[Any]], *common: str) -> list[Setting]:
    """All combinations of values of fields."""
    rows = itertools.product(*fields.values())
    return [(*common, *(f"{n}={v}" for n, v in zip(fields, row, strict=True))) for row in rows]


class Study(NamedTuple):
    """Split, metrics by their names in `tables.METRICS`, and settings by arm."""

    split: tuple[str, ...]
    metrics: tuple[str, ...]
    arms: Mapping[str, list[Setting]]


GENERATION = ("fd_features",)
ALONE = ("fd_features", "nearest_ratio")  # the first alone rewards copies of training images
JOINT = ("test_accuracy", "fd_features")
PROBE = ("linear_probe_top1",)
TEXT = (
    *("image_to_text_exact", "text_to_image_exact"),
    *("retrieval_image_to_text_r1", "retrieval_text_to_image_r1"),  # InfoNCE trains no decoders
)
RF = "latent.enabled=False"
DIGITS = ("data.validation=287",)
# Clothes: fewer updates than the config, so that all settings take a few hours.
CLOTHES = ("data.validation=5000", "evaluation.num_samples=2000")
GRIDS = {
    "digits_joint": Study(
        DIGITS,
        JOINT,
        {
            "LZN": grid({ALPHA: (0.2, 0.45, 0.7, 1.0), FORM: ("log", "prob")})
            + grid({DECODER: (6e-3, 1.2e-2), ALPHA: (0.2, 0.45)}),
            "RF": grid(
                {
                    DECODER: (1e-3, 2e-3, 3e-3, 6e-3, 1.2e-2, 2.4e-2),
                    "training.ema_decay": (0.99, 0.998),
                },
                RF,
            ),
        },
    ),
    "fashion_joint": Study(
        (*CLOTHES, "training.num_steps=1000", "evaluation.every_steps=1000"),
        JOINT,
        {
            "LZN": grid({ALPHA: (0.45, 0.7, 1.0), FORM: ("log", "prob")}),
            "RF": grid({DECODER: (1e-3, 2e-3, 4e-3), "training.ema_decay": (0.99, 0.999)}, RF),
        },
    ),
    "digits_gen": Study(
        (*DIGITS, "training.num_steps=1000"),
        GENERATION,
        {
            "LZN": grid({DIM: (16, 32, 64), DECODER: (1e-3, 2e-3)}),
            "RF": grid({DECODER: (1e-3, 2e-3, 4e-3), "training.ema_decay": (0.99, 0.995)}, RF),
        },
    ),
    "fashion_gen": Study(
        (*CLOTHES, "training.num_steps=800", "evaluation.every_steps=800"),
        GENERATION,
        {
            "LZN": grid({DIM: (32, 64), DECODER: (1e-3, 2e-3)}),
            "RF": grid({DECODER: (1e-3, 2e-3), "training.ema_decay": (0.99, 0.999)}, RF),
        },
    ),
    "digits_repr": Study(
        (*DIGITS, "evaluation.every_steps=600"),
        PROBE,
        {
            "LZN": grid({"latent.noise_scale": (0.1, 0.2, 0.45), ENCODER: (1e-3, 2e-3, 4e-3)}),
            "SimCLR": grid(
                {"simclr.temperature": (0.1, 0.2, 0.4), ENCODER: (1e-3, 2e-3, 4e-3)},
                "objective=simclr",
            ),
        },
    ),
    "fashion_repr": Study(
        (*CLOTHES, "training.num_steps=400", "evaluation.every_steps=400"),
        PROBE,
        {
            "LZN": grid({"latent.noise_scale": (0.2, 0.45), ENCODER: (4e-3, 8e-3)}),
            "SimCLR": grid(
                {"simclr.temperature": (0.2, 0.4), ENCODER: (4e-3, 8e-3)}, "objective=simclr"
            ),
        },
    ),
    "digits_text": Study(
        DIGITS,
        TEXT,
        {
            "LZN": grid({ALPHA: (0.2, 0.45), "alignment.cutoff": (0.2, 0.5)}),
            "InfoNCE": grid(
                {"infonce.temperature": (0.07, 0.14), ENCODER: (1e-3, 2e-3)}, "objective=infonce"
            ),
        },
    ),
    "digits_alone": Study(
        (*DIGITS, "training.batch_size=1024"),  # of 1150 images; the config's are 1280 of 1437
        ALONE,
        {"LZN": grid({"decoder.set_weight": (0.25, 0.5, 1.0), DIM: (4, 8, 16)})},
    ),
    "fashion_alone": Study(
        (*CLOTHES, "training.num_steps=500", "evaluation.every_steps=500"),
        ALONE,
        {"LZN": grid({"decoder.set_weight": (0.5, 1.0), DIM: (16, 24)})},
    ),
}


def choose(name: str, folder: Path, jobs: int) -> dict[str, list[dict[str, Any]]]:
    """The settings of each arm, best first: fields, metrics of seeds, and mean rank."""
    study = GRIDS[name]

    def trained(arm: str, number: int, seed: int) -> dict[str, float]:
        flags = [f"seed={seed}", *study.split, *study.arms[arm][number]]
        return evidence.run(f"configs/{name}.py", folder / f"{arm}_{number}_seed{seed}", flags)

    runs = [
        (arm, i, s) for arm, rows in study.arms.items() for i in range(len(rows)) for s in SEEDS
    ]
    with ThreadPoolExecutor(jobs) as pool:
        found = dict(zip(runs, pool.map(lambda each: trained(*each), runs), strict=True))
    return {arm: ranked(study, arm, found) for arm in study.arms}


def ranked(
    study: Study, arm: str, found: Mapping[Any, Mapping[str, float]]
) -> list[dict[str, Any]]:
    """The settings of an arm, in the order of the mean rank of their mean metrics."""
    rows: list[dict[str, Any]] = []
    for number, setting in enumerate(study.arms[arm]):
        runs = [found[arm, number, seed] for seed in SEEDS]
        metrics = {m: [run[m] for run in runs] for m in study.metrics if m in runs[0]}
        rows.append({"setting": list(setting), "metrics": metrics})
    # RF does not classify.
    signs = [1 if tables.METRICS[m].more else -1 for m in rows[0]["metrics"]]
    means = np.array([[np.mean(values) for values in row["metrics"].values()] for row in rows])
    ranks = rankdata(-means * signs, axis=0).mean(axis=1)
    for row, rank in zip(rows, ranks, strict=True):
        row["mean_rank"] = float(rank)
    return sorted(rows, key=lambda row: row["mean_rank"])


def main() -> None:
    parser = shared.parser(__doc__)
    parser.add_argument("name", choices=GRIDS)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="default results/NAME_choice")
    arguments, _ = shared.parse(parser)
    name = arguments.name
    folder = arguments.folder or Path("results") / f"{name}_choice"
    found: dict[str, Any] = {
        "commit": evidence.commit(),
        "seeds": SEEDS,
        "split": GRIDS[name].split,
    }
    found["arms"] = choose(name, folder, arguments.jobs)
    files.write_json(evidence.ROOT / f"docs/results/{name}_choice.json", found)
    for arm, rows in found["arms"].items():
        cells = [
            [
                " ".join(row["setting"]),
                *(evidence.cell(row["metrics"].get(m, [])) for m in GRIDS[name].metrics),
            ]
            for row in rows
        ]
        print(f"\n{arm}, {' '.join(GRIDS[name].split)}")
        shared.print_table([["setting", *GRIDS[name].metrics], *cells])


if __name__ == "__main__":
    main()
