"""Images a second that this host supplies for training on JPEG files of 500 x 375 pixels.

    python benchmarks/input_speed.py [--images=2000] [--seconds=5] [--cores=96]

An example is two random crops of 224 pixels, as in `imagenet_repr`. The first lines compare one
core with plain Pillow, in turns: decode, crop, resize. The table shows the rates of training
batches by source, with one worker process on each core, beside evaluation. The last lines simulate
a host with more cores, which one or more processes share, from the measured seconds of a worker and
of the trainer's process.
"""

import functools
import io
import os
import re
import tempfile
import time
from collections.abc import Callable
from multiprocessing import active_children
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lzn_jax import configuration, data
from lzn_jax.data import Examples, pixels
from lzn_jax.data.batches import TrainingBatches

SIZE, CHUNK = 224, 64  # pixels; images that a worker transfers at a time
VIEWS = pixels.Views(SIZE, 3)


def photographs(count: int) -> list[bytes]:
    """Different JPEG files of about 60 kB, parts of two photographs."""
    from sklearn.datasets import load_sample_images  # here, since each worker imports this file

    wholes, rng, files = load_sample_images().images, np.random.default_rng(0), []
    for index in range(count):
        left, upper = rng.integers(140), rng.integers(52)
        part = wholes[index % 2][upper : upper + 375, left : left + 500]
        file = io.BytesIO()
        Image.fromarray(part).save(file, "JPEG", quality=92)
        files.append(file.getvalue())
    return files


def plain(encoded: bytes, rng: np.random.Generator) -> np.ndarray:
    """Two crops by the shortest program."""
    image = Image.open(io.BytesIO(encoded)).convert("RGB")
    options: Any = {"area": (VIEWS.min_area, 1.0), "ratio": (3 / 4, 4 / 3)}
    boxes = [pixels.draw_box(rng, *image.size, **options) for _ in range(2)]
    shape, method = (SIZE, SIZE), Image.Resampling.BILINEAR
    return np.stack([np.asarray(image.crop(box).resize(shape, method)) for box in boxes])


def ours(encoded: bytes, rng: np.random.Generator) -> np.ndarray:
    return VIEWS(encoded, rng)["views"]


def all_of(files: list[bytes], function: Callable[..., np.ndarray]) -> None:
    rng = np.random.default_rng(0)
    for encoded in files:
        function(encoded, rng)


def mean_difference(files: list[bytes]) -> float:
    """Mean difference of the two paths, in levels of 255."""
    pairs = [[f(each, np.random.default_rng(0)) for f in (plain, ours)] for each in files]
    return float(np.mean([np.abs(a.astype(int) - b) for a, b in pairs]))


def examples_of(name: str, path: Path, **fields: Any) -> Examples:
    """Training examples of a data set at a path, by the fields of `imagenet_repr`."""
    fields = {"name": name, "path": str(path), "num_classes": 1, "image_size": SIZE, **fields}
    changes = [f"data.{field}={value}" for field, value in fields.items()]
    return data.load(configuration.load("imagenet_repr", changes).data, "train")


def in_folder(path: Path, files: list[bytes]) -> Examples:
    for index, content in enumerate(files):
        (path / f"{index:05}.jpg").write_bytes(content)
    return examples_of("image_folder", path, holdout=1)


def in_parquet(path: Path, files: list[bytes]) -> Examples:
    import datasets

    datasets.config.HF_DATASETS_CACHE = path / "cache"
    features = datasets.Features({"image": datasets.Image()})
    rows = {"image": [{"bytes": content, "path": None} for content in files]}
    table = datasets.Dataset.from_dict(rows, features=features)
    table.to_parquet(path / "train-00000-of-00001.parquet")
    return examples_of("huggingface", path, holdout=1)


def in_array_records(path: Path, files: list[bytes]) -> Examples:
    import tensorflow_datasets as library

    def _info(self):
        described = library.features.FeaturesDict({"image": library.features.Image()})
        return library.core.DatasetInfo(builder=self, features=described)

    def _generate_examples(self):
        for index, content in enumerate(files):
            yield index, {"image": io.BytesIO(content)}

    members = {"name": "photos", "VERSION": library.core.Version("1.0.0"), "_info": _info}
    members |= {"_generate_examples": _generate_examples, "__doc__": "Photographs."}
    members["_split_generators"] = lambda self, _: {"train": self._generate_examples()}
    with library.core.registered.skip_registration():
        builder = type("Made", (library.core.GeneratorBasedBuilder,), members)
    builder(data_dir=path, file_format="array_record").download_and_prepare()
    options = {"tfds_name": "photos", "train_split": "train", "test_split": "train[:1]"}
    return examples_of("tfds", path, **options)


def in_memory(path: Path, files: list[bytes]) -> Examples:
    images = np.stack([np.asarray(pixels.decode(content, 3)) for content in files])
    return Examples(images, np.zeros(len(files), np.int32))


