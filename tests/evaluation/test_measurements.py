"""Which samples are measured."""

import types

import numpy as np
import pytest
import small

from lzn_jax.data import Examples
from lzn_jax.evaluation import measurements
from lzn_jax.latent_space import Model


@pytest.mark.parametrize(("told", "level"), [("label", 1), (None, 2)])
def test_samples_of_classes_count_where_the_decoder_is_told_of_them(
    told, level, tmp_path, monkeypatch
):
    def draw(level):
        images = np.full((4, 1, 1, 1), level, np.uint8)
        return {"images": images, "labels": np.zeros(4, int), "num_evaluations": images[:, 0, 0, 0]}

    small.without_pictures(monkeypatch)
    monkeypatch.setattr(measurements, "fit_judge", lambda train: lambda images: images[:, 0, 0, 0])
    monkeypatch.setattr(
        measurements, "nearest_training_images", lambda train, test, images: {"near": images.mean()}
    )
    measure = object.__new__(measurements.Measurements)
    measure.config = small.config(evaluation__num_samples=4)
    measure.space = types.SimpleNamespace(decoders={"image": types.SimpleNamespace(told=told)})
    measure.tasks = types.SimpleNamespace(
        has_classes=True,
        has_latents=True,
        draw=lambda model, count: draw(1),
        draw_any=lambda model, count: draw(2),
    )
    measure._names = ["0"]
    measure._sample_quality = lambda train, images, cache: {"quality": images.mean()}
    nothing = Examples(np.zeros((0, 1, 1, 1), np.uint8), np.zeros(0, np.int32))
    found = measure._to_image(Model({}, {}), nothing, nothing, tmp_path, tmp_path)
    counted = [found[name] for name in ("quality", "near", "sampling_evaluations")]
    assert counted == [level] * 3
