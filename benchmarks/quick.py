"""Own pictures in ten minutes: configs/quick.py on shapes, on clothes and on emoji.

    pip install -e '.[emoji]'
    python benchmarks/quick.py --seeds 3 [--data shapes fashion emoji] [--config.FIELD=VALUE]

Writes 900 rendered shapes in class folders and the drawings of OpenMoji in a flat folder, trains
the config on each, and prints what the runs measured. Finished runs are read, not repeated. Draws
samples of seed 0 after a tenth, a half and all updates (quick.png). Shapes are recognised by a
network that learned from further shapes, clothes by the judge of every evaluation.
"""

import functools
import itertools
import json
import runpy
from collections.abc import Callable, Iterator
from pathlib import Path

import evidence
import numpy as np
import shared
from jaxtyping import Int, UInt8
from PIL import Image, ImageDraw

import lzn_jax
from lzn_jax import data, plots
from lzn_jax.data import Examples
from lzn_jax.evaluation.features import feature_extractor
from lzn_jax.evaluation.samples import fit_judge, sample_quality
from lzn_jax.plots.sheets import Cell, Row
from lzn_jax.trained_model import TrainedModel

SHAPES, COLOURS = ("circle", "square", "triangle"), ("firebrick", "seagreen", "royalblue")
CLASSES = sorted(itertools.product(COLOURS, SHAPES))  # in the order of their folders
SIDE, FINE, JUDGED = 32, 4, 9000  # pixels; drawn pixels for one; pictures that the judge learns
SHARES = (0.1, 0.5, 1.0)  # of the updates, as pictures show them
METRICS = ("step", "minutes", "fd_features", "sample_accuracy", "test_accuracy", "nearest_ratio")


def drawn(colour: str, shape: str, rng: np.random.Generator) -> UInt8[np.ndarray, "32 32 3"]:
    """A shape at a random place, size and angle on light grey."""
    radius, grey = FINE * rng.uniform(7, 11), int(rng.integers(200, 256))
    picture = Image.new("RGB", (SIDE * FINE, SIDE * FINE), (grey, grey, grey))
    x, y = rng.uniform(radius + FINE, SIDE * FINE - radius - FINE, 2)
    draw = ImageDraw.Draw(picture)
    if shape == "circle":
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)
    else:
        corners = 4 if shape == "square" else 3
        turn = rng.uniform(-15, 15)
        draw.regular_polygon((x, y, radius), corners, rotation=turn, fill=colour)
    return np.asarray(picture.resize((SIDE, SIDE), Image.Resampling.BOX))


def shapes(count: int, seed: int) -> Examples:
    """`count` shapes, equally many of each class."""
    rng, labels = np.random.default_rng(seed), np.arange(count, dtype=np.int32) % len(CLASSES)
    return Examples(np.stack([drawn(*CLASSES[label], rng) for label in labels]), labels)


def write_shapes(folder: Path) -> None:
    examples = shapes(900, 0)
    for number, (image, label) in enumerate(zip(examples.images, examples.labels, strict=True)):
        path = folder / " ".join(CLASSES[label]) / f"{number:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)


def write_emoji(folder: Path) -> None:
    emoji = runpy.run_path("examples/emoji/emoji.py")
    files = emoji["files_of"](emoji["_import"]("emoji").EMOJI_DATA)
    folder.mkdir(parents=True, exist_ok=True)
    for number, image in enumerate(emoji["pictures"](tuple(files.values()), SIDE)):
        Image.fromarray(image).save(folder / f"{number:04d}.png")


WRITERS = {"shapes": write_shapes, "emoji": write_emoji}


@functools.cache
def judge() -> Callable[[UInt8[np.ndarray, "n h w c"]], Int[np.ndarray, " n"]]:
    """Function from pictures to classes of shapes, learned from pictures that no run has seen."""
    _, variables, apply = feature_extractor(shapes(JUDGED, 1), name="judge")

    def classes(images: UInt8[np.ndarray, "n h w c"]) -> Int[np.ndarray, " n"]:
        return np.argmax(np.asarray(apply(variables, images).logits), axis=1)

    test = shapes(900, 2)
    print(f"the judge of shapes recognises {np.mean(classes(test.images) == test.labels):.3f}")
    return classes


