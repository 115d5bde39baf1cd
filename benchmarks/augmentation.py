"""How fast SimCLR's augmentations are, on the host and on the device.

    python benchmarks/augmentation.py [--batch 32] [--repeats 5]

Host: 500 x 375 JPEG files of about 67 kB, two crops of 224 x 224 from each. Device: `augment` at
224 x 224 x 3 (blur kernel 23) and 28 x 28 x 1 (kernel 5), a batch at a time. Numbers are processor
time of all threads, so that "images/s" is by one core whatever else the machine does; the fastest
of the repeats counts. On a GPU or TPU the device's rows are wall time of the device.
"""

import argparse
import functools
import io
import math
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from lzn_jax.data import crops
from lzn_jax.data.augment import Augmentation, augment

WIDTH, HEIGHT, SIZE, FILES = 500, 375, 224, 20


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


def measure_host(repeats: int) -> None:
    """Decoding and two crops of a file."""
    files = [make_file(seed) for seed in range(FILES)]
    rng = np.random.default_rng(0)
    print(f"{FILES} files of {sum(map(len, files)) / FILES / 1e3:.1f} kB", flush=True)

    def views() -> list[object]:
        return [crops.random_views(raw, rng, SIZE, channels=3) for raw in files]

    print_row("host, decode + 2 crops", fastest(views, repeats, time.process_time), FILES)


def measure_device(batch: int, repeats: int) -> None:
    """All of `augment`, at both sizes."""
    clock = time.process_time if jax.default_backend() == "cpu" else time.perf_counter
    for size, channels, count, settings in (
        (SIZE, 3, batch, Augmentation()),
        (28, 1, 32 * batch, Augmentation(blur_kernel=5)),
    ):
        keys = jax.random.split(jax.random.key(0), count)
        pixels = jax.random.bits(keys[0], (count, size, size, channels), jnp.uint8)
        function = jax.jit(jax.vmap(functools.partial(augment, settings=settings)))
        seconds = fastest(functools.partial(function, pixels, keys), repeats, clock)
        print_row(f"device, {size} x {size}", seconds, count)


def print_row(task: str, seconds: float, count: int) -> None:
    """One line of the table."""
    print(f"{task:24} {1e3 * seconds / count:8.4f} ms  {count / seconds:9.0f} images/s", flush=True)


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=32, help="images of 224 x 224 at a time")
    parser.add_argument("--repeats", type=int, default=5, help="timings a row; the fastest counts")
    arguments = parser.parse_args()
    measure_host(arguments.repeats)
    measure_device(arguments.batch, arguments.repeats)


if __name__ == "__main__":
    main()
