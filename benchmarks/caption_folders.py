"""Captions that training never saw, and pairs without labels: digits as folders of pairs.

    python benchmarks/caption_folders.py --seeds 1

Trains the config of captioned digits on a folder of images and texts. In `held_out` nine captions,
of nine digits, are left out of training, though each of their parts occurs there in others. In
`pairs` there are no labels. Prints what is right of test captions, seen ones beside the others.
"""

import json
from pathlib import Path

import evidence
import numpy as np
import shared
from PIL import Image

import lzn_jax
from lzn_jax import configuration, data, files
from lzn_jax.data import Examples, digit_captions
from lzn_jax.evaluation.samples import fit_judge
from lzn_jax.evaluation.texts import shares

CONFIGS = {"held_out": "benchmarks/digits_folder.py", "pairs": "benchmarks/digits_pairs.py"}


def is_held_out(texts: np.ndarray | None) -> np.ndarray:
    """One caption of each digit but nine: weights and leans in turn."""
    digit, weight, lean = digit_captions.parse(np.asarray(texts))
    return (digit < 9) & (weight == digit % 3) & (lean == digit // 3 % 3)


def write(folder: Path, examples: Examples) -> None:
    lines = []
    columns = examples.images, examples.labels, examples.texts
    for number, (image, label, text) in enumerate(zip(*columns, strict=True)):
        path = folder / f"{label}" / f"{number:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[..., 0]).save(path)
        lines.append(json.dumps({"file_name": f"{label}/{path.name}", "text": text}))
    (folder / "metadata.jsonl").write_text("\n".join(lines))


def without_captions(train: Examples, test: Examples) -> tuple[Examples, Examples]:
    """Training images without nine captions, and a test set that those of the nine join."""
    is_unseen = is_held_out(train.texts)
    joined = zip(test[:3], train.at(np.flatnonzero(is_unseen))[:3], strict=True)
    return train.at(np.flatnonzero(~is_unseen)), Examples(*map(np.concatenate, joined))


def measure(workdir: Path, train: Examples, test: Examples) -> dict[str, evidence.Summary]:
    """Shares that are right both ways, of captions that training saw and of the nine."""
    judge, ruler = fit_judge(train), digit_captions.fit(train.images, train.labels)
    model, is_unseen, found = lzn_jax.load(workdir), is_held_out(test.texts), {}
    for name, rows in (("seen", ~is_unseen), ("nine", is_unseen)):
        chosen = test.at(np.flatnonzero(rows))
        asked = digit_captions.parse(chosen.texts)
        written = digit_captions.parse(model.translate(chosen.images, "image", "text"))
        made = model.translate(digit_captions.compose(asked).tolist(), "text", "image")
        found[name] = shares("image_to_text", written, asked)
        found[name] |= shares("text_to_image", ruler.measure(made, judge(made)), asked)
    return found


def main() -> None:
    parser = shared.parser(__doc__)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--variants", nargs="+", choices=CONFIGS, default=list(CONFIGS))
    parser.add_argument("--folder", type=Path, default=Path("results/caption_folders"))
    arguments = parser.parse_args()
    every = data.load_data(configuration.load("configs/digits_text.py", []))
    results: evidence.Results = {}
    for variant in arguments.variants:
        train, test = without_captions(*every) if variant == "held_out" else every
        folder = arguments.folder / f"{variant}_images"
        write(folder / "train", train)
        write(folder / "test", test)
        for seed in range(arguments.seeds):
            workdir = arguments.folder / f"{variant}_seed{seed}"
            flags = [f"data.path={folder}", "text.context_size=90", f"seed={seed}"]
            evidence.run(CONFIGS[variant], workdir, flags)
            for name, summary in measure(workdir, every[0], test).items():
                results.setdefault(f"{variant}, {name}", []).append(summary)
    files.write_json(arguments.folder / "caption_folders.json", results)
    evidence.print_table(results)


if __name__ == "__main__":
    main()
