"""Which samples are measured."""

import types

import numpy as np
import pytest
import small

from lzn_jax.data import Examples
from lzn_jax.evaluation import sample_quality


@pytest.mark.parametrize(("condition", "level"), [("label", 1), (None, 2)])
def test_samples_of_classes_count_where_the_decoder_has_a_condition(
    condition, level, tmp_path, monkeypatch
):
    def draw(count, labels=None):
        images = np.full((4, 1, 1, 1), 2 if labels is None else 1, np.uint8)
        return {"images": images, "labels": np.zeros(4, int), "num_evaluations": images[:, 0, 0, 0]}

    small.without_pictures(monkeypatch)
    for name, stub in {
        "fit_judge": lambda train: lambda images: images[:, 0, 0, 0],
        "nearest_training_images": lambda train, test, images: {"near": images.mean()},
        "_sample_quality": lambda config: lambda train, images, cache: {"quality": images.mean()},
    }.items():
        monkeypatch.setattr(sample_quality, name, stub)
    decoder = types.SimpleNamespace(condition=condition)
    model = small.stand_in(
        config=small.config(evaluation__num_samples=4),
        space=types.SimpleNamespace(decoders={"image": decoder}),
        main_type="image",
        class_type="label",
        has_latents=True,
        draw=draw,
    )
    nothing = Examples(np.zeros((0, 1, 1, 1), np.uint8), np.zeros(0, np.int32))
    found = sample_quality.measure(model, nothing, nothing, tmp_path)
    counted = [found[name] for name in ("quality", "near", "sampling_evaluations")]
    assert counted == [level] * 3
    assert "sample_accuracy" in found
    of_one_class = Examples(np.zeros((2, 1, 1, 1), np.uint8), np.zeros(2, np.int32))
    found = sample_quality.measure(model, of_one_class, nothing, tmp_path)
    assert "quality" in found
    assert not any("accuracy" in name for name in found)
