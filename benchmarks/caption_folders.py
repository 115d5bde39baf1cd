"""Captions that training never saw, and captions in three phrasings: digits as folders of pairs.

    python benchmarks/caption_folders.py --seeds 1

Trains the config of captioned digits on a folder of images and texts. In `held_out` nine captions,
of nine digits, are left out of training, though each of their parts occurs there in others. In
`phrasings` each image has three texts that say the same. In `pairs` there are no labels. Prints
what is right of test captions, seen ones beside the others.
"""

import functools
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import evidence
import numpy as np
import shared
from PIL import Image

import lzn_jax
from lzn_jax import configuration, data
from lzn_jax.data import Examples, captions
from lzn_jax.evaluation.samples import fit_judge
from lzn_jax.evaluation.texts import shares
from lzn_jax.run import files

CONFIGS = dict.fromkeys(("held_out", "phrasings"), "benchmarks/digits_folder.py") | {
    "pairs": "benchmarks/digits_pairs.py"
}
PHRASINGS = ("a {weight} {digit} {lean}", "{lean} is a {weight} {digit}", "{digit} {lean} {weight}")


def words(parts: captions.Parts, phrasing: str) -> list[str]:
    rows = zip(*parts, strict=True)
    return [
        phrasing.format(
            weight=captions.WEIGHTS[w], digit=captions.DIGITS[d], lean=captions.LEANS[lean]
        )
        for d, w, lean in rows
    ]


@functools.cache
def meaning() -> dict[str, tuple[int, int, int]]:
    every = captions.Parts(*(axis.ravel() for axis in np.indices((10, 3, 3))))
    rows = list(zip(*every, strict=True))
    return {
        text: row
        for phrasing in PHRASINGS
        for text, row in zip(words(every, phrasing), rows, strict=True)
    }


def parse(texts: Sequence[str]) -> captions.Parts:
    """Parts of captions in any phrasing; of a text that is none all are -1."""
    rows = [meaning().get(text, (-1, -1, -1)) for text in texts]
    return captions.Parts(*np.array(rows).T)


def is_held_out(parts: captions.Parts) -> np.ndarray:
    """One caption of each digit but nine: weights and leans in turn."""
    digit = parts.digit
    chosen = (parts.weight == digit % 3) & (parts.lean == digit // 3 % 3)
    return chosen & (digit < 9)


def write(folder: Path, examples: Examples, phrasings: Sequence[str]) -> None:
    assert examples.texts is not None
    parts, rows = captions.parse(examples.texts), []
    said = [words(parts, phrasing) for phrasing in phrasings]
    for number, (image, label) in enumerate(zip(examples.images, examples.labels, strict=True)):
        name = f"{label}/{number:04d}.png"
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[..., 0]).save(folder / name)
        rows += [{"file_name": name, "text": texts[number]} for texts in said]
    lines = [json.dumps(row) for row in rows]
    (folder / "metadata.jsonl").write_text("\n".join(lines))


def some(examples: Examples, rows: np.ndarray) -> Examples:
    assert examples.texts is not None
    return Examples(examples.images[rows], examples.labels[rows], examples.texts[rows])


def without_captions(train: Examples, test: Examples) -> tuple[Examples, Examples]:
    """Training images without nine captions, and a test set that those of the nine join."""
    assert train.texts is not None
    is_unseen = is_held_out(captions.parse(train.texts))
    joined = zip(test[:3], some(train, np.flatnonzero(is_unseen))[:3], strict=True)
    return some(train, np.flatnonzero(~is_unseen)), Examples(*map(np.concatenate, joined))


def measure(
    workdir: Path, measured: Callable[[np.ndarray], captions.Parts], test: Examples
) -> dict[str, evidence.Summary]:
    """Shares that are right both ways, of captions that training saw and of the nine."""
    model, found = lzn_jax.load(workdir), {}
    is_unseen = is_held_out(captions.parse(test.texts))
    for name, rows in (("seen", ~is_unseen), ("nine", is_unseen)):
        chosen = some(test, np.flatnonzero(rows))
        asked = captions.parse(chosen.texts)
        written = parse(model.translate(chosen.images, "image", "text"))
        found[name] = shares("image_to_text", written, asked)
        for number, phrasing in enumerate(PHRASINGS):
            made = measured(model.translate(words(asked, phrasing), "text", "image"))
            found[name] |= shares(f"text_to_image_{number}", made, asked)
    return found


def main() -> None:
    parser = shared.parser(__doc__)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--variants", nargs="+", choices=CONFIGS, default=list(CONFIGS))
    parser.add_argument("--folder", type=Path, default=Path("results/caption_folders"))
    arguments = parser.parse_args()
    train, test = data.load_data(configuration.load("configs/digits_text.py", []))
    judge, ruler = fit_judge(train), captions.fit(train.images, train.labels)
    results: evidence.Results = {}
    for variant in arguments.variants:
        splits = without_captions(train, test) if variant == "held_out" else (train, test)
        phrasings = PHRASINGS if variant == "phrasings" else PHRASINGS[:1]
        folder = arguments.folder / f"{variant}_images"
        for split, examples in zip(("train", "test"), splits, strict=True):
            write(folder / split, examples, phrasings)
        size = f"text.context_size={90 * len(phrasings)}"
        for seed in range(arguments.seeds):
            workdir = arguments.folder / f"{variant}_seed{seed}"
            evidence.run(CONFIGS[variant], workdir, [f"data.path={folder}", size, f"seed={seed}"])
            found = measure(workdir, lambda made: ruler.measure(made, judge(made)), splits[1])
            for name, summary in found.items():
                results.setdefault(f"{variant}, {name}", []).append(summary)
    files.write_json(arguments.folder / "caption_folders.json", results)
    evidence.print_table(results)


if __name__ == "__main__":
    main()
