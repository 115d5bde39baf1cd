"""Short synthetic sounds with labels and captions: data, type, measurement and figure."""

from functools import partial
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from scipy.io import wavfile
from scipy.signal import istft, resample_poly, stft
from sklearn.svm import SVC

from lzn_jax import parts
from lzn_jax.array_type import ArrayType
from lzn_jax.data import Examples
from lzn_jax.data_types import DataType
from lzn_jax.decoders import flow
from lzn_jax.errors import UserError
from lzn_jax.models import in_training, normal_by_index
from lzn_jax.models.mlp import MLPDecoder
from lzn_jax.plots import style

RATE, LENGTH, LOUDEST = 8000, 1024, 32767  # samples per second and sound; the largest sample
SHAPE, FLOOR = (33, 33, 1), 3e-3  # frequencies and windows of a spectrogram; silence in it
EULER = flow.Sampler("euler", 32)  # steps
NAMES = ("rising chirp", "falling chirp", "tone", "buzz", "noise", "rattle", "vibrato", "chord")


def load(data, split):
    """Equally many sounds of each class, of random loudness, pitch, phase and place."""
    count, seed = {"train": (2880, 0), "test": (320, 1)}[split]
    labels, rng = np.arange(count, dtype=np.int32) % len(NAMES), np.random.default_rng(seed)
    words = rng.choice(["quiet", "loud"], count)
    peaks = np.where(words == "loud", rng.uniform(0.5, 1, count), rng.uniform(0.05, 0.2, count))
    sounds = np.int16(LOUDEST * peaks[:, None] * [wave(label, rng) for label in labels])
    texts = [f"a {word} {NAMES[label]}" for word, label in zip(words, labels, strict=True)]
    return Examples(None, labels, np.array(texts), more={"sounds": sounds})


def wave(label, rng):
    """A sound (LENGTH,) of a class, in [-1, 1]."""
    pitch, period, speed = 500 * 3 ** rng.random(), rng.integers(80, 200), rng.uniform(16, 24)
    (phase, other), t = rng.random(2), np.arange(LENGTH) / RATE
    rise, wobble = 2.2 ** (t / t[-1]), 1 + 0.25 * np.sin(2 * np.pi * (speed * t + other))
    pitches = pitch * [rise, rise[::-1], 1, 0.5, 1, 1, wobble, 1][label]
    tone = np.sin(2 * np.pi * (phase + np.cumsum(pitches + 0 * t) / RATE))
    second = np.sin(2 * np.pi * (other + pitch * (1.8 + 0.7 * other) * t))
    burst = rng.uniform(-1, 1, LENGTH) * np.exp(-((6 * t / t[-1] - 1.5 - 3 * other) ** 2))
    clicks = np.arange(LENGTH) % period == int(phase * period)
    return {3: np.sign(tone), 4: burst, 5: clicks, 7: (tone + second) / 2}.get(label, tone)


class Sound(ArrayType):
    """Sounds (n, LENGTH) int16. Networks read and write log-magnitudes (n, 33, 33, 1)."""

    measurements, figures = ("sounds",), ("tasks", "spectrograms")

    def __init__(self, config):
        encoder, decoder = Encoder(config.latent.dim), SoundDecoder(config)
        super().__init__(
            "sound", (LENGTH,), config=config, column="sounds", encoder=encoder, decoder=decoder
        )

    def checked(self, samples):
        sounds = np.asarray(samples)
        if sounds.dtype != np.int16 or sounds.shape[1:] != (LENGTH,):
            got = f"{sounds.dtype} {sounds.shape}"
            raise UserError(f"sounds must be an array (n, {LENGTH}) of int16, got {got}")
        return DataType.checked(self, sounds)

    def encoded(self, samples):  # about from -1 to 1
        magnitudes = np.abs(stft(np.asarray(samples) / LOUDEST, nperseg=64)[2])[..., None]
        return ((np.log10(FLOOR + magnitudes) + 1.4) / 1.1).astype(np.float32)

    def decoded(self, outputs):  # with phases by the iteration of Griffin and Lim
        magnitudes = 10 ** (1.1 * np.clip(outputs[..., 0], -1.1, 1.2) - 1.4)
        magnitudes = np.maximum(magnitudes - 1.3 * FLOOR, 0)
        phases, before = 2 * np.pi * np.random.default_rng(0).random(SHAPE[:2]), 0
        for _ in range(60):
            waves = istft(magnitudes * np.exp(1j * phases), nperseg=64)[1]
            found = stft(waves, nperseg=64)[2]
            phases, before = np.angle(found + 0.9 * (found - before)), found
        return np.int16(LOUDEST * np.clip(waves, -1, 1))

    def sample_format(self):
        return {"description": "log-magnitudes of spectrograms (33, 33, 1)"}

    def shown(self, samples):  # spectrograms, low pitches at the bottom
        return np.uint8(np.clip(128 * (self.encoded(samples)[:, ::-1] + 1), 0, 255))

    def parse(self, text):
        try:
            return self.written(wavfile.read(text))
        except (OSError, ValueError) as error:
            raise UserError(f"{text} is no WAV file: {error}") from error

    def written(self, value):  # the middle of a recording, with silence around a short one
        rate, recording = value
        scale = np.iinfo(recording.dtype).max if recording.dtype.kind == "i" else 1
        waves = resample_poly(recording.reshape(len(recording), -1).mean(axis=1), RATE, rate)
        waves, start = np.pad(np.clip(waves / scale, -1, 1), LENGTH), (len(waves) + LENGTH) // 2
        return np.int16(LOUDEST * waves[None, start : start + LENGTH])

    def input_component(self, value=None):
        import gradio  # only the page needs it

        return gradio.Audio(value, show_label=False, min_width=250)

    output_component = input_component

    def displayed(self, samples):
        return [(RATE, sound) for sound in samples]


