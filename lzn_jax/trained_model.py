"""A trained run from Python: `lzn_jax.load(workdir)`.

Every method is a task, on any number of images in batches that are divided over the devices.
Underneath are pure functions of variables and arrays, for `jit`, `grad` and `vmap`:
`ImageEncoder.anchors`, `LatentSpace.latents_in_context` (encode), `ImageEncoder.features` (embed),
`Tasks.predict` (classify), `latents_from` and `decode` (sample, translate), `ImageDecoder.invert`
and `render` (reconstruct, interpolate).
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, UInt8
from ml_collections import ConfigDict

from lzn_jax import configuration
from lzn_jax.configuration import UserError
from lzn_jax.data import EncodedImages, Examples
from lzn_jax.latent_space import LatentSpace, Model
from lzn_jax.models import join_variables, split_variables
from lzn_jax.run import sharding
from lzn_jax.run.checkpoints import Checkpoints
from lzn_jax.run.workdir import has_checkpoint
from lzn_jax.tasks import Predictions, Tasks

Images = np.ndarray | Array | EncodedImages
Labels = np.ndarray | Array | Sequence[int]


@dataclasses.dataclass(frozen=True)
class TrainedModel:
    """A trained run: averaged weights and context anchors of one of its checkpoints.

    Images are arrays (n, h, w, c) uint8, of NumPy or JAX, in the size and channels of
    `config.data`; results are NumPy arrays. With context anchors what is found for an image does
    not depend on the others; without any (`latent.context_size` 0) the images at hand cut the
    zones. A key is that of every random draw of a call, row i drawing by its place i; None is the
    key of the config's seed, with which the modes of the command line draw.

    Every method raises UserError for images that do not fit and for what the run cannot do.

    Attributes:
      config: the run's config, immutable.
      tasks: what its latent space can be asked.
      model: variables of the networks by name, and context anchors.
      step: updates that the checkpoint has seen.
    """

    config: ConfigDict
    tasks: Tasks
    model: Model
    step: int

    @property
    def space(self) -> LatentSpace:
        """Its latent space."""
        return self.tasks.space

    @property
    def main_feature(self) -> str:
        """The feature of images that counts, of those that `embed` finds."""
        name: str = self.space.encoder("image").main_feature
        return name

    def __repr__(self) -> str:
        """One line: a notebook would show thousands, of weights."""
        return f"TrainedModel({self._name} on {self.config.data.name}, step {self.step})"

    @property
    def _name(self) -> str:
        return self.config.study or " and ".join(self.config.types)

    @property
    def translations(self) -> tuple[tuple[str, str], ...]:
        """Pairs of data types that the run can go between."""
        return self.tasks.translations

    def anchors(self, samples: Any, *, source: str = "image") -> Float[np.ndarray, "n q"]:
        """Anchors: what the encoder of a data type makes of its samples."""
        samples = self.tasks.encoded(self._checked_samples(samples, source), source)
        return self.space.anchors(self.model.variables, samples, source)

    def encode(
        self,
        samples: Any,
        key: PRNGKeyArray | None = None,
        noise_scale: float | None = None,
        *,
        source: str = "image",
    ) -> Float[np.ndarray, "n q"]:
        """Latents of samples, of images among the context anchors (paper §2.2.1).

        `noise_scale` is α: 1 samples a zone, 0 takes its centre, None is
        `config.latent.noise_scale`.
        """
        scale = self.config.latent.noise_scale if noise_scale is None else noise_scale
        samples = self._checked_samples(samples, source)
        return self.tasks.encode(self.model, samples, source, scale, key)

    def translate(
        self,
        samples: Any,
        source: str,
        target: str,
        *,
        key: PRNGKeyArray | None = None,
        noise_scale: float | None = None,
    ) -> Any:
        """Samples of one data type as samples of another, a pair of `translations` (Fig. 1).

        Images are (n, h, w, c) uint8, labels (n,) int, texts a list of strings. `noise_scale` is α
        of the source's latents: None is 1 for images to be made and for labels, else 0.
        """
        self.tasks.check_pair(source, target)
        samples = self._checked_samples(samples, source)
        options: dict[str, Any] = {"key": key, "noise_scale": noise_scale}
        return self.tasks.translate(self.model, samples, source, target, **options)

    def generate(self, target: str, count: int, key: PRNGKeyArray | None = None) -> Any:
        """`count` samples of a data type from latents of the prior."""
        self.tasks.check_pair(None, target)
        self._check_count(count)
        return self.tasks.translate(self.model, None, None, target, count=count, key=key)

    def embed(
        self, images: Images, key: PRNGKeyArray | None = None
    ) -> dict[str, Float[np.ndarray, "n d"]]:
        """Features of images by name; `main_feature` names the one that counts."""
        images = self._checked(images)
        return self.tasks.embed(self.model, images, key=key)

    def classify(self, images: Images) -> Predictions:
        """Class of each image, from the centre of its zone, and its probability (paper §5)."""
        images = self._checked(images)
        self._check_classifies()
        return self.tasks.classify(self.model, images)

    def class_probabilities(self, images: Images) -> Float[np.ndarray, "n c"]:
        """Probabilities of all classes, from the centre of each image's zone; rows sum to 1."""
        images = self._checked(images)
        self._check_classifies()
        latents = self.encode(images, None, 0.0)
        return self.tasks.class_probabilities(self.model, latents)

    def siblings(
        self, images: Images, key: PRNGKeyArray | None = None
    ) -> UInt8[np.ndarray, "n h w c"]:
        """Of each image another one from its zone, by a random latent (paper §3.1)."""
        images = self._checked(images)
        self._check_generates("decode images")
        self.space.encoder("image")
        return self.tasks.siblings(self.model, images, key)

    def sample(
        self, count: int, key: PRNGKeyArray | None = None, labels: Labels | None = None
    ) -> Examples:
        """`count` new images with their classes `labels` (paper §3, §5).

        None: all classes in equal shares, or, where there are none, -1.
        """
        self._check_generates("generate images")
        self._check_count(count)
        return self.tasks.sample(self.model, count, self._checked_labels(labels, count), key)

    def reconstruct(
        self,
        images: Images,
        labels: Labels | None = None,
        key: PRNGKeyArray | None = None,
    ) -> dict[str, np.ndarray]:
        """`images` to noise and back, and each one's l2 `errors` in units of [-1, 1] (paper C.3).

        Labels None are found by `classify`, where the decoder takes them.
        """
        images = self._checked(images)
        self._check_generates("reconstruct images")
        labels = self._checked_labels(labels, len(images))
        return self.tasks.reconstruct(self.model, images, labels, key)

    def interpolate(
        self,
        images: Images,
        labels: Labels | None = None,
        key: PRNGKeyArray | None = None,
    ) -> dict[str, np.ndarray]:
        """What lies between two images: `images`, their `latents`, and `weights` of the second.

        Labels as for `reconstruct`.
        """
        images = self._checked(images)
        self._check_generates("interpolate images")
        if len(images) != 2:
            raise UserError(f"interpolation is between two images, got {len(images)}")
        labels = self._checked_labels(labels, 2)
        return self.tasks.interpolate(self.model, images, labels, key=key)

    def _cannot(self, what: str, who: str) -> UserError:
        return UserError(f"a {self._name} study does not {what}: {who}")

    def _check_classifies(self) -> None:
        if not self.tasks.classifies:
            objective = self.space.baseline
            reason = f"objective={objective!r} trains" if objective else "it has"
            raise self._cannot("classify images", f"{reason} no zones of labels")

    def _check_count(self, count: int) -> None:
        if count < 1:
            raise UserError(f"the number of samples must be at least 1, got {count}")

    def _check_generates(self, what: str) -> None:
        if self.tasks.decoder is None:
            raise self._cannot(what, "generation and joint studies do")
        if "image" not in self.space.decoders:
            raise UserError(f"cannot {what}: training.generation_weight=0 trained no decoder")

    def _checked_samples(self, samples: Any, source: str) -> Any:
        """Samples of a data type in the form that its encoder takes."""
        self.space.encoder(source)
        if source == "image":
            return self._checked(samples)
        if isinstance(samples, str):
            raise UserError(f"texts must be a list of strings, got the string {samples!r}")
        self._check_count(len(samples))
        if source == "label":
            return self._checked_labels(samples, len(samples))
        return list(samples)

    def _checked(self, images: Images) -> np.ndarray | EncodedImages:
        """The images, as an array of NumPy unless they are decoded when they are asked for."""
        data = self.config.data
        shape = (data.image_size, data.image_size, data.channels)
        dtype, found = (getattr(images, name, None) for name in ("dtype", "shape"))
        if dtype != np.uint8 or not found or found[1:] != shape or found[0] == 0:
            wanted = ", ".join(map(str, shape))
            got = f"{dtype} {found}" if dtype is not None else type(images).__name__
            hint = "; lzn_jax.data.to_uint8 makes them of floats in [-1, 1]"
            is_float = dtype is not None and np.issubdtype(dtype, np.floating)
            raise UserError(
                f"images must be an array (n, {wanted}) of uint8, 0 ... 255, got {got}"
                f"{hint if is_float else ''}"
            )
        return images if isinstance(images, EncodedImages) else np.asarray(images)

    def _checked_labels(self, labels: Any, count: int) -> np.ndarray | None:
        if labels is None:
            return None
        labels, classes = np.asarray(labels), self.config.data.num_classes
        is_integer = np.issubdtype(labels.dtype, np.integer)
        if (
            not is_integer
            or labels.shape != (count,)
            or not np.all(labels < classes)
            or np.any(labels < 0)
        ):
            raise UserError(
                f"labels must be {count} integers from 0 to {classes - 1}, one an image, got "
                f"{labels.dtype} {labels.shape}"
            )
        return labels.astype(np.int32)


