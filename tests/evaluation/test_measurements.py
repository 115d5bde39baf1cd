"""Which samples are measured, by what, and for how long."""

import math
import time
import types

import numpy as np
import pytest
import small
from ml_collections import ConfigDict

from lzn_jax import parts
from lzn_jax.data import Examples
from lzn_jax.evaluation import measurements, samples
from lzn_jax.latent_space import LatentSpace

NOTHING = Examples(np.zeros((0, 1, 1, 1), np.uint8), np.zeros(0, np.int32))


@pytest.mark.parametrize(("condition", "level"), [("label", 1), (None, 2)])
def test_samples_of_classes_count_where_the_decoder_has_a_condition(
    condition, level, tmp_path, monkeypatch
):
    def draw(count, labels=None):
        images = np.full((4, 1, 1, 1), 2 if labels is None else 1, np.uint8)
        return {"images": images, "labels": np.ones(4, int), "num_evaluations": images[:, 0, 0, 0]}

    small.without_pictures(monkeypatch)
    for name, stub in {
        "fit_judge": lambda examples: lambda images: sum(examples.labels) * images[:, 0, 0, 0],
        "nearest_training_images": lambda train, test, images: {"near": images.mean()},
        "_sample_quality": lambda config: lambda train, images, cache: {"quality": images.mean()},
    }.items():
        monkeypatch.setattr(samples, name, stub)
    decoder = types.SimpleNamespace(condition=condition)
    model = small.stand_in(
        config=small.config(evaluation__num_samples=4),
        space=types.SimpleNamespace(decoders={"image": decoder}),
        main_type="image",
        class_type="label",
        has_latents=True,
        draw=draw,
    )
    train = Examples(np.zeros((2, 1, 1, 1), np.uint8), np.arange(2, dtype=np.int32))
    found = samples.measure(model, train, NOTHING, tmp_path)
    accuracies = [found[f"{name}sample_accuracy"] for name in ("", "unconditional_")]
    assert accuracies == [1, 0]  # by a judge of the training images
    counted = [found[name] for name in ("quality", "near", "sampling_evaluations")]
    assert counted == [level] * 3
    of_one_class = Examples(np.zeros((2, 1, 1, 1), np.uint8), np.zeros(2, np.int32))
    found = samples.measure(model, of_one_class, NOTHING, tmp_path)
    assert "quality" in found
    assert not any("accuracy" in name for name in found)


def by_names(monkeypatch, of_types=True):
    """A model with the measurements "type" and "own", and a clock; each takes three seconds."""
    clock = types.SimpleNamespace(now=0.0)

    def part(kind, name):
        def measure(model, train, test, workdir):
            clock.now += 3
            return {f"{name}_metric": clock.now}

        return measure

    values = small.config(evaluation__measurements_of_types=of_types).to_dict()
    values["evaluation"]["measurements"] = ("own",)
    config = ConfigDict(values)
    monkeypatch.setattr(parts, "get", part)
    monkeypatch.setattr(time, "perf_counter", lambda: clock.now)
    image = types.SimpleNamespace(measurements=("type",))
    space = object.__new__(LatentSpace)
    vars(space).update(types={"image": image}, config=config)
    return small.stand_in(config=config, space=space, translations=())


@pytest.mark.parametrize(
    ("seconds", "measured", "limit"),
    [(math.inf, "type own", ""), (4.0, "type own", "4"), (3.0, "type", "3"), (-7.0, "", "0")],
)
def test_no_measurement_starts_after_its_time(
    seconds, measured, limit, tmp_path, monkeypatch, caplog
):
    caplog.set_level("INFO", "lzn_jax")
    model = by_names(monkeypatch)
    metrics = measurements.evaluate(model, NOTHING, NOTHING, tmp_path, seconds)
    assert list(metrics) == ["test_examples", *(f"{name}_metric" for name in measured.split())]
    first, *others = caplog.messages
    end = f"; none starts after {limit} s" if limit else ""
    assert first == f"evaluating 0 test examples: type, own{end}"
    missing = ["type, own", "own", None][len(measured.split())]
    expected = [f"{name} took 3.0 s" for name in measured.split()]
    expected += [f"{missing}: no time is left, --mode=evaluate computes all"] if missing else []
    assert others == expected


def test_the_measurements_of_types_may_be_left_out(monkeypatch):
    model = by_names(monkeypatch, of_types=False)
    assert list(measurements.measurements(model.space)) == ["own"]