class Encoder(nn.Module):  # convolutions over time, with frequencies as channels
    latent_dim: int

    @nn.compact
    def __call__(self, spectra, *, train):
        h = spectra[..., 0].swapaxes(1, 2)
        for _ in range(3):
            h = nn.silu(nn.LayerNorm()(nn.Conv(64, (3,), strides=2)(h)))
        return nn.Dense(self.latent_dim)(h.reshape(len(h), -1))


class SoundDecoder:  # a rectified flow from noise to spectrograms, given a latent of any type
    network, output, num_draws, noise_scale = "sound_decoder", "sounds", 2, None

    def __init__(self, config):
        self.sources, self.condition = config.types, config.sound.condition
        self.module = MLPDecoder(config.sound.features, 4)
        self.in_training = in_training(self.module, config.training.microbatch_size)

    def init(self, key, condition):
        return self.module.init(key, jnp.zeros((1, *SHAPE)), jnp.zeros(1), *condition, train=False)

    def velocity(self, network, x, t, condition):  # the network returns spectrograms
        return (network(x, t, *condition) - x) / jnp.maximum(1 - t, 0.05)[:, None, None, None]

    def loss(self, variables, batch, condition, keys):
        network = partial(self.in_training, variables[self.network], keys[0])
        noise, t = flow.draw(keys[1], spectra := batch["sounds"])
        return flow.loss(partial(self.velocity, network), spectra, condition, noise, t)

    def generate(self, variables, key, condition, index):
        net = partial(self.module.apply, variables[self.network], train=False)
        noise = normal_by_index(key, "sounds", index, SHAPE)
        return {self.output: flow.generate(partial(self.velocity, net), noise, condition, EULER).x}


def made(model, examples):  # sounds of their labels and texts
    types, sources = model.space.types, [s for s, t in model.translations if t == "sound"]
    return {s: model.translate(types[s].samples(examples), s, "sound") for s in sources}


def measure(model, train, test, workdir):
    """Shares of sounds in which a judge, trained on real ones, hears the class that was asked."""
    kind = model.space.types["sound"]
    heard = {f"{source}_to_sound_class": sounds for source, sounds in made(model, test).items()}
    heard |= {"train": kind.samples(train), "judge_accuracy": kind.samples(test)}
    inputs = {name: kind.encoded(sounds).reshape(len(sounds), -1) for name, sounds in heard.items()}
    judge = SVC(C=10.0).fit(inputs.pop("train"), train.labels)
    return {name: np.mean(judge.predict(x) == test.labels) for name, x in inputs.items()}


def draw(model, test, folder):
    """Spectrograms of real sounds of all classes, and of sounds made of their labels and texts."""
    kind, some = model.space.types["sound"], test.at(np.unique(test.labels, return_index=True)[1])
    rows = {"real": kind.samples(some), **made(model, some)}
    figure = style.new_figure(14.0, 2.0 * len(rows), "Spectrograms of 128 ms, up to 4 kHz")
    for axes, (name, sounds) in zip(figure.subplots(len(rows)), rows.items(), strict=True):
        axes.imshow(np.concatenate(kind.shown(sounds), axis=1), aspect="auto")
        axes.set(xticks=33 * np.arange(8) + 16, xticklabels=NAMES, yticks=[], ylabel=name)
    style.save(figure, folder / "spectrograms.png")


FIELDS = {
    "sound.condition": parts.word("type of the decoder's condition beside latents", part="type"),
    "sound.features": parts.count("units of the decoder's layers", 384, multiple_of=4),
}
FIELDS |= ArrayType.fields("sound", 1024)
DATA = SimpleNamespace(load=load, class_names=lambda data: NAMES)
parts.add("data", "sounds", DATA, owner=__name__)
parts.add("type", "sound", Sound, FIELDS)
parts.add("measurement", "sounds", measure)
parts.add("figure", "spectrograms", draw)
