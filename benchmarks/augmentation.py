"""How fast SimCLR's augmentations are, on the host and on the device, and how they look.

    python benchmarks/augmentation.py [--batch 32] [--repeats 5] [--folder DIR]

Host: 500 x 375 JPEG files of about 67 kB, two crops of 224 x 224 from each. Device: `augment` and
its parts at 224 x 224 x 3 (blur kernel 23) and 28 x 28 x 1 (kernel 5), a batch at a time. All
numbers are processor time of all threads, so that "images/s" is by one core whatever else the
machine does; the fastest of the repeats counts. On a GPU or TPU the device's rows are wall time of
the device. Prints a table; writes augmentation.json, augmentation.png and views.png (8 images,
photographs and Fashion-MNIST or digits, and 8 views of each). About half a minute on a CPU core.
"""

import argparse
import functools
import gzip
import io
import math
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
import numpy as np
from PIL import Image
from sklearn.datasets import load_digits, load_sample_images

from lzn_jax.data import crops, to_uint8
from lzn_jax.data.augment import Augmentation, augment, colour_jitter, gaussian_blur, shift_hue
from lzn_jax.data.decoding import decode
from lzn_jax.run import reporting

WIDTH, HEIGHT, SIZE, FILES = 500, 375, 224, 20
SMALL = Augmentation(blur_kernel=5)
FASHION = Path("/usr/share/datasets/fashion-mnist/train-images-idx3-ubyte.gz")
JITTER = {"brightness": 0.8, "contrast": 0.8, "saturation": 0.8, "hue": 0.2}


def make_file(seed: int) -> bytes:
    """A JPEG file of a random picture whose detail falls off with scale as a photograph's does."""
    rng = np.random.default_rng(seed)
    picture = np.zeros((HEIGHT, WIDTH, 3))
    for octave in range(2, 9):
        coarse = rng.normal(size=(math.ceil(0.75 * 2**octave), 2**octave, 3)).astype(np.float32)
        planes = [
            Image.fromarray(plane).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
            for plane in np.moveaxis(coarse, -1, 0)
        ]
        picture += np.stack([np.asarray(plane) for plane in planes], -1) * 2 ** (-0.35 * octave)
    picture = 128 + 50 * picture / picture.std()
    file = io.BytesIO()
    Image.fromarray(np.uint8(np.clip(picture, 0, 255))).save(file, "JPEG", quality=92)
    return file.getvalue()


def fastest(function: Callable[[], object], repeats: int, clock: Callable[[], float]) -> float:
    """Seconds of one call."""
    jax.block_until_ready(function())
    taken = []
    for _ in range(repeats):
        started = clock()
        jax.block_until_ready(function())
        taken.append(clock() - started)
    return min(taken)


def measure_host(repeats: int) -> list[dict[str, float | str]]:
    """A row for each of decoding, one crop and two crops of a file."""
    files = [make_file(seed) for seed in range(FILES)]
    rng = np.random.default_rng(0)
    tasks = {
        "decode": lambda raw: decode(raw, 3),
        "decode + 1 crop": lambda raw: crops.random_resized_crop(decode(raw, 3), rng, SIZE),
        "decode + 2 crops": lambda raw: crops.random_views(raw, rng, SIZE, channels=3),
    }
    kilobytes = sum(map(len, files)) / FILES / 1e3
    print(f"{FILES} files of {kilobytes:.1f} kB", flush=True)
    rows = []
    for name, task in tasks.items():
        seconds = fastest(
            lambda task=task: [task(raw) for raw in files], repeats, time.process_time
        )
        rows.append(row("host", name, seconds, FILES))
    return rows


def measure_device(batch: int, repeats: int) -> list[dict[str, float | str]]:
    """A row for all of `augment` and for its parts, at both sizes."""
    clock = time.process_time if jax.default_backend() == "cpu" else time.perf_counter
    rows = []
    for size, channels, count, settings in (
        (SIZE, 3, batch, Augmentation()),
        (28, 1, 32 * batch, SMALL),
    ):
        keys = jax.random.split(jax.random.key(0), count)
        pixels = jax.random.bits(keys[0], (count, size, size, channels), jnp.uint8)
        planes = jnp.moveaxis(pixels, -1, 1) / 255
        numbers = jnp.linspace(0.1, 2, count)
        tasks = {
            "all": (functools.partial(augment, settings=settings), pixels, keys),
            "colour jitter": (functools.partial(colour_jitter, **JITTER), planes, keys),
            "hue alone": (shift_hue, planes, numbers),
            "blur": (
                functools.partial(gaussian_blur, kernel_size=settings.blur_kernel),
                planes,
                numbers,
            ),
        }
        for name, (function, *arguments) in tasks.items():
            compiled = functools.partial(jax.jit(jax.vmap(function)), *arguments)
            seconds = fastest(compiled, repeats, clock)
            rows.append(row(f"device {size}²", name, seconds, count))
    return rows


