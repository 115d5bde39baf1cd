"""Images in memory as a data set, the midpoint method as a solver, a contrastive alignment."""

import dataclasses
import functools
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax

from lzn_jax import parts
from lzn_jax.data import Examples
from lzn_jax.zoning import OnGrid


class Photographs:
    """Square patches of scikit-learn's two photographs; the class of one is its photograph."""

    @staticmethod
    def load(data: Any, split: str) -> Examples:
        """Patches side by side; every fifth column of them is a test."""
        patches, labels = _patches(data.image_size)
        is_test = np.arange(patches.shape[2]) % 5 == 4
        chosen = patches[:, :, is_test if split == "test" else ~is_test]
        images = chosen.reshape(-1, *patches.shape[3:])
        return Examples(images, np.repeat(labels, len(images) // len(labels)))

    @staticmethod
    def class_names(data: Any) -> tuple[str, ...]:
        """What the photographs show."""
        return "temple", "flower"


@functools.cache
def _patches(side: int) -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_sample_images

    photographs = np.stack(load_sample_images().images)  # (2, 427, 640, 3) uint8
    rows, columns = photographs.shape[1] // side, photographs.shape[2] // side
    whole = photographs[:, : rows * side, : columns * side]
    blocks = whole.reshape(len(whole), rows, side, columns, side, 3)
    return blocks.transpose(0, 1, 3, 2, 4, 5), np.arange(len(whole), dtype=np.int32)


@dataclasses.dataclass(frozen=True)
class Midpoint(OnGrid):
    """The explicit midpoint method, order 2: half of the evaluations are in the middle of a step.

    A step from t to t' goes half of the way with the posterior mean at t, evaluates the mean in the
    middle, and goes the whole way from the start with that.
    """

    num_steps: int  # evaluations, two a step
    t_min: float = 1e-4

    def __post_init__(self) -> None:
        if self.num_steps < 2 or self.num_steps % 2:
            raise ValueError(f"num_steps must be even and >= 2, got {self.num_steps}")

    def noise_levels(self, towards: str) -> np.ndarray:
        """From t_min to the prior, t = 1; from 1 to the anchors, t = 0."""
        ends = (self.t_min, 1.0) if towards == "prior" else (1.0, 0.0)
        return np.linspace(*ends, self.num_steps + 1)

    def factors(self, levels: np.ndarray) -> np.ndarray:
        """Factors of the newest mean and the one before it, in the state after each evaluation."""
        start, middle, end = levels[:-1:2], levels[1::2], levels[2::2]
        factors = np.zeros((self.num_steps, 2))
        factors[::2, 0] = 1 - middle / start
        factors[1::2, 0] = 1 - end / start
        factors[1::2, 1] = -end / middle * factors[::2, 0]  # takes the first half back
        return factors


def contrast(latents: Any, zones: Any, targets: Any, setting: Any) -> tuple[Any, dict[str, Any]]:
    """InfoNCE of latents (m, q) and the anchors (n, q) of their targets, by cosine similarity."""
    x, y = (a / jnp.linalg.norm(a, axis=1, keepdims=True) for a in (latents, zones.anchors))
    logits = x @ y.T / setting.temperature
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
    is_right = jnp.argmax(logits, axis=1) == targets
    if zones.is_present is not None:  # samples that are missing do not count
        losses, is_right = (jnp.where(zones.is_present, a, 0) for a in (losses, is_right))
    return jnp.mean(losses), {"assignment_accuracy": jnp.mean(is_right)}


parts.add(
    "data",
    "photographs",
    Photographs,
    {
        "data.image_size": parts.Field(int, "side of a patch in pixels", 16, minimum=4, maximum=32),
        "data.channels": parts.Field(int, "image channels", 3, choices=(3,)),
        "data.num_classes": parts.Field(int, "number of classes", 2, choices=(2,)),
        "data.flip": parts.flag("flip training images left to right at random", True),
    },
)
T_MIN = parts.Field(float, "t at which the flow to the prior starts", 1e-4, above=0, below=1)
parts.add("solver", "midpoint", Midpoint, {".t_min": T_MIN})
TEMPERATURE = parts.positive("temperature of the softmax", 0.1)
parts.add("alignment", "contrastive", contrast, {"alignment.temperature": TEMPERATURE})
