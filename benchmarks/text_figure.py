"""A picture of what one space for all gives and costs: seeds as dots, their means as lines.

    python benchmarks/text_figure.py --picture docs/text_evidence.png

The runs `LZN` of evidence.py beside the networks for one task alone of text_baselines.py, and
retrieval beside its `InfoNCE`; of captioned digits and of emoji.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from lzn_jax.plots.style import SMALL_SIZE, label_axes, new_figure, save

COLOURS = {"LZN": "#0072b2", "alone": "#d55e00"}
WAYS = ("image_to_text", "text_to_image")


def draw(axes: Axes, title: str, rows: Sequence[tuple[str, str, Sequence[float]]]) -> None:
    """A panel: rows of a name, whose they are, and shares of seeds in [0, 1]."""
    for place, (_, whose, values) in enumerate(reversed(rows)):
        y, mean = np.full(len(values), place), np.mean(values)
        axes.plot(values, y, "o", color=COLOURS[whose], alpha=0.7, ms=7, mew=0, zorder=3)
        axes.plot([mean, mean], [place - 0.3, place + 0.3], color=COLOURS[whose], lw=2)
        axes.text(mean, place + 0.36, f"{mean:.3f}", ha="center", fontsize=SMALL_SIZE)
    axes.set_yticks(range(len(rows)), [name for name, _, _ in reversed(rows)])
    axes.set_ylim(-0.6, len(rows) - 0.2)
    label_axes(axes, title, "share of the test pairs", "")
    low, high = axes.get_xlim()
    axes.set_xlim(low - 0.02, high + 0.02)


def of(results: Mapping[str, Sequence[Mapping[str, float]]], name: str, metric: str) -> list[float]:
    """A metric of all seeds."""
    return [row[metric] for row in results[name]]


def main() -> None:
    """Reads what the scripts wrote; draws."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=Path("results"))
    parser.add_argument("--picture", type=Path, default=Path("results/text_evidence.png"))
    arguments = parser.parse_args()

    def read(path: str) -> dict[str, list[dict[str, float]]]:
        found: dict[str, list[dict[str, float]]] = json.loads((arguments.folder / path).read_text())
        return found

    digits, emoji = (read(f"{name}_text_evidence/evidence.json") for name in ("digits", "emoji"))
    digits_alone, emoji_alone = (
        read(f"text_baselines/{name}_text.json") for name in ("digits", "emoji")
    )
    figure = new_figure(13, 11, "One space for all, beside networks for one task alone")
    (first, second), (third, fourth) = figure.subplots(2, 2)
    made = [("one space for all", "LZN", of(digits, "LZN", "image_to_text_exact"))]
    for name, words in (("classifier", "classifiers of\nits parts"), ("captioner", "captioner")):
        made.append((words, "alone", of(digits_alone, name, "image_to_text_exact")))
    draw(first, "Digits: whole caption of an image", made)
    drawn = [
        ("one space for all", "LZN", of(digits, "LZN", "text_to_image_exact")),
        (
            "decoder told\nthe caption",
            "alone",
            of(digits_alone, "text_to_image", "text_to_image_exact"),
        ),
    ]
    draw(second, "Digits: image of a whole caption", drawn)
    found = [
        (
            f"{words}\n{way.replace('_', ' ')}, at {k}",
            whose,
            of(emoji, name, f"retrieval_{way}_r{k}"),
        )
        for k in (1, 10)
        for way in WAYS
        for name, words, whose in (
            ("LZN", "one space", "LZN"),
            ("InfoNCE", "CLIP's loss", "alone"),
        )
    ]
    draw(third, "New emoji: own partner found", found)
    words, images = "image_to_text_words", "judged_text_to_image_r10"
    alone = [
        ("one space:\nF1 of words of an image", "LZN", of(emoji_alone, "runs", words)),
        ("captioner", "alone", of(emoji_alone, "captioner", words)),
        (
            "one space: images of texts\nthat find them, at 10",
            "LZN",
            of(emoji_alone, "runs", images),
        ),
        ("decoder told the text", "alone", of(emoji_alone, "text_to_image", images)),
    ]
    draw(fourth, "New emoji: texts written, images made", alone)
    save(figure, arguments.picture)


if __name__ == "__main__":
    main()