def constant(image: bytes, rng: np.random.Generator, views: np.ndarray) -> dict[str, np.ndarray]:
    """Views without decoding: what is left is the transfer to the trainer's process."""
    return {"views": views}


def batch_rate(
    examples: Examples, transform: Callable[..., Any], workers: int, seconds: float
) -> dict[str, float]:
    """Images a second, seconds until the first batch, memory of a worker in MB.

    `own` is the processor time of this process for an image.
    """
    started = time.perf_counter()
    with TrainingBatches(examples, 4 * CHUNK, 0, transform, workers=workers) as batches:
        next(batches)
        first, used, count = time.perf_counter(), time.process_time(), 0
        while (now := time.perf_counter()) < first + seconds:
            next(batches)
            count += 4 * CHUNK
        status = [Path(f"/proc/{child.pid}/status").read_text() for child in active_children()]
    memory = [int(re.search(r"RssAnon:\s+(\d+)", text)[1]) / 1024 for text in status]
    largest = max(memory, default=0.0)
    own = (time.process_time() - used) / count
    return {"rate": count / (now - first), "start": first - started, "memory": largest, "own": own}


def simulated(workers: int, chunk: np.ndarray, transfer: float, buffered: int = 2) -> float:
    """Share of the workers' time that is used, if the trainer reads them in turn.

    `chunk` contains measured seconds of a chunk, `transfer` the trainer's seconds for one. A worker
    waits while `buffered` chunks of its own have not been read.
    """
    rng, count = np.random.default_rng(0), 200 * workers
    seconds = rng.choice(chunk, count)
    done, read = np.zeros(count), np.zeros(count)
    for i in range(count):
        before = done[i - workers] if i >= workers else 0.0
        space = read[i - buffered * workers] if i >= buffered * workers else 0.0
        done[i] = max(before, space) + seconds[i]
        read[i] = max(read[i - 1] if i else 0.0, done[i]) + transfer
    return count * seconds.mean() / (workers * read[-1])


def main() -> None:
    import shared

    parser = shared.parser(__doc__)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--cores", type=int, default=96)
    arguments = parser.parse_args()
    files, workers = photographs(arguments.images), len(os.sched_getaffinity(0))
    few = files[:: len(files) // 200]

    calls = [functools.partial(all_of, few, function) for function in (plain, ours)]
    taken = shared.in_turns(*calls, repeats=7)
    per_core, ratios = len(few) / taken, taken[:, 0] / taken[:, 1]
    print(f"size of a file {np.mean([len(f) for f in files]) / 1e3:.0f} kB")
    print(f"one core: plain {np.median(per_core[:, 0]):.0f}, ours {np.median(per_core[:, 1]):.0f}")
    print(f"ours / plain {np.median(ratios):.2f} ({ratios.min():.2f} to {ratios.max():.2f})")
    print(f"difference of the pixels, mean {mean_difference(few):.2f} levels")

    one = float(np.median(per_core[:, 1]))
    rows: list[tuple[Any, ...]] = [
        ("source", "images/s", "share of all cores", "first batch, s", "worker, MB", "evaluation")
    ]
    views = np.zeros((2, SIZE, SIZE, 3), np.uint8)
    transfer = 0.0
    for make in (in_folder, in_parquet, in_array_records, in_memory):
        with tempfile.TemporaryDirectory() as folder:
            examples, count = make(Path(folder), files), workers
            count = workers if isinstance(examples.images, pixels.EncodedImages) else 0
            found = batch_rate(examples, VIEWS, count, arguments.seconds)
            started = time.perf_counter()
            examples.images[np.arange(400)]
            read = 400 / (time.perf_counter() - started)
            share = found["rate"] / (max(count, 1) * one)
            rows.append(
                (make.__name__, f"{found['rate']:.0f}", f"{share:.2f}", f"{found['start']:.1f}",
                 f"{found['memory']:.0f}", f"{read:.0f}")
            )  # fmt: skip
            if make is in_folder:
                transform = functools.partial(constant, views=views)
                transfer = batch_rate(examples, transform, 1, arguments.seconds)["own"]
    shared.print_table(rows)

    chunks = []
    for start in range(0, len(files) - CHUNK, CHUNK):
        chunks.append(shared.seconds(all_of, files[start : start + CHUNK], ours))
    print(f"transfer of an image to the trainer: {1e3 * transfer:.3f} ms")
    for processes in (1, 4, 8):
        count = arguments.cores // processes - 2
        used = simulated(count, np.array(chunks), CHUNK * transfer)
        whole = f"{used * count * one * processes:.0f} images/s"
        print(f"{processes} processes of {count} workers: {used:.2f} of their time, {whole}")


if __name__ == "__main__":
    main()
