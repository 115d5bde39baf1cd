"""Time and memory of converting a released checkpoint of full size: weights, averages and Adam.

    python benchmarks/convert_full_size.py --folder=DIR [--config=configs/cifar10_gen.py]

Writes random weights in the release's format to DIR/released.pt (1.8 GB for CIFAR-10), converts
them to DIR/run in a process of its own, and prints its wall time and largest resident memory:
36 s and 2.2 GB on one CPU core, without a bank of context anchors.
"""

import argparse
import resource
import subprocess
import sys
import time
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np

from lzn_jax import configuration
from lzn_jax.convert import network_layouts
from lzn_jax.release import torch_files
from lzn_jax.release.names import to_torch
from lzn_jax.release.weights import BUFFER, ENTRIES, PREFIX, Layout

BUFFER_SIZE = 1 << 23  # floats; more than the largest tensor
RNG = np.random.default_rng(0)
NUMBERS = 0.05 * RNG.standard_normal(BUFFER_SIZE, np.float32)


def random_tensor(shape: tuple[int, ...]) -> np.ndarray:
    """A part of one fixed array, so that a checkpoint needs no memory before it is written."""
    size = int(np.prod(shape))
    start = RNG.integers(BUFFER_SIZE - size)
    return NUMBERS[start : start + size].reshape(shape)


def torch_shapes(layout: Layout) -> dict[str, tuple[int, ...]]:
    """Torch's shapes of a network by key."""
    return {
        key: to_torch(key, np.broadcast_to(np.float32(0), layout.shapes[path])).shape
        for path, key in layout.keys.items()
    }


def checkpoint(layouts: dict[str, Layout]) -> dict[str, Any]:
    """What the release's trainer saves."""
    saved: dict[str, Any] = {"iteration": 200_000, "epoch": 800}
    adam: dict[int, Any] = {}
    for name, layout in layouts.items():
        shapes, entry = torch_shapes(layout), ENTRIES[name]
        weights = OrderedDict((PREFIX + k, random_tensor(shape)) for k, shape in shapes.items())
        if name == "decoder":
            weights[PREFIX + BUFFER] = np.zeros(1000)
        saved[entry] = weights
        trained = [shape for key, shape in shapes.items() if key not in layout.frozen()]
        saved[f"{entry}_ema"] = {"shadow_params": [random_tensor(shape) for shape in trained]}
        for shape in trained:
            moments = {moment: random_tensor(shape) for moment in ("exp_avg", "exp_avg_sq")}
            adam[len(adam)] = {"step": np.array(200_000.0, np.float32), **moments}
    return {**saved, "optimizer": {"state": adam}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--config", default="configs/cifar10_gen.py")
    flags = parser.parse_args()
    flags.folder.mkdir(parents=True, exist_ok=True)
    file = flags.folder / "released.pt"
    started = time.perf_counter()
    torch_files.write(file, checkpoint(network_layouts(configuration.load(flags.config))))
    size = file.stat().st_size / 1e9
    print(f"wrote {file}, {size:.2f} GB, in {time.perf_counter() - started:.0f} s", flush=True)

    command = [sys.executable, "-m", "lzn_jax.convert", f"--config={flags.config}"]
    started = time.perf_counter()
    subprocess.run(
        [*command, f"--checkpoint={file}", f"--workdir={flags.folder / 'run'}"], check=True
    )
    seconds = time.perf_counter() - started
    resident = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 / 1e9
    print(f"converted in {seconds:.0f} s with at most {resident:.2f} GB resident")


if __name__ == "__main__":
    main()
