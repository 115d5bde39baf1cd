"""Answers of a trained run to one sample, as images, figures and strings, independent of the page.

Results are reproducible: they depend on the arguments alone, among them the seed.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Int, UInt8
from matplotlib.figure import Figure
from ml_collections import ConfigDict, FrozenConfigDict
from PIL import Image

from lzn_jax import data, plots
from lzn_jax.data import Examples, folder, pixels
from lzn_jax.data.pixels import evenly_spaced
from lzn_jax.data_types import Invertible, are_images
from lzn_jax.errors import UserError
from lzn_jax.latent_space import LatentSpace
from lzn_jax.run import devices
from lzn_jax.trained_model import TrainedModel

NUM_IMAGES = 8  # of a text, a label, a zone
MAX_MAP_IMAGES = 1000  # test images on the map
_OVERSAMPLING = 16  # drawings are scaled to so many times the side of an image, then averaged
_WHITE = 255

Picture = UInt8[np.ndarray, "h w c"]
Pictures = UInt8[np.ndarray, "n h w c"]


class About(NamedTuple):
    """What a run computes for an image; fields are None for what the run does not support.

    Attributes:
      classes: probability of each class, by name.
      others: translation of the image to each type that is neither image nor class, as displayed.
      reconstruction: the image decoded from its own noise.
      siblings: other images of its zone.
      neighbours: test images whose latents are nearest.
      place: figure of its latent among those of the test images.
      note: says that it is far from the training images; empty otherwise.
    """

    classes: dict[str, float] | None
    others: dict[str, Any]
    reconstruction: Picture | None
    siblings: Pictures | None
    neighbours: Pictures | None
    place: Figure | None
    note: str = ""


class Answers:
    """A trained run, with the examples that the page shows.

    Attributes:
      test_images: some test images of each class, or None without test images.
      encodes_images, decodes_images: whether images have zones; whether images are generated.
      inverts_images: whether images are reconstructed and interpolated.
      classifies: whether images are classified.
      samples_prior: whether images are generated from latents of the prior.
      classes: names of the labels from which images are generated; empty if there are none.
      others: types other than images and classes to which images are translated.
      written: translations (source, target) whose source samples are typed.
    """

    def __init__(
        self, model: TrainedModel, test: Examples | None, train: Examples | None = None
    ) -> None:
        """Uses the run's test and training examples; None if they cannot be read."""
        self.model = model = _with_small_batches(model)
        self._data, space, main = model.config.data, model.space, model.main_type
        self._types, has_images = space.types, space.types[main].is_images
        self.decodes_images = has_images and main in space.decoders
        self.inverts_images = self.decodes_images and isinstance(space.decoders[main], Invertible)
        key = getattr(space.encoders.get(main), "anchors_key", None)
        self.encodes_images = has_images and key in model.model.context
        self.classifies = self.encodes_images and (main, model.class_type) in model.translations
        self.samples_prior = self.decodes_images and (model.has_latents or model.class_type is None)
        self._test: Examples | None = None
        self.test_images: Any = None
        if test is not None and has_images:
            count = len(test.labels)
            rows = evenly_spaced(min(count, MAX_MAP_IMAGES), count)  # files are sorted by class
            self._test = Examples(test.images[rows], test.labels[rows])
            self.test_images = self._test.images[_of_each_class(self._test.labels)]
            if self.encodes_images:
                self._latents = model.encode(self._test.images, None, 0.0)
        self._names = [] if model.class_type is None else data.label_names(self._data)
        self.classes = self._names if self.decodes_images else []
        pairs = [pair for pair in model.translations if main in pair or not has_images]
        ends = (main, model.class_type) if has_images else ()
        self.others = [t for s, t in pairs if has_images and s == main and t not in ends]
        self.written = [(s, t) for s, t in pairs if not (s in ends or self._types[s].is_images)]
        examples = test if train is None else train
        self._example = None if examples is None else examples.at(np.zeros(1, int))
        self._training = {}
        if train is not None:
            sources = {source for source, _ in self.written}
            self._training = {source: self._types[source].samples(train) for source in sources}
        self._words = {
            word.casefold()
            for source, samples in self._training.items()
            for word in self._types[source].words(samples)
        }

    def shows_images(self, name: str) -> bool:
        """Whether samples of a type are displayed as images, not as strings."""
        each, example = self._types[name], self._example
        if example is None and name in self.model.space.decoders:
            return are_images(each.shown(self.model.generate(name, 1)))
        return example is not None and are_images(each.shown(each.samples(example)))

    def plural(self, name: str) -> str:
        """Plural of a type's name."""
        plural: str = self._types[name].plural
        return plural

    def examples(self, source: str) -> list[str]:
        """Up to `NUM_IMAGES` distinct training samples of a type, as strings."""
        samples = self._training.get(source, ())
        rows = evenly_spaced(min(len(samples), 50 * NUM_IMAGES), len(samples))
        strings = self._types[source].names(samples[rows]) if len(rows) else []
        return list(dict.fromkeys(str(text) for text in strings if text))[:NUM_IMAGES]

    def read(self, encoded: bytes) -> tuple[Picture, str]:
        """The image in a file in the size and colours of the data, and a note on the changes made.

        Raises UserError if the file is not an image.
        """
        (width, height), notes = pixels.decode(encoded, self._data.channels).size, []
        image, is_inverted = folder.read_image(encoded, self._data, self._is_light)
        side = self._data.image_size
        if (width, height) != (side, side):
            notes.append(
                f"The model's input is the middle of your {width} × {height} image, "
                f"at {side} × {side} pixels."
            )
        if is_inverted:
            background = "dark" if pixels.is_light(image[None]) else "light"
            notes.append(f"Your image has a {background} background; its inverse is used.")
        return image, " ".join(notes)

    def drawn(self, drawing: UInt8[np.ndarray, "rows columns 3"]) -> Picture:
        """The image that the model reads for a drawing on white.

        Colour images are the whole canvas. For grey ones the strokes are cut out, centred, scaled
        to the mean height of the data's and drawn on the data's background. Raises UserError for
        an empty canvas.
        """
        side, has_colours = self._data.image_size, self._data.channels == 3
        ink = 1 - drawing.mean(axis=-1) / _WHITE
        rows, columns = np.nonzero(ink > (0 if has_colours else 0.5))
        if not len(rows):
            raise UserError("draw something first")
        if has_colours:
            resized = Image.fromarray(drawing).resize((side, side), Image.Resampling.BOX)
            return np.asarray(resized)
        large, size = _OVERSAMPLING * side, np.array([np.ptp(columns), np.ptp(rows)]) + 1
        scaled = size * self._share_of_height * large / size.max()
        width, height = np.maximum(1, scaled).astype(int)
        box = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        strokes = Image.fromarray((_WHITE * ink).astype(np.uint8)).resize((width, height), box=box)
        canvas = Image.new("L", (large, large))
        canvas.paste(strokes, ((large - width) // 2, (large - height) // 2))
        image = np.asarray(canvas.reduce(_OVERSAMPLING))[..., None]
        return _WHITE - image if self._is_light else image

    def about(self, image: Picture, seed: int) -> About:
        """Everything that the run computes for an image."""
        model, images = self.model, image[None]
        classes = reconstruction = siblings = neighbours = place = None
        if self.classifies:
            (probabilities,) = model.class_probabilities(images)
            classes = dict(zip(self._names, probabilities.tolist(), strict=True))
        others = {
            target: self._types[target].shown(model.translate(images, model.main_type, target))[0]
            for target in self.others
        }
        if self.inverts_images:
            (reconstruction,) = model.reconstruct(images)["images"]
        if self.decodes_images:
            siblings = model.siblings(images.repeat(NUM_IMAGES, axis=0), jax.random.key(seed))
        if self._test is not None:
            latent = model.encode(images, None, 0.0)
            distances = np.linalg.norm(self._latents - latent, axis=1)
            neighbours = self._test.images[np.argsort(distances)[:NUM_IMAGES]]
            labels, title = self._test.labels, "Its latent among those of test images"
            place = plots.among_zones(self._latents, labels, latent, title, self._names or None)
        is_far = np.any(self.model.are_far(images))
        note = "Your image is far from all training images."
        return About(
            classes, others, reconstruction, siblings, neighbours, place, note if is_far else ""
        )

    def translated(self, source: str, target: str, text: str, seed: int) -> tuple[Any, str]:
        """Translations of a typed sample, images or strings, and a note of unknown words.

        Raises UserError for a sample that is empty or cannot be read.
        """
        if not (text := text.strip()):
            raise UserError(f"write a {source} first")
        samples = self._types[source].written(text)
        unknown = [
            word
            for word in self._types[source].words(samples)
            if word.casefold() not in self._words
        ]
        note = f"No training sample has: {', '.join(dict.fromkeys(unknown))}."
        is_array, key = isinstance(samples, np.ndarray), jax.random.key(seed)
        repeated = samples[[0] * NUM_IMAGES] if is_array else [samples[0]] * NUM_IMAGES
        outputs = self.model.translate(repeated, source, target, key=key)
        return self._types[target].shown(outputs), note if unknown and self._words else ""

    def of_label(self, name: str, seed: int) -> Pictures:
        """Images of a class."""
        labels = [self._names.index(name)] * NUM_IMAGES
        return np.asarray(self.model.sample(NUM_IMAGES, jax.random.key(seed), labels).images)

    def of_prior(self, seed: int) -> Pictures:
        """Images of latents of the prior."""
        images: Pictures = self.model.generate(
            self.model.main_type, NUM_IMAGES, jax.random.key(seed)
        )
        return images

    def between(self, first: Picture, second: Picture) -> Pictures:
        """Images interpolated between two, with both ends."""
        images: Pictures = self.model.interpolate(np.stack([first, second]))["images"]
        return images

    @property
    def _is_light(self) -> bool | None:
        """Whether the data's images have a light background; None if they differ or are missing."""
        return None if self.test_images is None else pixels.is_light(self.test_images)

    @property
    def _share_of_height(self) -> float:
        """Mean height of what the data's images show, as a share of the image's."""
        if self.test_images is None:
            return 0.8
        images = _WHITE - self.test_images if self._is_light else self.test_images
        is_ink = np.any(images > 96, axis=(2, 3))
        first, last = np.argmax(is_ink, axis=1), np.argmax(is_ink[:, ::-1], axis=1)
        return float(np.mean(1 - (first + last) / is_ink.shape[1]))


def _with_small_batches(model: TrainedModel) -> TrainedModel:
    """The run with batches of the size of one answer instead of training's."""
    config = ConfigDict(model.config)
    config.training.batch_size, config.training.microbatch_size = NUM_IMAGES, None
    space = LatentSpace(FrozenConfigDict(config), devices.inference_mesh())
    return dataclasses.replace(model, space=space)


def _of_each_class(labels: Int[np.ndarray, " n"], count: int = 30) -> Int[np.ndarray, " m"]:
    """Rows of equally many examples of each class, in the order of classes; at most `count`."""
    classes, index = np.unique(labels, return_inverse=True)
    share = max(1, count // len(classes))
    return np.concatenate([np.flatnonzero(index == k)[:share] for k in range(len(classes))])[:count]