def load(path: str | Path) -> TrainedModel:
    """The trained run in a work folder, at its newest good checkpoint, or at the one named.

    `path` is the folder of a run or one of its `checkpoints/STEP`, or "released/NAME": the paper's
    released checkpoint of configs/NAME.py, fetched and converted when it is first asked for. Raises
    UserError where there is none that can be read.
    """
    path = Path(path)
    if path.parent == Path("released") and not path.is_dir():
        from lzn_jax import convert  # and with it all that training needs

        path = convert.released_run(path.name)
    workdir, step = path, None
    if path.parent.name == "checkpoints" and path.name.isdigit():
        workdir, step = path.parent.parent, int(path.name)
    return restore(configuration.load_run(workdir), workdir, step)


def restore(config: ConfigDict, workdir: Path, step: int | None = None) -> TrainedModel:
    """The run of a config in its work folder, at its newest good checkpoint, or at that of `step`.

    Reads averaged weights and context anchors, nothing else. Raises UserError where there is none
    that can be read.
    """
    folder = workdir / "checkpoints"
    if not has_checkpoint(workdir) or (step is not None and not (folder / str(step)).is_dir()):
        raise UserError(f"there is no checkpoint {folder / str(step or '')}: train first")
    mesh = sharding.inference_mesh()
    space = LatentSpace(config, mesh)
    params, constants = split_variables(jax.eval_shape(space.init, jax.random.key(0)))
    targets: dict[str, Any] = {"ema": {"params": params, "constants": constants}}
    if shapes := space.context_shapes():
        targets["context"] = shapes
    with Checkpoints(workdir) as checkpoints:
        shard = config.training.shard_parameters
        restored = checkpoints.restore(sharding.placed(targets, mesh, shard=shard), step)
    if restored is None:
        raise UserError(f"there is no finished checkpoint in {folder}: train first")
    step, items = restored
    averaged = join_variables(items["ema"]["params"], items["ema"]["constants"])
    context = jax.tree.map(jnp.asarray, sharding.fetch(items.get("context", {})))
    return TrainedModel(config, Tasks(space), Model(averaged, context), step)
