"""Measures what a run of digits says of rendered digits, and of pictures that are no digits.

    python benchmarks/own_digits.py --workdir=results/digits_text

Both are PNG files, 200 each, that the package reads as a user's. Settings were chosen with the
fonts and kinds of `--choosing`, and on the digits of `data.validation`. Prints shares of right
and far pictures, and the expected calibration error (ECE, 15 bins).
"""

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
import shared
from PIL import Image, ImageDraw, ImageFont

import lzn_jax
from lzn_jax import data
from lzn_jax.data import user_images
from lzn_jax.inference import Predictions

FONTS = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
COUNT = 200
SYMBOLS = "DejaVuSans"  # a font with signs of weather, chess and cards

Ink = Image.Image  # mode L, 255 = ink
Mark = Callable[[np.random.Generator, int], Ink]


def glyph(text: str, font: str, size: int) -> Ink:
    """A character, cropped to its ink."""
    canvas = Image.new("L", (3 * size, 3 * size))
    loaded = ImageFont.truetype(FONTS / f"{font}.ttf", size)
    ImageDraw.Draw(canvas).text((size, size), text, 255, loaded)
    return canvas.crop(canvas.getbbox())


def characters(texts: str, fonts: Sequence[str]) -> Mark:
    """Draws random characters in random fonts."""
    return lambda rng, side: glyph(rng.choice([*texts]), str(rng.choice(fonts)), side)


def polygon(corner: Callable[[np.random.Generator], np.ndarray], width: float = 0.0) -> Mark:
    """Draws random corners (k, 2) in [0, 1]: filled, or as a line of a width."""

    def draw(rng: np.random.Generator, side: int) -> Ink:
        canvas = Image.new("L", (side, side))
        corners = [tuple(xy) for xy in (side * corner(rng)).tolist()]
        line = max(1, round(width * side))
        pen = ImageDraw.Draw(canvas)
        if width:
            pen.line(corners, 255, line, joint="curve")
        else:
            pen.polygon(corners, 255)
        return canvas

    return draw


def star(points: int) -> Callable[[np.random.Generator], np.ndarray]:
    def corners(rng: np.random.Generator) -> np.ndarray:
        angle = rng.uniform(0, 2 * np.pi) + np.pi / points * np.arange(2 * points)
        radius = np.where(np.arange(2 * points) % 2, rng.uniform(0.15, 0.25), 0.5)
        return 0.5 + radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1)

    return corners


def scribble(turns: int) -> Callable[[np.random.Generator], np.ndarray]:
    """A smooth closed path through random points."""

    def path(rng: np.random.Generator) -> np.ndarray:
        t = np.linspace(0, 2 * np.pi, 200)
        waves = np.arange(1, turns + 1)
        phases = rng.uniform(0, 2 * np.pi, (2, turns, 1))
        weights = rng.normal(size=(2, turns, 1))
        xy = np.sum(weights * np.sin(waves[:, None] * t + phases), axis=1).T
        xy -= xy.min(0)
        return 0.05 + 0.9 * xy / xy.max(0)

    return path


def texture(level: Callable[[np.random.Generator, np.ndarray, np.ndarray], np.ndarray]) -> Mark:
    """Draws levels, a function of x and y in [0, 1], scaled to the whole range."""

    def draw(rng: np.random.Generator, side: int) -> Ink:
        y, x = np.mgrid[:side, :side] / side
        levels = np.asarray(level(rng, x, y), np.float32)
        low, high = levels.min(), levels.max()
        return Image.fromarray(np.uint8(255 * (levels - low) / max(high - low, 1e-9)))

    return draw


def waves(rng, x, y):
    """A random field of low frequencies, like a photo out of focus."""
    total = np.zeros_like(x)
    for _ in range(6):
        fx, fy = rng.normal(0, 1.5, 2)
        total += rng.normal() * np.sin(2 * np.pi * (fx * x + fy * y) + rng.uniform(0, 6.3))
    return total


class Kinds(NamedTuple):
    fonts: tuple[str, ...]
    marks: tuple[Mark, ...]


_A = ("DejaVuSans-Bold", "DejaVuSerif-Italic", "DejaVuSansMono", "STIXGeneralBol",
      "STIXGeneralItalic", "cmb10", "cmti10", "DejaVuSansMono-BoldOblique")  # fmt: skip
_B = ("DejaVuSans", "DejaVuSerif", "DejaVuSansMono-Bold", "DejaVuSans-Oblique", "STIXGeneral",
      "cmr10", "cmss10", "cmtt10")  # fmt: skip
