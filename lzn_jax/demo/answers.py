"""Answers of a trained run to one sample, as images, figures and strings.

Results depend only on the arguments, including the seed.
"""

import copy
import dataclasses
from collections.abc import Callable
from functools import cached_property, partial
from typing import Any

import jax
import numpy as np
from jaxtyping import UInt8
from PIL import Image

from lzn_jax import data, plots
from lzn_jax.data import Examples, pixels, user_images
from lzn_jax.data.pixels import evenly_spaced
from lzn_jax.data_types import Invertible, Samples, are_images
from lzn_jax.errors import UserError
from lzn_jax.trained_model import TrainedModel

NUM_IMAGES = 8  # images of a text, a label or a zone
MAX_MAP_IMAGES = 1000  # test images on the map
_MAX_CHOICE = 30  # test images to choose from
_FAR = "**Far from the training data**: what the model says of this image means little."

Picture = UInt8[np.ndarray, "h w c"]
Pictures = UInt8[np.ndarray, "n h w c"]


class Answers:
    """A trained run, with the examples that the page shows.

    Attributes:
      test_images: some test images of each class, or None without test images.
      views: functions of an image and a seed that the run can compute, by name. Translations are
        named by their target.
      encodes_images, inverts_images: whether images are encoded, and whether they can be
        reconstructed and interpolated.
      samples_prior: whether images are generated from latents of the prior.
      classes: names of the labels from which images are generated, possibly empty.
      written: translations (source, target) whose source samples are typed.
    """

    def __init__(
        self, model: TrainedModel, test: Examples | None = None, train: Examples | None = None
    ) -> None:
        """Uses the run's test and training examples, or None if they cannot be read."""
        self._whole = model  # of the zones, for which small batches are slow
        self.model = model = _with_small_batches(model)
        self._data, space, main = model.config.data, model.space, model.main_type
        self._types, has_images = space.types, space.types[main].is_images
        decodes = has_images and main in space.decoders
        self.encodes_images = has_images and main in model.model.context
        self.inverts_images = decodes and isinstance(space.decoders[main], Invertible)
        self.samples_prior = decodes and (model.has_latents or model.class_type is None)
        self._names = [] if model.class_type is None else data.label_names(self._data)
        self.classes = self._names if decodes else []
        self.test_images: Any = None
        self._test: Any = None
        self._is_light: bool | None = None
        self._height = 0.8
        if has_images and test is not None:
            self._use_test_images(test)
        self.views = self._views(decodes) if has_images else {}
        self.written = [
            (source, target)
            for source, target in model.translations
            if not self._types[source].is_images
            and (not has_images or (target == main and source != model.class_type))
        ]
        self._training = {}
        if train is not None:
            self._training = {s: self._types[s].samples(train) for s, _ in self.written}
        self._words = {
            word.casefold()
            for source, samples in self._training.items()
            for word in self._types[source].words(samples)
        }

    def _use_test_images(self, test: Examples) -> None:
        count = len(test.labels)
        rows = evenly_spaced(min(count, MAX_MAP_IMAGES), count)  # files are sorted by class
        self._test = Examples(test.images[rows], test.labels[rows])
        classes, index = np.unique(self._test.labels, return_inverse=True)
        share = max(1, _MAX_CHOICE // len(classes))
        rows = np.concatenate([np.flatnonzero(index == k)[:share] for k in range(len(classes))])
        self.test_images = images = self._test.images[rows[:_MAX_CHOICE]]
        self._is_light = pixels.is_light(images)
        # Mean height of the drawn object, as a share of the image's height.
        is_ink = np.any((255 - images if self._is_light else images) > 96, axis=(2, 3))
        first, last = np.argmax(is_ink, axis=1), np.argmax(is_ink[:, ::-1], axis=1)
        self._height = float(np.mean(1 - (first + last) / is_ink.shape[1]))
        if self.encodes_images:
            self._latents = self.model.encode(self._test.images, None, 0.0)

    def _views(self, decodes: bool) -> dict[str, Callable[[Picture, int], object]]:
        model, main, class_type = self.model, self.model.main_type, self.model.class_type
        targets = [target for source, target in model.translations if source == main]
        others = [target for target in targets if target not in (main, class_type)]

        def reconstruction(image: Picture, seed: int) -> Picture:
            return model.reconstruct(image[None])["images"][0]

        def classes(image: Picture, seed: int) -> dict[str, float]:
            (probabilities,) = model.class_probabilities(image[None])
            return dict(zip(self._names, probabilities.tolist(), strict=True))

        def doubt(image: Picture, seed: int) -> str:
            return _FAR if np.any(model.are_far(image[None])) else ""

        def translation(target: str, image: Picture, seed: int) -> object:
            return self._shown(target, model.translate(image[None], main, target))[0]

        def siblings(image: Picture, seed: int) -> Pictures:
            return model.siblings(image[None].repeat(NUM_IMAGES, axis=0), jax.random.key(seed))

        def neighbours(image: Picture, seed: int) -> Pictures:
            latent = model.encode(image[None], None, 0.0)
            distances = np.linalg.norm(self._latents - latent, axis=1)
            return self._test.images[np.argsort(distances)[:NUM_IMAGES]]

        def place(image: Picture, seed: int) -> object:
            latent, labels = model.encode(image[None], None, 0.0), self._test.labels
            title = "Its latent among those of test images"
            names = self._names or None
            return plots.among_zones(self._latents, labels, latent, self._zones, title, names)

        return {
            "seen": lambda image, seed: image,
            **({"reconstruction": reconstruction} if self.inverts_images else {}),
            **({"classes": classes} if class_type in targets else {}),
            **({"doubt": doubt} if main in model.space.measured else {}),
            **{target: partial(translation, target) for target in others},
            **({"siblings": siblings} if decodes else {}),
            **({"neighbours": neighbours, "place": place} if self._test else {}),
        }

    @cached_property
    def _zones(self) -> plots.ZoneMap:
        """The plane of test images, with the zones of classes if the run has them."""
        model, labels, latents = self._whole, self._test.labels, self._latents
        if (model.main_type, model.class_type) not in model.translations:
            return plots.zone_map(latents, labels)
        classes = np.arange(len(self._names), dtype=np.int32)
        centres = model.encode(classes, None, 0.0, source=model.class_type)
        return plots.zone_map(latents, labels, centres, lambda each: model.classes(each).classes)

    def shows_images(self, name: str) -> bool:
        """Whether samples of a type are displayed as images, not as strings."""
        each = self._types[name]
        made = name in self.model.space.decoders and each.shown(self.model.generate(name, 1))
        return are_images(made)

    def _shown(self, target: str, samples: Samples) -> Any:
        """Values for the type's component, by default images or strings."""
        kind = self._types[target]
        return kind.displayed(samples) if kind.output_component else kind.shown(samples)

    def examples(self, source: str) -> list[Any]:
        """Up to `NUM_IMAGES` training samples of a type for its component, by default as strings.

        Repeated strings are left out.
        """
        samples, kind = self._training.get(source, ()), self._types[source]
        rows = evenly_spaced(min(len(samples), 50 * NUM_IMAGES), len(samples))
        if len(rows) == 0:
            return []
        if kind.input_component is not None:
            return list(kind.displayed(samples[rows[:NUM_IMAGES]]))
        strings = kind.names(samples[rows])
        return list(dict.fromkeys(str(text) for text in strings if text))[:NUM_IMAGES]

    def read(self, encoded: bytes) -> tuple[Picture, str]:
        """The image in a file in the size and colours of the data, and a note on the changes made.

        Raises UserError if the file is not an image.
        """
        image, changes = user_images.read_image(encoded, self._data, self._is_light)
        return image, f"Your image was {', '.join(changes)}." if changes else ""

    def drawn(self, drawing: UInt8[np.ndarray, "rows columns 3"]) -> Picture:
        """The image that the model reads for a drawing on white.

        A colour image is the whole canvas. For a grey image the strokes are cut out, centred,
        scaled to the mean height in the data and drawn on the data's background. Raises UserError
        for an empty canvas.
        """
        canvas, is_grey = Image.fromarray(drawing), self._data.channels == 1
        if np.min(drawing) == 255:
            raise UserError("draw something first")
        share = self._height if is_grey else None
        return user_images.adapt(canvas, self._data, self._is_light, share)[0]

    def translated(self, source: str, target: str, value: object, seed: int) -> tuple[object, str]:
        """Translations of the value of the source's component, and a note of unknown words.

        Raises UserError for a sample that is empty or cannot be read.
        """
        value = value.strip() or None if isinstance(value, str) else value
        if value is None:
            raise UserError(f"write a {source} first")
        samples = self._types[source].written(value)
        words = dict.fromkeys(self._types[source].words(samples))
        unknown = [word for word in words if word.casefold() not in self._words]
        note = f"No training sample has: {', '.join(unknown)}."
        is_array, key = isinstance(samples, np.ndarray), jax.random.key(seed)
        repeated = samples[[0] * NUM_IMAGES] if is_array else [samples[0]] * NUM_IMAGES
        outputs = self.model.translate(repeated, source, target, key=key)
        return self._shown(target, outputs), note if unknown and self._words else ""

    def of_label(self, name: str, seed: int) -> Pictures:
        """Images of a class."""
        labels = [self._names.index(name)] * NUM_IMAGES
        return np.asarray(self.model.sample(NUM_IMAGES, jax.random.key(seed), labels).images)

    def of_prior(self, seed: int) -> Pictures:
        """Images of latents from the prior."""
        key = jax.random.key(seed)
        return np.asarray(self.model.generate(self.model.main_type, NUM_IMAGES, key))

    def between(self, first: Picture, second: Picture) -> Pictures:
        """Images interpolated between two images, with both ends."""
        return np.asarray(self.model.interpolate(np.stack([first, second]))["images"])


def _with_small_batches(model: TrainedModel) -> TrainedModel:
    """The run, with batches of the size of one answer instead of the training batch."""
    space = copy.copy(model.space)
    space.in_batches = partial(space.in_batches, batch_size=NUM_IMAGES)
    return dataclasses.replace(model, space=space)
