"""How far latents can lower the reconstruction error, by what one of n zones can tell of an image.

    python benchmarks/reconstruction_bound.py [--configs configs/digits_gen.py ...] [--steps 50]

The n zones of a batch share the prior, so p(z | x) <= n p(z): a latent tells at most log n nats of
its image. The model: Gaussian images with the training set's covariance, the exact flow, and the
best use of R nats (reverse water-filling: each principal component's variance λ becomes
min(λ, θ)). There, Euler there and back multiplies each component by a number, so that errors are
closed forms. Prints the error with log n nats over that without, for images of any class and for
those of a known class; writes reconstruction_bound.json and reconstruction_bound.png.

Real images are not Gaussian: measured ratios lie on either side of these.
"""

import argparse
import math
from pathlib import Path

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
import numpy as np

from lzn_jax import configuration, studies
from lzn_jax.run import reporting

FIRST_TIME = 1e-3  # of the rectified flow, where t = 0 is noise
MAX_IMAGES = 20_000
ZONES = (13, 256, 1437, 60_000)  # of one class in 128 images, a batch, all digits, all clothes
NATS = np.linspace(0, 30, 61)


def round_trip_error(std: np.ndarray, steps: int) -> np.ndarray:
    """Root mean square error of components of standard deviation `std` after data -> noise -> data.

    The velocity of a centred Gaussian is v(x, t) = x (t σ² - (1 - t)) / (t² σ² + (1 - t)²).
    """
    t = np.linspace(FIRST_TIME, 1, steps + 1)[:, None]
    slope = (t * std**2 - (1 - t)) / (t**2 * std**2 + (1 - t) ** 2)
    step = (1 - FIRST_TIME) / steps
    backward = np.prod(1 - step * slope[1:], axis=0)
    forward = np.prod(1 + step * slope[:-1], axis=0)
    return np.abs(backward * forward - 1) * std


def after(nats: float, variances: np.ndarray) -> np.ndarray:
    """Variances of the components once `nats` are known of them: min(λ, θ)."""
    low, high = np.log(variances.min()), np.log(variances.max())
    for _ in range(100):
        middle = (low + high) / 2
        told = 0.5 * np.sum(np.maximum(np.log(variances) - middle, 0))
        low, high = (middle, high) if told > nats else (low, middle)
    return np.minimum(variances, np.exp(high))


def total_error(variances: np.ndarray, steps: int) -> float:
    """Error of whole images: components add up in squares."""
    return float(np.linalg.norm(round_trip_error(np.sqrt(variances), steps)))


def component_variances(images: np.ndarray, labels: np.ndarray, within_class: bool) -> np.ndarray:
    """Variances of the principal components, in units of [-1, 1]; dead ones have next to none."""
    x = images.reshape(len(images), -1) / 127.5 - 1
    groups = [labels == k for k in np.unique(labels)] if within_class else [slice(None)]
    centred = np.concatenate([x[g] - x[g].mean(axis=0) for g in groups])
    return np.maximum(np.linalg.eigvalsh(centred.T @ centred / len(x)), 1e-8)


def ratios_of(path: str, steps: int) -> dict[str, dict[str, list[float] | float]]:
    """By kind of image: errors with each of NATS over that with none."""
    train, _ = studies.load_data(configuration.load(path))
    images, labels = np.asarray(train.images[:MAX_IMAGES]), train.labels[:MAX_IMAGES]
    name, found = Path(path).stem.split("_")[0], {}
    for kind, within_class in (("any class", False), ("given the class", True)):
        variances = component_variances(images, labels, within_class)
        errors = [total_error(after(nats, variances), steps) for nats in NATS]
        ratios = [error / errors[0] for error in errors]
        found[f"{name}, {kind}"] = {"error without latents": errors[0], "ratio": ratios}
    return found


def draw(path: Path, found: dict) -> None:
    """Ratios against nats, with the sizes of batches that can tell as much."""
    figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
    for index, (name, row) in enumerate(found.items()):
        style = "-" if index % 2 == 0 else "--"
        axes.plot(NATS, row["ratio"], style, color=f"C{index // 2}", label=name)
    for n in ZONES:
        axes.axvline(math.log(n), color="0.8", linewidth=1, zorder=0)
        label = f"{n:,} zones"
        axes.text(math.log(n), 0.02, label, rotation=90, ha="right", fontsize=8, color="0.4")
    axes.set(xlabel="nats that a latent tells", ylabel="error with latents over without")
    axes.set_ylim(0, 1)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main() -> None:
    """Prints and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    default = ["configs/digits_gen.py", "configs/fashion_gen.py"]
    parser.add_argument("--configs", nargs="+", default=default)
    parser.add_argument("--steps", type=int, default=50, help="Euler steps each way")
    parser.add_argument("--folder", type=Path, default=Path("results/reconstruction_bound"))
    arguments = parser.parse_args()
    found = {}
    for path in arguments.configs:
        found |= ratios_of(path, arguments.steps)
    print(f"{'':28s}" + "".join(f"{n:>9,}" for n in ZONES) + "  zones")
    for name, row in found.items():
        cells = np.interp(np.log(ZONES), NATS, row["ratio"])
        print(f"{name:28s}" + "".join(f"{ratio:9.2f}" for ratio in cells))
    reporting.write_json(arguments.folder / "reconstruction_bound.json", found)
    draw(arguments.folder / "reconstruction_bound.png", found)
    print(f"written to {arguments.folder}")


if __name__ == "__main__":
    main()