def row(place: str, task: str, seconds: float, count: int) -> dict[str, float | str]:
    """One line of the table, printed."""
    print(
        f"{place:12} {task:18} {1e3 * seconds / count:8.4f} ms  {count / seconds:9.0f} images/s",
        flush=True,
    )
    return {
        "place": place,
        "task": task,
        "ms per image": 1e3 * seconds / count,
        "images/s": count / seconds,
    }


def draw(rows: list[dict], path: Path) -> None:
    """Milliseconds of each task, host and device side by side."""
    places = list(dict.fromkeys(row["place"] for row in rows))
    figure, panels = plt.subplots(1, len(places), figsize=(10, 2.6), layout="constrained")
    for axes, place in zip(panels, places, strict=True):
        chosen = [row for row in rows if row["place"] == place]
        bars = axes.barh([row["task"] for row in chosen], [row["ms per image"] for row in chosen])
        axes.bar_label(bars, [f"{row['images/s']:,.0f}/s" for row in chosen], padding=3, fontsize=8)
        axes.set(xlabel="ms an image", title=place)
        axes.margins(x=0.35)
        axes.invert_yaxis()
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)


def eight_images() -> list[np.ndarray]:
    """Four photographs, whole and in part, and four small grey images."""
    china, flower = load_sample_images().images
    photographs = [china, flower, china[100:380, 180:560], flower[40:360, 200:520]]
    if FASHION.exists():
        with gzip.open(FASHION) as file:
            grey = np.frombuffer(file.read(16 + 4 * 784), np.uint8, offset=16).reshape(4, 28, 28, 1)
    else:
        grey = np.uint8(load_digits().images[:4, ..., None] * (255 / 16))
    return photographs + list(grey)


def draw_views(path: Path) -> None:
    """A row an image: the image and eight views, four from each of four draws of two."""
    figure, panels = plt.subplots(8, 9, figsize=(9, 8.2), layout="constrained")
    compiled = jax.jit(augment, static_argnums=2)
    rng = np.random.default_rng(0)
    for index, (image, row_panels) in enumerate(zip(eight_images(), panels, strict=True)):
        is_grey = image.shape[-1] == 1
        size, area = (len(image), (0.3, 1.0)) if is_grey else (SIZE, (0.08, 1.0))
        settings = Augmentation(blur_kernel=3) if is_grey else Augmentation()
        views = np.concatenate(
            [
                crops.random_views(image, rng, size, channels=image.shape[-1], area=area)
                for _ in range(4)
            ]
        )
        keys = jax.random.split(jax.random.key(index), 8)
        views = [compiled(view, key, settings) for view, key in zip(views, keys, strict=True)]
        for axes, shown in zip(
            row_panels, [image, *np.asarray(to_uint8(jnp.stack(views)))], strict=True
        ):
            axes.imshow(shown, cmap="gray", vmin=0, vmax=255)
            axes.set_axis_off()
    figure.suptitle("An image and eight views of it", x=0.01, ha="left", fontweight="bold")
    figure.savefig(path, dpi=110)


def main() -> None:
    """Measures, then writes table, figure and views."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=32, help="images of 224 x 224 at a time")
    parser.add_argument("--repeats", type=int, default=5, help="timings a row; the fastest counts")
    parser.add_argument("--folder", type=Path, default=Path("results/augmentation"))
    arguments = parser.parse_args()
    rows = measure_host(arguments.repeats) + measure_device(arguments.batch, arguments.repeats)
    reporting.write_json(arguments.folder / "augmentation.json", rows)
    draw(rows, arguments.folder / "augmentation.png")
    draw_views(arguments.folder / "views.png")
    print(f"written to {arguments.folder}")


if __name__ == "__main__":
    main()