CHOOSING = Kinds(_A, (
    *[characters("AEKMRWXhmw", _A)] * 4,
    *[characters("☺☎★✂♞♣☁∞&@", [SYMBOLS])] * 2,
    polygon(star(5)),
    polygon(scribble(5), 0.06),
    texture(lambda rng, x, y: rng.uniform(size=x.shape)),
    texture(lambda rng, x, y: np.sin(2 * np.pi * rng.uniform(2, 6) * x) > 0),
    texture(lambda rng, x, y: np.hypot(x - rng.uniform(), y - rng.uniform())),
))  # fmt: skip
REPORTED = Kinds(_B, (
    *[characters("FHLNPVknux", _B)] * 4,
    *[characters("☂♥✈☀♛✿☃√%#", [SYMBOLS])] * 2,
    polygon(star(4)),
    polygon(scribble(3), 0.1),
    texture(lambda rng, x, y: rng.uniform(size=x.shape) < 0.2),
    texture(lambda rng, x, y: np.sin(2 * np.pi * rng.uniform(2, 5) * (x + y)) > 0),
    texture(waves),
))  # fmt: skip


def framed(ink: Ink, rng: np.random.Generator) -> bytes:
    """PNG of ink in a square frame: margins 0 to 30 %, dark, light or over transparency."""
    side = max(ink.size)
    frame = round(side / (1 - 2 * rng.uniform(0, 0.3)))
    alpha = Image.new("L", (frame, frame))
    alpha.paste(ink, ((frame - ink.width) // 2, (frame - ink.height) // 2))
    stroke, is_clear = (0, 255)[rng.integers(2)], rng.integers(2)
    picture = Image.new("L", (frame, frame), 255 - stroke)
    if is_clear:
        picture = Image.new("LA", (frame, frame), (stroke, 0))
        picture.putalpha(alpha)
    else:
        picture.paste(stroke, mask=alpha)
    file = io.BytesIO()
    picture.save(file, "png")
    return file.getvalue()


def digits(kinds: Kinds, seed: int) -> tuple[list[bytes], np.ndarray]:
    rng, labels = np.random.default_rng(seed), np.arange(COUNT) % 10
    fonts = [kinds.fonts[(i // 10) % len(kinds.fonts)] for i in range(COUNT)]
    sides = np.exp(rng.uniform(np.log(40), np.log(400), COUNT))
    inks = [glyph(str(n), f, round(s)) for n, f, s in zip(labels, fonts, sides, strict=True)]
    return [framed(ink, rng) for ink in inks], labels


def others(kinds: Kinds, seed: int) -> list[bytes]:
    rng = np.random.default_rng(seed)
    marks = [kinds.marks[i % len(kinds.marks)] for i in range(COUNT)]
    sides = np.exp(rng.uniform(np.log(40), np.log(400), COUNT))
    return [framed(m(rng, round(s)), rng) for m, s in zip(marks, sides, strict=True)]


def ece(predictions: Predictions, is_right: np.ndarray, bins: int = 15) -> float:
    """Expected calibration error, in equal bins of the probability."""
    which = np.minimum((bins * predictions.probabilities).astype(int), bins - 1)
    gaps = predictions.probabilities - is_right
    return sum(abs(np.sum(gaps[which == each])) for each in range(bins)) / len(gaps)


def main() -> None:
    parser = shared.parser(__doc__)
    parser.add_argument("--workdir", default="digits_text", help="folder of a run or shared model")
    parser.add_argument("--choosing", action="store_true", help="the pictures of the choices")
    arguments = parser.parse_args()
    model = lzn_jax.load(arguments.workdir)
    config, kinds = model.config.data, CHOOSING if arguments.choosing else REPORTED
    is_light = data.background(config)

    def read(encoded: Sequence[bytes]) -> np.ndarray:
        return np.stack([user_images.read_image(each, config, is_light)[0] for each in encoded])

    rendered, labels = digits(kinds, seed=0)
    splits = ["test", *(["validation"] if config.validation else [])]
    sets = {f"{split} images": data.load(config, split) for split in splits}
    known = {name: (found.images, found.labels) for name, found in sets.items()}
    rows = [["", "right", "wrong, not far", "far", "ECE"]]
    for name, (images, truth) in (known | {"rendered digits": (read(rendered), labels)}).items():
        found = model.classify(images)
        is_right = found.classes == truth
        shares = np.mean(is_right), np.mean(~is_right & ~found.far), np.mean(found.far)
        rows.append([name, *(f"{each:.3f}" for each in (*shares, ece(found, is_right)))])
    found = model.classify(read(others(kinds, seed=1)))
    rows.append(["others", "", "", f"{np.mean(found.far):.3f}", ""])
    shared.print_table(rows)


if __name__ == "__main__":
    main()
