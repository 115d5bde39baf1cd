"""An autoregressive decoder: each pixel's grey level, given those before it."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from lzn_jax import parts
from lzn_jax.models import in_training, keys_by_index


class CausalPixels(nn.Module):
    """Logits (b, pixels, levels) of grey levels (b, pixels), row by row; each sees those before."""

    image_shape: tuple[int, int, int]  # the package gives it
    features: int
    num_layers: int
    levels: int

    @nn.compact
    def __call__(self, pixels: Any, latents: Any, beside: Any, *, train: bool) -> jax.Array:
        """Logits; `train` changes nothing."""
        height, width, _ = self.image_shape
        condition = latents if beside is None else jnp.concatenate([latents, beside], axis=1)
        condition = nn.Dense(self.features)(condition)[:, None]
        before = jnp.pad(pixels, ((0, 0), (1, 0)), constant_values=self.levels)[:, :-1]
        h = nn.Embed(self.levels + 1, self.features)(before)
        h += nn.Embed(height * width, self.features)(jnp.arange(height * width))
        for _ in range(self.num_layers):
            rows = nn.Conv(self.features, (2 * width,), padding="CAUSAL")(nn.LayerNorm()(h))
            h += nn.Dense(self.features)(nn.gelu(rows + nn.Dense(self.features)(condition)))
        return nn.Dense(self.levels)(nn.LayerNorm()(h))


class PixelDecoder:
    """Grey images of latents. Without `invert` there are no reconstructions."""

    network, output, num_draws = "decoder", "images", 1

    def __init__(self, config: Any, module: CausalPixels) -> None:
        self.module, self.microbatch_size = module, config.training.microbatch_size
        self.sources = tuple(config.decoder.sources)
        self.condition: str | None = config.decoder.condition
        self.noise_scale: float | None = config.latent.noise_scale

    def init(self, key: jax.Array, condition: Any) -> Any:
        """Fresh variables."""
        return self.module.init(key, self._blank(1), *condition, train=False)

    def loss(self, variables: Any, batch: Any, condition: Any, keys: Any) -> jax.Array:
        """Cross-entropy of a pixel."""
        levels = batch["images"].reshape(len(batch["images"]), -1) / 255 * (self.module.levels - 1)
        pixels = jnp.round(levels).astype(jnp.int32)
        network = in_training(self.module, self.microbatch_size)
        logits = network(variables[self.network], keys[0], pixels, *condition)
        return optax.softmax_cross_entropy_with_integer_labels(logits, pixels).mean()

    def generate(self, variables: Any, key: jax.Array, condition: Any, index: Any) -> dict:
        """Images of the given numbers: each has its own noise of the key, whatever its batch."""
        shape = (self.module.image_shape[0] * self.module.image_shape[1], self.module.levels)
        keys = keys_by_index(key, "pixels", index)
        noise = jax.vmap(lambda key: jax.random.gumbel(key, shape))(keys)

        def draw(place: Any, pixels: jax.Array) -> jax.Array:
            logits = self.module.apply(variables[self.network], pixels, *condition, train=False)
            return pixels.at[:, place].set(jnp.argmax(logits + noise, axis=2)[:, place])

        pixels = jax.lax.fori_loop(0, shape[0], draw, self._blank(len(index)))
        images = jnp.round(pixels * (255 / (self.module.levels - 1))).astype(jnp.uint8)
        return {"images": images.reshape(-1, *self.module.image_shape)}

    def _blank(self, count: int) -> jax.Array:
        height, width, _ = self.module.image_shape
        return jnp.zeros((count, height * width), jnp.int32)


def _check(values: Any) -> None:
    channels = values["data.channels"]
    parts.require(channels == 1, f"decoder 'pixels' needs data.channels 1, got {channels}")
    parts.require(bool(values["decoder.sources"]), "decoder 'pixels' needs decoder.sources")


FIELDS = {
    "decoder.features": parts.count("channels"),
    "decoder.num_layers": parts.count("layers, each over two rows of pixels"),
    "decoder.levels": parts.Field(int, "grey levels", 256, minimum=2, maximum=256),
}
parts.add("decoder", "pixels", (CausalPixels, PixelDecoder), FIELDS, check=_check)
