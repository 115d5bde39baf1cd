"""Evidence: variants of a config, trained over seeds and measured, in one table.

    python benchmarks/evidence.py digits_joint --seeds 3 --variants LZN RF
    python benchmarks/evidence.py fashion_repr --seeds 1 --config.latent.noise_scale=0.2
    python benchmarks/evidence.py one_pass

The first argument names a config whose study is below in VARIANTS. Runs are the real command line,
one after the other; a finished run is not repeated, so that an interrupted command goes on where it
was. Writes evidence.json; a table has each number of the runs' summary.json.

Generation is also evaluated with 1 to 100 Euler steps and with RK45 (paper Figs. 17 and 24), and
during training: steps.json, steps.png. Representations are measured beside an untrained network and
raw pixels, and drawn from the untrained network on: accuracy.png.

`one_pass` draws one_pass.png: quality against evaluations of the decoder. It trains flows (seed 0)
and MeanFlow (all seeds) unless they are there, and reads what `NAME_alone` has written.
"""

import functools
import json
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import matplotlib
import shared

matplotlib.use("agg")
import matplotlib.pyplot as plt
import numpy as np
import tables
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, PercentFormatter, StrMethodFormatter
from ml_collections import ConfigDict
from numpy.typing import ArrayLike

from lzn_jax import configuration, data, files, inference
from lzn_jax.evaluation import measurements, probes
from lzn_jax.evaluation.probes import knn_log_votes
from lzn_jax.latent_space import LatentSpace
from lzn_jax.models import named
from lzn_jax.run import devices
from lzn_jax.run import log as log_module
from lzn_jax.trained_model import TrainedModel

Summary = dict[str, float]
Results = dict[str, list[Summary]]

ROOT = Path(__file__).resolve().parents[1]
RF = ["latent.enabled=False"]
MEAN_FLOW = ["decoder.name=mean_ncsnpp", "sampling.num_steps=1"]
EULER = ["alignment.num_steps=20", "alignment.cutoff=0.2"]
LATENTS_BY_EULER = ["latent.solver=euler", "latent.num_steps=20"]
PROB = ["alignment.form=prob"]
ADAMS = ["alignment.solver=adams", "alignment.cutoff=0.6"]
ALIGNED = ["alignments=('image:label',)"]
CONDITION = ["decoder.condition=label"]
INFONCE = ["objective=infonce"]


def each(field: str, name: str, values: Iterable[float], *more: str) -> dict[str, list[str]]:
    return {f"{name}_{value}": [f"{field}={value}", *more] for value in values}


SHARPNESS = {
    "paper_form": ["alignment.sharpness=None"],
    "r_1": ["alignment.sharpness=1.0"],
}
# Features of a frozen encoder are compared as well; on clothes by drift, in the config's time.
MAPS = ["--extensions=benchmarks/set_features.py"]
CONV_MAPS = [
    *MAPS,
    "decoder.name=direct_maps",
    "decoder.maps=results/fashion_repr",
    "decoder.maps_weight=3",
    "decoder.set_loss=drift",
    "decoder.set_weight=0.5",
    "training.num_steps=2200",
    "evaluation.every_steps=2200",
]
# Overrides by variant, by the ending of a config's name.
VARIANTS: dict[str, dict[str, list[str]]] = {
    "joint": {
        "LZN": [],
        "RF": RF,  # the rectified flow without latents
        "no_generation": ["training.generation_weight=0.0"],  # the classifier alone
        **SHARPNESS,
    },
    "gen": {
        "LZN": [],
        "RF": RF,
        "MeanFlow": MEAN_FLOW,  # with latents
        "MeanFlow_alone": [*MEAN_FLOW, *RF],
    },
    "repr": {
        "LZN": [],
        "SimCLR": ["objective=simclr"],
        "paper": ["latent.noise_scale=0.45", *LATENTS_BY_EULER, *EULER],
        **each("latent.noise_scale", "alpha", (0.0, 0.2, 0.45, 1.0)),
        **each("training.batch_size", "batch", (64, 1024, 4096), "training.microbatch_size=64"),
        **each("latent.num_steps", "latent_steps", (5, 50)),
        **each("alignment.num_steps", "alignment_steps", (2, 3, 5, 20)),
        "all_alignment_steps": ["alignment.cutoff=0.0"],
        **SHARPNESS,
        "DCL": ["objective=dcl"],
        **each("simclr.temperature", "SimCLR", (0.1, 0.2, 0.4), "objective=simclr"),
        **each("dcl.temperature", "DCL", (0.1, 0.2, 0.4), "objective=dcl"),
        **each("training.learning_rate.encoder", "learning_rate", (2e-3, 4e-3, 8e-3, 1.6e-2)),
    },
    "alone": {
        "LZN": [],
        "aligned": ALIGNED,  # images into zones of their labels as well
        "condition": [*ALIGNED, *CONDITION],  # beside the latent
        **each("decoder.set_weight", "energy", (2.0, 4.0), "decoder.set_loss=energy"),
        "drift_0.5": ["decoder.set_weight=0.5", "decoder.set_loss=drift"],
        "few_zones": ["training.batch_size=256"],
        "half_dim": ["latent.dim=4"],
        "perceptual": ["decoder.set_anchors=1"],  # anchors of images are compared as well
        "maps": [*MAPS, "decoder.name=direct_mlp_maps"],
        "conv_maps": CONV_MAPS,  # of fashion_alone
        "longer": ["training.num_steps=3000"],
    },
    "text": {
        "LZN": [],
        "InfoNCE": INFONCE,  # the encoders by CLIP's loss
        "InfoNCE_0.14": [*INFONCE, "infonce.temperature=0.14"],
        **each("alignment.noise_scale", "alpha", (0.2, 0.7)),
        "cutoff_0.5": ["alignment.cutoff=0.5"],
        "adams": ADAMS,
        "prob": PROB,
        # Decoders that learn from latents of their own type alone, or of the other.
        "own_latents": ["decoder.sources=('image',)", "text_decoder.sources=('text',)"],
        "partner_latents": ["decoder.sources=('text',)", "text_decoder.sources=('image',)"],
        "latent_alone": ["decoder.condition=None"],
    },
}

