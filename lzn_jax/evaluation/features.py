"""Features of images: the networks, batches, and the metrics of two sets."""

import dataclasses
import hashlib
import io
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from flax import traverse_util
from jax.sharding import Mesh
from jaxtyping import Array, Float, UInt8
from scipy.special import softmax

from lzn_jax import data
from lzn_jax.data import pixels
from lzn_jax.errors import UserError
from lzn_jax.evaluation.metrics import (
    Statistics,
    cmmd,
    frechet_distance,
    from_arrays,
    inception_score,
    kernel_inception_distance,
    merge,
    precision_recall,
    statistics_of,
    to_arrays,
)
from lzn_jax.run import devices, files
from lzn_jax.run.log import progress

INCEPTION = "inception"
CLIP = "clip"


class Outputs(NamedTuple):
    """Outputs of an extractor: Inception computes all three, CLIP only features."""

    features: Float[Array, "b d"]
    spatial: Float[Array, "b s"] | None = None  # for sFID
    logits: Float[Array, "b c"] | None = None


class Extractor(NamedTuple):
    """A named network and its variables; `key` is the hash of its variables."""

    name: str
    key: str
    variables: Any
    apply: Callable[[Any, UInt8[Array, "b h w c"]], Outputs]


_KEY, _MAX_KEY = "key", 1000  # name, and bytes

_log = logging.getLogger(__name__)


def key_of(*parts: np.ndarray | str) -> str:
    """SHA-256, in hexadecimal, of arrays (dtype, shape and content) and strings, in order."""
    digest = hashlib.sha256()
    for part in parts:
        # A string is hashed as bytes, with a type name that differs from that of every array.
        kind = "text" if isinstance(part, str) else part.dtype.str
        array = np.frombuffer(part.encode(), np.uint8) if isinstance(part, str) else part
        digest.update(f"{kind}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def key_of_variables(variables: Mapping[str, Any]) -> str:
    """Hash of the names and values of a network's variables."""
    flat = traverse_util.flatten_dict(variables, sep="/")
    return key_of(*(part for name in sorted(flat) for part in (name, np.asarray(flat[name]))))


def save(path: str | os.PathLike[str], key: str, **arrays: np.ndarray) -> None:
    """Writes named arrays and their key atomically to an .npz file."""
    buffer = io.BytesIO()
    named: dict[str, Any] = {_KEY: np.array(key), **arrays}
    np.savez(buffer, **named)
    files.write_bytes(path, buffer.getvalue())


def load(path: str | os.PathLike[str], key: str) -> dict[str, np.ndarray] | None:
    """Arrays saved under the same key; None if the file is missing, damaged or has another key.

    Returns None in every process if any process cannot load the file: all must then recompute it.
    """
    arrays = _read(path, key)
    return arrays if devices.everywhere(arrays is not None) else None


def _read(path: str | os.PathLike[str], key: str) -> dict[str, np.ndarray] | None:
    if not Path(path).is_file():
        return None
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
            # Arrays of another key, which may be large, are not unpacked.
            if archive.zip.getinfo(f"{_KEY}.npy").file_size > _MAX_KEY or archive[_KEY] != key:
                return None
            return {name: archive[name] for name in archive if name != _KEY}
    except Exception as error:  # zipfile, zlib and NumPy raise almost anything on a damaged file
        _log.warning("%s cannot be read (%s): its content is computed again", path, error)
        return None


NUM_FEATURES = 64
NUM_STEPS = 1000
BATCH_SIZE = 128
LEARNING_RATE = 2e-3


class FeatureNetwork(nn.Module):
    """Two convolutions of stride 2, a feature layer and a linear classifier."""

    num_classes: int

    @nn.compact
    def __call__(
        self, images: Float[Array, "b h w c"]
    ) -> tuple[Float[Array, "b d"], Float[Array, "b k"]]:
        """Features (d = 64) and logits of images in [-1, 1]."""
        x = nn.gelu(nn.Conv(32, (3, 3), 2, padding=1)(images))
        x = nn.gelu(nn.Conv(64, (3, 3), 2, padding=1)(x))
        features = nn.gelu(nn.Dense(NUM_FEATURES)(x.reshape(len(x), -1)))
        return features, nn.Dense(self.num_classes)(features)


def feature_extractor(
    train: data.Examples, *, name: str, seed: int = 0, cache_folder: Path | None = None
) -> Extractor:
    """Extractor `name`, trained to classify the real training images.

    Training is reproducible for a seed on the same machine. With a `cache_folder`, the trained
    network is stored there and reused while images, labels, seed and the code of this module are
    unchanged.
    """
    module = FeatureNetwork(int(train.labels.max()) + 1)
    if cache_folder is None:
        variables = _train(module, train, seed)
    else:
        code = Path(__file__).read_text(encoding="utf-8")
        key = key_of(train.images, train.labels, str(seed), code)
        path = cache_folder / f"extractor_{name}_{key[:16]}.npz"
        arrays = load(path, key)
        if arrays is None:
            variables = jax.device_get(_train(module, train, seed))
            save(path, key, **traverse_util.flatten_dict(variables, sep="/"))
        else:
            variables = traverse_util.unflatten_dict(arrays, sep="/")

    def apply(variables: Any, images: UInt8[Array, "b h w c"]) -> Outputs:
        outputs: Any = module.apply(variables, pixels.normalise(images))
        features, logits = outputs
        return Outputs(features, logits=logits)

    return Extractor(name, key_of_variables(variables), variables, apply)


def _train(module: FeatureNetwork, train: data.Examples, seed: int) -> dict[str, Any]:
    """Variables trained by AdamW on batches drawn with replacement."""
    init_key, batch_key = jax.random.split(jax.random.key(seed))
    schedule = optax.cosine_decay_schedule(LEARNING_RATE, NUM_STEPS)
    optimiser = optax.adamw(schedule, weight_decay=1e-2)

    def loss(variables: Any, images: Array, labels: Array) -> Array:
        _, logits = module.apply(variables, pixels.normalise(images))
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, labels))

    @jax.jit
    def update(variables: Any, state: Any, step: Array, images: Array, labels: Array) -> Any:
        key = jax.random.fold_in(batch_key, step)
        rows = jax.random.randint(key, (BATCH_SIZE,), 0, len(labels))
        gradient = jax.grad(loss)(variables, images[rows], labels[rows])
        change, state = optimiser.update(gradient, state, variables)
        return optax.apply_updates(variables, change), state

    images, labels = jnp.asarray(train.images), jnp.asarray(train.labels)
    variables = jax.jit(module.init)(init_key, pixels.normalise(images[:1]))
    state = optimiser.init(variables)
    with progress(NUM_STEPS, "feature network", brief=True) as bar:
        for step in range(NUM_STEPS):
            variables, state = update(variables, state, jnp.asarray(step), images, labels)
            bar.update()
    return variables