def data_flags(name: str, folder: Path, clothes: str | None) -> list[str]:
    """The fields of a data set, which is written unless it has been."""
    if name not in WRITERS:
        return ["data.name=fashion", *([f"data.path={clothes}"] if clothes else [])]
    if not (folder / name).is_dir():
        WRITERS[name](folder / name)
    return [f"data.path={folder / name}"]


def run(name: str, seed: int, folder: Path, flags: list[str]) -> dict[str, float]:
    """The numbers of a run, trained unless it has been."""
    workdir = folder / f"{name}_seed{seed}"
    summary = evidence.run("configs/quick.py", workdir, [f"seed={seed}", *flags])
    seconds = json.loads((workdir / "goodput.json").read_text())
    summary["minutes"] = (summary["seconds"] - seconds["eval"]) / 60
    if name == "shapes":
        labels = np.arange(900, dtype=np.int32) % len(CLASSES)
        made = lzn_jax.load(workdir).draw(len(labels), labels)["images"]
        summary["sample_accuracy"] = float(np.mean(judge()(made) == labels))
    return summary


def stages(workdir: Path) -> Iterator[tuple[float, TrainedModel]]:
    """The models of a run after shares of its updates."""
    steps = sorted(int(each.name) for each in (workdir / "checkpoints").iterdir())
    for share in SHARES:
        step = min(steps, key=lambda each: abs(each - share * steps[-1]))
        yield share, lzn_jax.load(workdir / "checkpoints" / str(step))


def draw(path: Path, workdirs: dict[str, Path]) -> None:
    """Samples of runs after shares of the updates, a row each."""
    rows = []
    for name, workdir in workdirs.items():
        for number, (share, model) in enumerate(stages(workdir)):
            made = model.draw(14, np.arange(14, dtype=np.int32) % model.config.data.num_classes)
            cells = [Cell(image) for image in made["images"]]
            rows.append(Row(cells, f"{share:.0%}", name if number == 0 else None))
    plots.sheets.sheet(path, rows, "Samples after a tenth, a half and all updates")


def print_stages(workdir: Path, name: str) -> None:
    """Prints the quality of samples of clothes or shapes after shares of the updates."""
    recognise = None
    for share, model in stages(workdir):
        train, _ = data.load_data(model.config)
        labels = np.arange(2000, dtype=np.int32) % model.config.data.num_classes
        made = model.draw(len(labels), labels)["images"]
        recognise = recognise or (judge() if name == "shapes" else fit_judge(train))
        row = sample_quality(model.config)(train, made)
        row["sample_accuracy"] = float(np.mean(recognise(made) == labels))
        print(f"{name} after {share:.0%}: {shared.line(row)}")


def main() -> None:
    parser = shared.parser(__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--data", nargs="+", default=["shapes", "fashion", "emoji"])
    parser.add_argument("--clothes", help="folder of Fashion-MNIST's files")
    parser.add_argument("--folder", type=Path, default=Path("results/quick_evidence"))
    arguments, flags = shared.parse(parser)
    folder, seeds = arguments.folder.absolute(), range(arguments.seeds)
    results: evidence.Results = {}
    for name in arguments.data:
        own = [*data_flags(name, folder, arguments.clothes), *flags]
        results[name] = [run(name, seed, folder, own) for seed in seeds]
    evidence.print_table(results, METRICS)
    workdirs = {name: folder / f"{name}_seed0" for name in arguments.data}
    draw(folder / "quick.png", workdirs)
    for name in workdirs.keys() & {"shapes", "fashion"}:
        print_stages(workdirs[name], name)


if __name__ == "__main__":
    main()