EULER_STEPS = (1, 2, 5, 10, 20, 50, 100)
SAMPLERS = {
    f"euler_{n}": ["sampling.sampler=euler", f"sampling.num_steps={n}"] for n in EULER_STEPS
} | {"rk45": ["sampling.sampler=rk45"]}
CURVES = {"fd_features": "fd_features", "reconstruction_l2": "reconstruction l2"}
ONE_PASS_STEPS = (1, 2, 5, 10, 50)
MEAN_FLOW_STEPS = ONE_PASS_STEPS[:3]
FLOWS = {"RF": "rectified flow", "LZN": "rectified flow given a latent"}
MEAN_FLOWS = {"MeanFlow_alone": "MeanFlow", "MeanFlow": "MeanFlow given a latent"}
DRIFT, ENERGY = "LZN alone, drift", "LZN alone, energy distance"
DRIFT_OF_MAPS = "LZN alone, drift with features"
LABELS = (*FLOWS.values(), *MEAN_FLOWS.values(), DRIFT, ENERGY, DRIFT_OF_MAPS)
MARKERS = ("C7o-", "C0o-", "C7s--", "C0s--", "C3*", "C1*", "C4*")
STYLES = dict(zip(LABELS, MARKERS, strict=True))
# By data set: updates of MeanFlow in less time than the flow's 5000, 3000; variants of LZN alone.
ONE_PASS = {
    "digits": (3800, {DRIFT: "LZN", ENERGY: "energy_2.0"}),
    "fashion": (2300, {DRIFT: "drift_0.5", ENERGY: "LZN", DRIFT_OF_MAPS: "conv_maps"}),
}
PROBE = "linear_probe_top1"


def run(config: str, workdir: Path, flags: Sequence[str]) -> Summary:
    """The summary of one run, trained unless it has been, with its wall time in seconds."""
    if not _is_finished(workdir):
        _call(config, workdir, flags, "train")
    seconds = json.loads((workdir / "goodput.json").read_text())
    del seconds["starts"]
    return _read(workdir / "summary.json") | {"seconds": sum(seconds.values())}


def evaluate(config: str, workdir: Path, flags: Sequence[str], name: str) -> Summary:
    """The summary of a run evaluated with other flags, kept as `name`; its own stays as it is."""
    own, other = workdir / "summary.json", workdir / f"summary_{name}.json"
    if not other.exists() or _read(other)["step"] != _read(own)["step"]:
        kept = own.read_bytes()
        try:
            _call(config, workdir, flags, "evaluate")
            own.rename(other)
        finally:
            own.write_bytes(kept)
    return _read(other)