CONFIDENT = 0.9  # least probability of the likeliest class of a recognised image

# NHWC images, or an iterable of batches of any sizes.
Images = UInt8[np.ndarray, "_ _ _ _"] | Iterable[UInt8[np.ndarray, "_ _ _ _"]]


@dataclasses.dataclass(frozen=True)
class FeatureSet:
    """Outputs of an extractor for n images: float32 features and logits, float64 statistics."""

    features: Float[np.ndarray, "n d"]
    statistics: Statistics
    spatial: Statistics | None
    logits: Float[np.ndarray, "n c"] | None


def generation_metrics(
    extractors: Sequence[Extractor],
    reference: Images,
    generated: Images,
    *,
    seed: int,
    batch_size: int = 64,
    cache_folder: Path | None = None,
) -> dict[str, float]:
    """Sample metrics by name, from features of real and generated images by the extractors.

    Inception gives `fid`, `sfid`, `inception_score` and `kid`; another extractor X gives `fd_X`,
    and `recognised` if it has logits: the share of images to which it gives some class a
    probability of 0.9 or more. Both give `precision` and `recall`; CLIP gives only `cmmd`. Names
    that an earlier extractor uses get the extractor's name as a suffix. `seed` draws
    KID's subsets.

    Features of a reference array are cached in `cache_folder` by the content of images and
    extractor; those of batches, which can be read only once, are not. Raises UserError if a set
    has fewer than 4 images.
    """
    if cache_folder is not None and isinstance(reference, np.ndarray):
        real = [_cached(extractor, reference, batch_size, cache_folder) for extractor in extractors]
    else:
        real = measure(extractors, reference, batch_size=batch_size)
    fake = measure(extractors, generated, batch_size=batch_size)
    metrics: dict[str, float] = {}
    for extractor, one, other in zip(extractors, real, fake, strict=True):
        for name, value in compare(extractor.name, one, other, seed=seed).items():
            metrics[f"{name}_{extractor.name}" if name in metrics else name] = value
    return metrics


