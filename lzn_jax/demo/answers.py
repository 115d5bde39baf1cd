"""What a run answers to a person: one sample in, pictures and words out. Nothing here knows a page.

The number of a draw stands for its randomness: the same one answers the same.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from matplotlib.figure import Figure
from ml_collections import ConfigDict, FrozenConfigDict
from PIL import Image

from lzn_jax import data, plots
from lzn_jax.configuration import UserError
from lzn_jax.data import Examples, decoding
from lzn_jax.data.examples import evenly_spaced
from lzn_jax.data_types import Invertible
from lzn_jax.latent_space import LatentSpace
from lzn_jax.run import sharding
from lzn_jax.trained_model import TrainedModel

NUM_IMAGES = 8  # of a text, a label, a zone
MAX_SHOWN = 1000  # test images on the map
_CANVAS = 16  # pixels of a drawing for each of an image's, a side

Picture = UInt8[np.ndarray, "h w c"]
Pictures = UInt8[np.ndarray, "n h w c"]


class About(NamedTuple):
    """The answers to an image; None where the run has none.

    Attributes:
      classes: probabilities by name.
      others: the image as a sample of each other type without images, by type.
      reconstruction, siblings, neighbours, place: pictures.
    """

    classes: dict[str, float] | None
    others: dict[str, str]
    reconstruction: Picture | None
    siblings: Pictures | None
    neighbours: Pictures | None
    place: Figure | None


class Answers:
    """A trained run for people.

    Attributes:
      shown: test images to choose from, in equal shares of the classes; None where there are none.
      reads_images, draws_images: whether it has zones of images; whether it makes images.
      inverts_images: whether it reconstructs images and goes between two.
      names_classes: whether it finds the class of an image.
      draws_any: whether it makes images of the prior.
      classes: names of labels that it makes images of; empty for a run that makes none.
      others: types without images or classes, which an image becomes.
      written: pairs of types whose samples to translate are written, not drawn.
    """

    def __init__(
        self, model: TrainedModel, test: Examples | None, train: Examples | None = None
    ) -> None:
        """Answers of a run with its test and training examples, None where they cannot be read."""
        self.model = model = _few_at_a_time(model)
        self._data, space, main = model.config.data, model.space, model.main_type
        self._types, has_images = space.types, space.types[main].has_images
        self.draws_images = has_images and main in space.decoders
        self.inverts_images = self.draws_images and isinstance(space.decoders[main], Invertible)
        key = getattr(space.encoders.get(main), "anchors_key", None)
        self.reads_images = has_images and key in model.model.context
        self.names_classes = self.reads_images and (main, model.class_type) in model.translations
        self.draws_any = self.draws_images and (model.has_latents or model.class_type is None)
        self._test: Examples | None = None
        self.shown: Any = None
        if test is not None and has_images:
            count = len(test.labels)
            rows = evenly_spaced(min(count, MAX_SHOWN), count)  # files go by class
            self._test = Examples(test.images[rows], test.labels[rows])
            self.shown = self._test.images[_of_each_class(self._test.labels)]
            if self.reads_images:
                self._latents = model.encode(self._test.images, None, 0.0)
        self._names = [] if model.class_type is None else data.label_names(self._data)
        self.classes = self._names if self.draws_images else []
        pairs = [pair for pair in model.translations if main in pair or not has_images]
        ends = (main, model.class_type) if has_images else ()
        self.others = [t for s, t in pairs if has_images and s == main and t not in ends]
        self.written = [(s, t) for s, t in pairs if s not in ends]
        self._examples = {} if train is None else {s: self._samples(s, train) for s, _ in pairs}
        self._words = {
            word.casefold()
            for source, _ in self.written
            for word in self._types[source].words(self._examples.get(source, ()))
        }

    def _samples(self, source: str, train: Examples) -> Any:
        """Training samples of a type that are written; of others none."""
        is_written = any(source == each for each, _ in self.written)
        return self._types[source].samples(train) if is_written else ()

    def examples(self, source: str) -> list[str]:
        """Some training samples of a type, as they are written."""
        samples = self._examples.get(source, ())
        rows = evenly_spaced(min(len(samples), 50 * NUM_IMAGES), len(samples))
        shown = [text for text in self._types[source].shown([samples[i] for i in rows]) if text]
        return list(dict.fromkeys(shown))[:NUM_IMAGES]

    def read(self, encoded: bytes) -> tuple[Picture, str]:
        """The image in a file as the model sees it, and notes on what was changed.

        A grey image becomes its inverse where that gives it the ground of the data's images.
        Raises UserError for a file that is no image.
        """
        (wide, high), notes = decoding.decode(encoded, self._data.channels).size, []
        image, side = decoding.prepare(encoded, self._data), self._data.image_size
        if (wide, high) != (side, side):
            notes.append(
                f"The model sees {side} × {side} pixels of the middle of your {wide} × {high}."
            )
        (is_light,) = _has_light_ground(image[None])
        if self._data.channels == 1 and self._is_light not in (None, is_light):
            image, ground = 255 - image, "light" if is_light else "dark"
            notes.append(f"Your picture has a {ground} ground; its inverse is used.")
        return image, " ".join(notes)

    def drawn(self, ink: Float[np.ndarray, "rows columns"]) -> Picture:
        """A drawing as an image of the data: as large, and as bright on as dark a ground.

        `ink` is between 0 and 1. Raises UserError where there is none.
        """
        rows, columns = np.nonzero(ink > 0.5)
        if not len(rows):
            raise UserError("draw something first")
        side, size = _CANVAS * self._data.image_size, np.array([np.ptp(columns), np.ptp(rows)]) + 1
        wide, high = np.maximum(1, size * self._share_of_height * side / size.max()).astype(int)
        box = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        shape = Image.fromarray((255 * ink).astype(np.uint8)).resize((wide, high), box=box)
        canvas = Image.new("L", (side, side))
        canvas.paste(shape, ((side - wide) // 2, (side - high) // 2))
        image = np.asarray(canvas.reduce(_CANVAS))[..., None]
        return 255 - image if self._is_light else image

    def about(self, image: Picture, draw: int) -> About:
        """The run's answers to an image."""
        model, images = self.model, image[None]
        classes = reconstruction = siblings = neighbours = place = None
        if self.names_classes:
            (found,) = model.class_probabilities(images)
            classes = dict(zip(self._names, found.tolist(), strict=True))
        others = {
            target: str(
                self._types[target].shown(model.translate(images, model.main_type, target))[0]
            )
            for target in self.others
        }
        if self.inverts_images:
            (reconstruction,) = model.reconstruct(images)["images"]
        if self.draws_images:
            siblings = model.siblings(images.repeat(NUM_IMAGES, axis=0), jax.random.key(draw))
        if self._test is not None:
            latent = model.encode(images, None, 0.0)
            distances = np.linalg.norm(self._latents - latent, axis=1)
            neighbours = self._test.images[np.argsort(distances)[:NUM_IMAGES]]
            labels, title = self._test.labels, "Where it lies among the test images' zones"
            place = plots.among_zones(self._latents, labels, latent, title, self._names or None)
        return About(classes, others, reconstruction, siblings, neighbours, place)

    def translated(self, source: str, target: str, text: str, draw: int) -> tuple[Any, str]:
        """What a written sample becomes, images or strings, and a note of unknown words.

        Raises UserError for a sample that is empty or cannot be read.
        """
        if not (text := text.strip()):
            raise UserError(f"write a {source} first")
        written = self._types[source].parse(text)
        unknown = [
            word
            for word in self._types[source].words(written)
            if word.casefold() not in self._words
        ]
        note = f"No training sample has: {', '.join(dict.fromkeys(unknown))}."
        samples, key = [written[0]] * NUM_IMAGES, jax.random.key(draw)
        made = self.model.translate(samples, source, target, key=key)
        return self._types[target].shown(made), note if unknown and self._words else ""

    def of_label(self, name: str, draw: int) -> Pictures:
        """Images of a class."""
        labels = [self._names.index(name)] * NUM_IMAGES
        return np.asarray(self.model.sample(NUM_IMAGES, jax.random.key(draw), labels).images)

    def of_prior(self, draw: int) -> Pictures:
        """Images of latents of the prior."""
        made: Pictures = self.model.generate(self.model.main_type, NUM_IMAGES, jax.random.key(draw))
        return made

    def between(self, first: Picture, second: Picture) -> Pictures:
        """What lies between two images, both ends among it."""
        found: Pictures = self.model.interpolate(np.stack([first, second]))["images"]
        return found

    @property
    def _is_light(self) -> bool | None:
        """Whether the data's images have a light ground; None where there is no common one."""
        share = 0.5 if self.shown is None else np.mean(_has_light_ground(self.shown))
        return None if 0.1 < share < 0.9 else bool(share > 0.5)

    @property
    def _share_of_height(self) -> float:
        """How much of an image's height what is on it takes, as a mean."""
        if self.shown is None:
            return 0.8
        images = 255 - self.shown if self._is_light else self.shown
        is_ink = np.any(images > 96, axis=(2, 3))
        first, last = np.argmax(is_ink, axis=1), np.argmax(is_ink[:, ::-1], axis=1)
        return float(np.mean(1 - (first + last) / is_ink.shape[1]))


def _has_light_ground(images: Pictures) -> Bool[np.ndarray, " n"]:
    """Whether more than half of an image's border is lighter than middle grey."""
    is_light = images.mean(axis=-1) > 127.5
    is_border = np.pad(np.zeros_like(is_light[0, 1:-1, 1:-1]), 1, constant_values=True)
    return is_light[:, is_border].mean(axis=1) > 0.5


def _few_at_a_time(model: TrainedModel) -> TrainedModel:
    """The same run with batches of what one answer needs, in place of training's."""
    config = ConfigDict(model.config)
    config.training.batch_size, config.training.microbatch_size = NUM_IMAGES, None
    space = LatentSpace(FrozenConfigDict(config), sharding.inference_mesh())
    return dataclasses.replace(model, space=space)


def _of_each_class(labels: Int[np.ndarray, " n"], count: int = 30) -> Int[np.ndarray, " m"]:
    """Rows, classes in turn and of each as many as there are, up to `count` in all."""
    classes, index = np.unique(labels, return_inverse=True)
    share = max(1, count // len(classes))
    return np.concatenate([np.flatnonzero(index == k)[:share] for k in range(len(classes))])[:count]