def _call(config: str, workdir: Path, flags: Sequence[str], mode: str) -> None:
    command = [sys.executable, "-m", "lzn_jax.main", f"--config={config}", f"--mode={mode}"]
    fields = [
        flag if flag.startswith("--extensions=") else f"--config.{flag.removeprefix('--config.')}"
        for flag in flags
    ]
    subprocess.run([*command, f"--workdir={workdir}", *fields], check=True)


def _read(path: Path) -> Summary:
    summary: Summary = json.loads(path.read_text())
    return summary


def _is_finished(workdir: Path) -> bool:
    path = workdir / "summary.json"
    if not path.exists():
        return False
    config = json.loads((workdir / "config.json").read_text())
    return bool(_read(path)["step"] == config["training"]["num_steps"])


def print_table(results: Results, metrics: Iterable[str] | None = None) -> None:
    """Metrics as rows, variants as columns; mean, sample standard deviation, values of seeds."""
    every = dict.fromkeys(name for rows in results.values() for row in rows for name in row)
    table = [["mean ± std over seeds (values)", *results]]
    for metric in metrics or every:
        cells = [cell([row[metric] for row in rows if metric in row]) for rows in results.values()]
        if set(cells) != {"-"}:
            table.append([metric, *cells])
    shared.print_table(table)


def cell(values: list[float]) -> str:
    if not values:
        return "-"
    each = " ".join(f"{value:.4g}" for value in values)
    spread = f" ± {np.std(values, ddof=1):.4f}" if len(values) > 1 else ""
    return f"{np.mean(values):.4f}{spread} ({each})"


def best_baselines(name: str) -> dict[str, list[str]]:
    """The setting of each baseline that `choose.py` found to be best. LZN's is the config."""
    path = ROOT / f"docs/results/{name}_choice.json"
    arms = json.loads(path.read_text())["arms"] if path.exists() else {}
    return {arm: rows[0]["setting"] for arm, rows in arms.items() if arm != "LZN"}


class Table:
    def __init__(
        self, name: str, folder: Path, seeds: Sequence[int], flags: Sequence[str] = ()
    ) -> None:
        self.config, self.folder, self.seeds = f"configs/{name}.py", folder, seeds
        self.variants = VARIANTS[name.rpartition("_")[2]] | best_baselines(name)
        self._flags = flags

    def workdir(self, name: str, seed: int) -> Path:
        return self.folder / f"{name}_seed{seed}"

    def flags(self, name: str, seed: int) -> list[str]:
        return [f"seed={seed}", *self.variants[name], *self._flags]

    def run(self, names: Iterable[str]) -> Results:
        """Summaries of the chosen variants; also written to evidence.json."""
        results: Results = {name: [] for name in names}
        for seed in self.seeds:
            for name, rows in results.items():
                rows.append(run(self.config, self.workdir(name, seed), self.flags(name, seed)))
        self.write("evidence", results)
        return results

    def write(self, name: str, results: Mapping[str, object]) -> None:
        files.write_json(self.folder / f"{name}.json", results)

    def sampled(self, name: str, seed: int, sampler: str) -> Summary:
        flags = [*self.flags(name, seed), *SAMPLERS[sampler]]
        return evaluate(self.config, self.workdir(name, seed), flags, sampler)


def keep(table: Table, results: Results) -> None:
    """Writes the numbers behind the tables of docs: commit, seeds, settings, metrics by seed."""
    variants = {
        name: {
            "setting": table.variants.get(name, []),
            "metrics": {m: [row[m] for row in rows] for m in rows[0] if m in tables.METRICS},
        }
        for name, rows in results.items()
    }
    found = {"commit": commit(), "seeds": list(table.seeds), "variants": variants}
    files.write_json(ROOT / f"docs/results/{Path(table.config).stem}.json", found)


