"""Sample metrics: distances of generated images to real ones, and their variety.

Names are as in summary.json. Only Inception's Fréchet distance is called `fid`; that of another
extractor is `fd_<extractor>`.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float, UInt8
from scipy.special import softmax

from lzn_jax.configuration import UserError
from lzn_jax.evaluation import cache, frechet
from lzn_jax.evaluation.cmmd import cmmd
from lzn_jax.evaluation.extractors import CLIP, INCEPTION, Extractor
from lzn_jax.evaluation.inception_score import inception_score
from lzn_jax.evaluation.kid import kernel_inception_distance
from lzn_jax.evaluation.prdc import precision_recall
from lzn_jax.run import sharding
from lzn_jax.run.progress import progress

CONFIDENT = 0.9  # least probability of the likeliest class of a recognised image

# NHWC images, or an iterable of batches of any sizes.
Images = UInt8[np.ndarray, "_ _ _ _"] | Iterable[UInt8[np.ndarray, "_ _ _ _"]]


@dataclasses.dataclass(frozen=True)
class FeatureSet:
    """Outputs of an extractor for n images: float32 features and logits, float64 statistics."""

    features: Float[np.ndarray, "n d"]
    statistics: frechet.Statistics
    spatial: frechet.Statistics | None
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
    distance = frechet.frechet_distance(reference.statistics, generated.statistics)
    metrics = {"fid" if extractor == INCEPTION else f"fd_{extractor}": distance}
    if reference.spatial is not None and generated.spatial is not None:
        metrics["sfid"] = frechet.frechet_distance(reference.spatial, generated.spatial)
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
    mesh = sharding.inference_mesh()
    batch_size *= jax.process_count()
    batch_size += -batch_size % mesh.size
    own = sharding.own_rows(batch_size)
    collectors = [_Collector(extractor, mesh) for extractor in extractors]
    for batch in _batches(images, batch_size):
        count = len(batch)
        rows = np.minimum(np.arange(batch_size), count - 1)[own]  # one batch size, one compilation
        placed = sharding.put_rows(batch[rows], mesh)
        for collector in collectors:
            collector.add(placed, count)
    return [collector.result() for collector in collectors]


class _Collector:
    """Collects an extractor's outputs over batches."""

    def __init__(self, extractor: Extractor, mesh: Mesh) -> None:
        # Between evaluations, large networks stay on the host: training has all device memory.
        self._variables = sharding.put_whole(extractor.variables, sharding.replicated(mesh))
        self._apply = jax.jit(extractor.apply)
        self._features: list[np.ndarray] = []
        self._logits: list[np.ndarray] = []
        self._statistics: frechet.Statistics | None = None
        self._spatial: frechet.Statistics | None = None

    def add(self, images: jax.Array, count: int) -> None:
        """Adds the outputs of the first `count` images."""
        outputs = sharding.fetch(self._apply(self._variables, images))
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


def _added(total: frechet.Statistics | None, features: np.ndarray) -> frechet.Statistics:
    batch = frechet.statistics_of(features)
    return batch if total is None else frechet.merge(total, batch)


def _batches(images: Images, batch_size: int) -> Iterator[np.ndarray]:
    for part in [images] if isinstance(images, np.ndarray) else images:
        with progress(len(part), "features", unit="image", brief=True) as bar:
            for start in range(0, len(part), batch_size):
                batch = part[start : start + batch_size]
                yield batch
                bar.update(len(batch))


def _cached(extractor: Extractor, images: np.ndarray, batch_size: int, folder: Path) -> FeatureSet:
    """Like `measure`, but cached, and without logits, which no metric needs of a reference."""
    key = cache.key_of(images, extractor.name, extractor.key)
    path = folder / f"reference_{extractor.name}_{key[:16]}.npz"
    arrays = cache.load(path, key)
    if arrays is None:
        (measured,) = measure([extractor], images, batch_size=batch_size)
        arrays = {"features": measured.features, **frechet.to_arrays(measured.statistics)}
        if measured.spatial is not None:
            arrays |= frechet.to_arrays(measured.spatial, "spatial_")
        cache.save(path, key, **arrays)
    spatial = frechet.from_arrays(arrays, "spatial_") if "spatial_count" in arrays else None
    return FeatureSet(arrays["features"], frechet.from_arrays(arrays), spatial, None)
