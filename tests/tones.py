"""Tones in a space without images: data in memory and a data type.

Tones of users are 16-bit integers, tones of networks are floats, and figures show spectrograms.
"""

import jax.numpy as jnp
import numpy as np

from lzn_jax import parts
from lzn_jax.data import Examples
from lzn_jax.data_types import DataType, NetworkEncoder
from lzn_jax.errors import UserError
from lzn_jax.models import normal_by_index
from lzn_jax.models.mlp import MLP

LENGTH, LOUDEST = 32, 32767


class Tones:
    @staticmethod
    def load(data, split):
        labels = np.arange(24 if split == "train" else 10, dtype=np.int32) % 2
        phases = np.random.default_rng(len(labels)).random((len(labels), 1)) + np.zeros(LENGTH)
        waves = np.sin(
            2 * np.pi * (phases + (2 + 3 * labels[:, None]) * np.arange(LENGTH) / LENGTH)
        )
        texts = np.array(["a low tone", "a high tone"])[labels]
        return Examples(None, labels, texts, more={"tones": (LOUDEST * waves).astype(np.int16)})

    @staticmethod
    def class_names(data):
        return ("low", "high")


class Tone(DataType):
    def __init__(self, config):
        encoder = NetworkEncoder.from_config(
            "tone", config, MLP(8, 1, config.latent.dim, 0.0, jnp.float32), column="tones",
            example=jnp.zeros((1, LENGTH)),
        )  # fmt: skip
        super().__init__("tone", encoder, ToneDecoder(config.tone.condition))

    def samples(self, examples):
        return examples.more["tones"]

    def columns(self, examples):
        return {"tones": self.encoded(self.samples(examples))}

    def encoded(self, samples):
        if samples.dtype != np.int16:
            raise UserError("tones must be int16")
        return samples.astype(np.float32) / LOUDEST

    def decoded(self, outputs):
        return np.rint(LOUDEST * np.clip(outputs, -1, 1)).astype(np.int16)

    def parse(self, text):
        return np.load(text)

    def shown(self, samples):
        pieces = np.reshape(samples, (-1, LENGTH // 8, 8)) / LOUDEST
        powers = np.abs(np.fft.rfft(pieces)).swapaxes(1, 2)[..., None]
        return np.minimum(255, 64 * powers).astype(np.uint8)


class ToneDecoder:
    """A normal distribution given the latent, so that noise and tones determine each other."""

    network, output, num_draws = "tone_decoder", "tones", 0
    module = MLP(8, 1, LENGTH, 0.0, jnp.float32)
    sources, noise_scale = ("tone",), None

    def __init__(self, condition):
        self.condition = condition

    def init(self, key, condition):
        return self.module.init(key, jnp.concatenate(condition, axis=1), train=False)

    def loss(self, variables, batch, condition, keys):
        return jnp.mean(self.invert(variables, batch["tones"], condition) ** 2)

    def generate(self, variables, key, condition, index):
        noise = normal_by_index(key, "tone_noise", index, (LENGTH,))
        return {"tones": self.render(variables, noise, condition)}

    def invert(self, variables, samples, condition):
        return 2 * (samples - self.mean(variables, condition))

    def render(self, variables, noise, condition):
        return noise / 2 + self.mean(variables, condition)

    def reconstruct(self, variables, samples, condition):
        again = self.render(variables, self.invert(variables, samples, condition), condition)
        return {"tones": again, "errors": jnp.linalg.norm(again - samples, axis=1)}

    def mean(self, variables, condition):
        inputs = jnp.concatenate(condition, axis=1)
        return self.module.apply(variables[self.network], inputs, train=False)


parts.add("data", "tones", Tones)
parts.add(
    "type", "tone", Tone,
    {
        "tone.context_size": parts.count("context anchors"),
        "tone.condition": parts.word("of the decoder, beside latents", None, part="type"),
    },
)  # fmt: skip