def commit() -> str:
    """Short name of the commit, with + if tracked files were changed since."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty=+", "--exclude=*"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def by_steps(table: Table, names: Sequence[str]) -> None:
    found: dict[int, Results] = {}
    for name in names:
        for seed in table.seeds:
            log = (table.workdir(name, seed) / "metrics.jsonl").read_text()
            for row in map(json.loads, log.splitlines()):
                if "reconstruction_l2" in row:
                    found.setdefault(row["step"], {}).setdefault(name, []).append(row)
    for step, results in found.items():
        print(f"\nafter {step} updates, in training")
        print_table(results, CURVES)
    sampled = resample(table, names, SAMPLERS)
    table.write("steps", sampled)
    draw_steps(table.folder / "steps.png", sampled)


def resample(table: Table, names: Iterable[str], samplers: Iterable[str]) -> dict[str, Results]:
    sampled = {}
    for sampler in samplers:
        sampled[sampler] = {
            name: [table.sampled(name, seed, sampler) for seed in table.seeds] for name in names
        }
        print(f"\n{sampler}")
        print_table(sampled[sampler], (*CURVES, "sampling_evaluations"))
    return sampled


def count_steps(axes: Axes) -> None:
    """Steps to the right and values upwards, both in logarithms, written as numbers."""
    axes.set(xscale="log", yscale="log")
    axes.set_xticks(EULER_STEPS, [str(n) for n in EULER_STEPS])
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.minorticks_off()
    axes.grid(color="0.9")
    axes.spines[["top", "right"]].set_visible(False)


def draw_band(axes: Axes, x: ArrayLike, values: np.ndarray, **style: Any) -> None:
    """The mean of seeds, which are the rows, and their range as a shade."""
    (line,) = axes.plot(x, values.mean(0), "o-", **style)
    axes.fill_between(x, values.min(0), values.max(0), color=line.get_color(), alpha=0.2, lw=0)


def save(figure: Figure, path: Path) -> None:
    figure.savefig(path, dpi=150)
    plt.close(figure)


def draw_steps(path: Path, found: Mapping[str, Results]) -> None:
    """Quality against Euler steps, a panel a metric, the range of seeds shaded; RK45's dashed."""
    figure, panels = plt.subplots(1, len(CURVES), figsize=(9, 3.8), layout="constrained")
    for axes, (metric, label) in zip(panels, CURVES.items(), strict=True):
        for index, name in enumerate(found["rk45"]):
            by_steps = [[row[metric] for row in found[f"euler_{n}"][name]] for n in EULER_STEPS]
            style = {"color": f"C{index}"}
            draw_band(axes, EULER_STEPS, np.transpose(by_steps), label=f"{name}, Euler", **style)
            rk45 = np.mean([row[metric] for row in found["rk45"][name]])
            axes.axhline(rk45, linestyle="--", label=f"{name}, RK45", **style)
        count_steps(axes)
        axes.set(xlabel="Euler steps", ylabel=label)
    panels[0].legend(frameon=False)
    save(figure, path)


def with_untrained(table: Table, results: Results) -> Results:
    """The results beside an untrained network of each seed and raw pixels; draws the probe's."""
    configs = [configuration.load(table.config, table.flags("LZN", seed)) for seed in table.seeds]
    results["untrained"] = [untrained(config, table.folder / "untrained") for config in configs]
    results["pixels"] = [raw_pixels(configs[0])]
    table.write("evidence", results)
    start = np.array([row[PROBE] for row in results["untrained"]])
    curves = {}
    for name in filter(table.variants.__contains__, results):
        runs = [log_module.read_metrics(table.workdir(name, seed))[PROBE] for seed in table.seeds]
        steps = functools.reduce(np.intersect1d, [steps for steps, _ in runs])
        trained = np.stack([values[np.isin(at, steps)] for at, values in runs])
        curves[name] = np.append(0, steps), np.column_stack([start, trained])
    last = max(steps[-1] for steps, _ in curves.values())
    curves["raw pixels"] = np.array([0, last]), np.full((1, 2), results["pixels"][0][PROBE])
    draw_accuracies(table.folder / "accuracy.png", curves)
    return results