def compare(
    extractor: str, reference: FeatureSet, generated: FeatureSet, *, seed: int
) -> dict[str, float]:
    """Metrics by name from one extractor's features of real and generated images."""
    if extractor == CLIP:
        return {"cmmd": cmmd(reference.features, generated.features)}
    shares = precision_recall(reference.features, generated.features)
    distance = frechet_distance(reference.statistics, generated.statistics)
    metrics = {"fid" if extractor == INCEPTION else f"fd_{extractor}": distance}
    if reference.spatial is not None and generated.spatial is not None:
        metrics["sfid"] = frechet_distance(reference.spatial, generated.spatial)
    if extractor == INCEPTION:
        if generated.logits is not None:
            metrics["inception_score"] = inception_score(generated.logits)
        kid = kernel_inception_distance(reference.features, generated.features, seed=seed)
        metrics["kid"] = kid.mean
    elif generated.logits is not None:
        likeliest = np.max(softmax(generated.logits, axis=1), axis=1)
        metrics["recognised"] = float(np.mean(likeliest >= CONFIDENT))
    return metrics | shares._asdict()


def measure(
    extractors: Sequence[Extractor], images: Images, *, batch_size: int = 64
) -> list[FeatureSet]:
    """Features of the images by each extractor, in one pass over the images.

    Memory beyond the results does not depend on the number of images. Batches are divided over the
    devices, with at least `batch_size` images per process. Raises UserError if there are no images.
    """
    mesh = devices.inference_mesh()
    batch_size *= jax.process_count()
    batch_size += -batch_size % mesh.size
    own = devices.own_rows(batch_size)
    collectors = [_Collector(extractor, mesh) for extractor in extractors]
    for batch in _batches(images, batch_size):
        count = len(batch)
        rows = np.minimum(np.arange(batch_size), count - 1)[own]  # one batch size, one compilation
        placed = devices.put_rows(batch[rows], mesh)
        for collector in collectors:
            collector.add(placed, count)
    return [collector.result() for collector in collectors]


class _Collector:
    """Collects an extractor's outputs over batches."""

    def __init__(self, extractor: Extractor, mesh: Mesh) -> None:
        # Between evaluations, large networks stay on the host: training has all device memory.
        self._variables = devices.put_whole(extractor.variables, devices.replicated(mesh))
        self._apply = jax.jit(extractor.apply)
        self._features: list[np.ndarray] = []
        self._logits: list[np.ndarray] = []
        self._statistics: Statistics | None = None
        self._spatial: Statistics | None = None

    def add(self, images: jax.Array, count: int) -> None:
        """Adds the outputs of the first `count` images."""
        outputs = devices.fetch(self._apply(self._variables, images))
        self._features.append(outputs.features[:count])
        self._statistics = _added(self._statistics, outputs.features[:count])
        if outputs.spatial is not None:
            self._spatial = _added(self._spatial, outputs.spatial[:count])
        if outputs.logits is not None:
            self._logits.append(outputs.logits[:count])

    def result(self) -> FeatureSet:
        """Outputs of all images; raises UserError if there were none."""
        if self._statistics is None:
            raise UserError("sample metrics need images, got none")
        return FeatureSet(
            np.concatenate(self._features),
            self._statistics,
            self._spatial,
            np.concatenate(self._logits) if self._logits else None,
        )


def _added(total: Statistics | None, features: np.ndarray) -> Statistics:
    batch = statistics_of(features)
    return batch if total is None else merge(total, batch)


def _batches(images: Images, batch_size: int) -> Iterator[np.ndarray]:
    for part in [images] if isinstance(images, np.ndarray) else images:
        with progress(len(part), "features", unit="image", brief=True) as bar:
            for start in range(0, len(part), batch_size):
                batch = part[start : start + batch_size]
                yield batch
                bar.update(len(batch))


def _cached(extractor: Extractor, images: np.ndarray, batch_size: int, folder: Path) -> FeatureSet:
    """Like `measure`, but cached, and without logits, which no metric needs of a reference."""
    key = key_of(images, extractor.name, extractor.key)
    path = folder / f"reference_{extractor.name}_{key[:16]}.npz"
    arrays = load(path, key)
    if arrays is None:
        (measured,) = measure([extractor], images, batch_size=batch_size)
        arrays = {"features": measured.features, **to_arrays(measured.statistics)}
        if measured.spatial is not None:
            arrays |= to_arrays(measured.spatial, "spatial_")
        save(path, key, **arrays)
    spatial = from_arrays(arrays, "spatial_") if "spatial_count" in arrays else None
    return FeatureSet(arrays["features"], from_arrays(arrays), spatial, None)
