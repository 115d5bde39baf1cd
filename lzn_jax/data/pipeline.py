"""Training batches through Grain, each a function of seed and step alone."""

from typing import Any

import grain
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from lzn_jax.data.sources import Examples


class TrainingBatches:
    """Endless batches {'images': (b, h, w, c) uint8, 'labels': (b,) int32}, shuffled every epoch.

    Batch k is the same whether one reads from the start or resumes at k, and so is each image's
    augmentation, which is drawn by its position in the stream.
    """

    def __init__(self, examples: Examples, batch_size: int, seed: int, *, flip: bool) -> None:
        positions = grain.MapDataset.range(len(examples.labels)).seed(seed).shuffle().repeat()
        draws = positions.random_map(lambda index, rng: (index, rng.random() < 0.5))

        def gather(drawn: tuple[np.ndarray, np.ndarray]) -> dict[str, np.ndarray]:
            index, is_heads = drawn
            images = examples.images[index]
            if flip:
                images = np.where(is_heads[:, None, None, None], images[:, :, ::-1], images)
            return {"images": images, "labels": examples.labels[index]}

        batches = draws.batch(batch_size, drop_remainder=True).map(gather)
        # The data are in memory: one thread a few batches ahead is enough.
        options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=4)
        self._iterator = iter(batches.to_iter_dataset(options))
        self._shapes = jax.eval_shape(lambda: batches[0])

    def seek(self, step: int) -> None:
        """Makes batch number `step` the next one."""
        self._iterator.set_state({"next_index": step})

    def shapes(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes and dtypes of a batch."""
        return self._shapes

    def __next__(self) -> dict[str, Any]:
        return next(self._iterator)


def normalise(images: UInt8[Array, "b h w c"]) -> Float[Array, "b h w c"]:
    """Pixels 0 ... 255 as float32 in [-1, 1]."""
    return images.astype(jnp.float32) / 127.5 - 1


def to_uint8(images: Float[Array, "b h w c"]) -> UInt8[Array, "b h w c"]:
    """Images in [-1, 1] as pixels 0 ... 255, rounded to the nearest, clipped."""
    return jnp.round(jnp.clip((images + 1) * 127.5, 0, 255)).astype(jnp.uint8)