def draw_accuracies(path: Path, curves: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> None:
    """Mean accuracy of the probe by training step, the range of seeds (rows) shaded."""
    figure, axes = plt.subplots(figsize=(7.5, 4.8), layout="constrained")
    for name, (steps, accuracies) in curves.items():
        seeds = f" (mean and range of {len(accuracies)} seeds)" if len(accuracies) > 1 else ""
        draw_band(axes, steps, accuracies, markersize=4, label=name + seeds)
    axes.set(title="Linear probe on the backbone", xlabel="training step", ylabel="accuracy")
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.grid(color="0.9")
    axes.legend(frameon=False)
    save(figure, path)


def untrained(config: ConfigDict, folder: Path) -> Summary:
    space = LatentSpace(
        config, devices.make_mesh(config.training.microbatch_size or config.training.batch_size)
    )
    train, test = data.load_data(config)
    variables = jax.jit(space.init)(named(jax.random.key(config.seed), "init"))
    model = inference.with_contexts(space, variables, train)
    return measurements.evaluate(TrainedModel(space, model, 0), train, test, folder)


def raw_pixels(config: ConfigDict) -> Summary:
    train, test = data.load_data(config)
    bank, queries = (
        np.reshape(np.asarray(split.images, np.float32) / 255, (len(split.labels), -1))
        for split in (train, test)
    )
    classes = config.data.num_classes
    classifier, _ = probes.fit_cached(bank, train.labels, classes)
    votes = knn_log_votes(bank, train.labels, queries, num_classes=classes)
    return {
        PROBE: probes.accuracy(classifier(queries), test.labels)[1],
        "knn_top1": probes.accuracy(votes, test.labels)[1],
    }


def one_pass(folder: Path, seeds: int) -> None:
    """Draws and prints distances by what makes the samples: flows at steps, else of one pass."""
    found: dict[str, dict[str, list[float]]] = {}
    for name, (updates, variants) in ONE_PASS.items():
        gen = folder / f"{name}_gen_evidence"
        found[name] = distances(Table(f"{name}_gen", gen, [0]), FLOWS, ONE_PASS_STEPS)
        shorter = Table(f"{name}_gen", gen, range(seeds), [f"training.num_steps={updates}"])
        found[name] |= distances(shorter, MEAN_FLOWS, MEAN_FLOW_STEPS)
        alone = json.loads((folder / f"{name}_alone_evidence/evidence.json").read_text())
        for label, variant in variants.items():
            if variant in alone:
                mean = np.mean([row["fd_features"] for row in alone[variant]])
                found[name][label] = [float(mean)]
    draw_one_pass(folder / "one_pass.png", found)


def draw_one_pass(path: Path, found: Mapping[str, Mapping[str, list[float]]]) -> None:
    """Distances against evaluations of the decoder, a panel a data set; also printed."""
    figure, panels = plt.subplots(1, len(found), figsize=(9, 4), layout="constrained")
    for axes, (name, rows) in zip(panels, found.items(), strict=True):
        for label, values in rows.items():
            style = {"markersize": 5 if len(values) > 1 else 13, "label": label}
            axes.plot(ONE_PASS_STEPS[: len(values)], values, STYLES[label], **style)
            print(name, label, *(f"{value:.3g}" for value in values), sep="\t")
        count_steps(axes)
        axes.set(title=name, xlabel="evaluations of the decoder a sample")
    panels[0].set_ylabel("fd_features")
    lines = {line.get_label(): line for axes in panels for line in axes.lines}
    panels[0].legend(lines.values(), lines, frameon=False, fontsize=9)
    save(figure, path)


def distances(
    table: Table, labels: Mapping[str, str], steps: Sequence[int]
) -> dict[str, list[float]]:
    """Mean distance of the samples of each variant at numbers of Euler steps, by label."""
    for variant in labels:
        for seed in table.seeds:
            run(table.config, table.workdir(variant, seed), table.flags(variant, seed))
    sampled = resample(table, labels, [f"euler_{n}" for n in steps])
    return {
        label: [
            float(np.mean([row["fd_features"] for row in results[variant]]))
            for results in sampled.values()
        ]
        for variant, label in labels.items()
    }


def main() -> None:
    names = sorted(path.stem for path in (ROOT / "configs").glob("*.py"))
    names = [name for name in names if name.rpartition("_")[2] in VARIANTS]
    parser = shared.parser(__doc__)
    parser.add_argument("table", choices=[*names, "one_pass"], metavar="TABLE")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first_seed", type=int, default=0, help="settings were chosen with 0, 1")
    parser.add_argument("--variants", nargs="+", help="default all")
    parser.add_argument("--keep", action="store_true", help="write docs/results/TABLE.json")
    parser.add_argument("--folder", type=Path, help="default results/TABLE_evidence")
    arguments, overrides = shared.parse(parser)
    name = arguments.table
    if name == "one_pass":
        return one_pass(arguments.folder or Path("results"), arguments.seeds)
    folder = arguments.folder or Path("results") / f"{name}_evidence"
    first = arguments.first_seed
    table = Table(name, folder, range(first, first + arguments.seeds), overrides)
    chosen = arguments.variants or list(table.variants)
    if unknown := [variant for variant in chosen if variant not in table.variants]:
        parser.error(f"no variant {unknown[0]}: there are {', '.join(table.variants)}")
    results = table.run(chosen)
    if name.endswith("_repr"):
        results = with_untrained(table, results)
    print_table(results)
    if arguments.keep:
        keep(table, results)
    if flows := [variant for variant in chosen if name.endswith("_gen") and variant in FLOWS]:
        by_steps(table, flows)
    return None


if __name__ == "__main__":
    main()
