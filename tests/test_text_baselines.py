"""benchmarks/text_baselines.py on a shrunk config."""

import importlib
import json
import sys
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small

from lzn_jax import data, plan
from lzn_jax.data import digit_captions
from lzn_jax.models import named
from lzn_jax.run import devices

ROOT = Path(__file__).parent.parent
CONFIG = ROOT / "configs" / "digits_text.py"
ONE_PASS = ROOT / "configs" / "digits_text_alone.py"
SAYS = {"captioner": "image_to_text", "text_to_image": "text_to_image"}


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("text_baselines")


@pytest.mark.slow
@pytest.mark.parametrize(("name", "path"), [("captioner", CONFIG), ("text_to_image", ONE_PASS)])
def test_training_moves_both_networks_and_is_measured_as_the_run_is(script, name, path):
    config = small.config(path, training__num_steps=30, training__batch_size=32)
    examples, test = data.load_data(config)
    space, variables, losses, _ = script.train(name, config, examples)
    assert np.mean(losses[-5:]) < np.mean(losses[:5])
    start = space.init(named(jax.random.key(config.seed), "init"))
    for network in space.networks:
        moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), start[network], variables[network])
        assert max(jax.tree.leaves(moved)) > 1e-4, network
    found = script.evaluate(space, variables, script.Measure(config, examples, test))
    assert {f"{SAYS[name]}_exact", f"{SAYS[name]}_digit"} <= found.keys()


@pytest.mark.slow
def test_a_classifier_of_one_caption_is_right_where_it_is_the_caption(script):
    config = small.config(CONFIG)
    examples, test = data.load_data(config)
    space = script.Classifier(config, devices.inference_mesh())
    variables = jax.tree.map(np.zeros_like, space.init(jax.random.key(0)))
    parts = np.stack(digit_captions.parse(test.texts), axis=1)
    batch = {"images": jnp.asarray(test.images), "parts": jnp.asarray(parts)}
    assert plan.loss(space.plan, variables, batch, jax.random.key(1))[0] == pytest.approx(
        np.log(90)
    )
    variables["heads"]["params"]["bias"][[7, 10 + 2, 13 + 0]] = 1
    measure = script.Measure(config, examples, test)
    found = script.evaluate(space, variables, measure)
    rights = {"exact": test.texts == "a bold seven leaning left", "digit": test.labels == 7}
    for name, right in rights.items():
        assert found[f"image_to_text_{name}"] == pytest.approx(np.mean(right))
    assert measure.written(test.texts)["image_to_text_exact"] == 1


@pytest.mark.parametrize(("name", "noise"), [("captioner", 0.0), ("captioner_0.4", 0.4)])
def test_a_captioners_noise_is_in_units_of_its_anchors(script, monkeypatch, name, noise):
    space = script.NETWORKS[name](small.config(CONFIG), devices.inference_mesh())
    monkeypatch.setattr(space.types["text"].decoder, "loss", lambda _, __, given, ___: given[0])
    for scale in (1.0, 100.0):
        anchors = 7 + scale * jax.random.normal(jax.random.key(0), (2000, 8))
        zones = types.SimpleNamespace(anchors=anchors)
        moved = space.error(None, None, zones, list(jax.random.split(jax.random.key(1)))) - anchors
        assert np.std(moved) == pytest.approx(noise * scale, rel=0.02)


def test_support_vectors_are_the_best_of_the_validation_part(script, monkeypatch, capsys):
    monkeypatch.setattr(script, "COSTS", (10,))
    monkeypatch.setattr(script, "WIDTHS", (1e-9, 0.03))  # the first sees one class
    train, test = data.load_data(small.config(CONFIG))
    found = digit_captions.parse(script.support_vectors(train.at(np.arange(400)))(test.images))
    assert np.mean(found.digit == digit_captions.parse(test.texts).digit) > 0.9
    assert capsys.readouterr().out.count("'gamma': 0.03") == 3


@pytest.mark.slow
def test_the_command_leaves_its_numbers(script, monkeypatch, tmp_path):
    flags = small.flags(CONFIG, "unused", training__num_steps=1)
    flags = [flag for flag in flags if "workdir" not in flag]
    flags += [f"--folder={tmp_path}", "--seeds=1", "--tasks", "classifier"]
    monkeypatch.setattr(sys, "argv", ["text_baselines.py", *flags])
    script.main()
    results = json.loads((tmp_path / "digits_text.json").read_text())
    assert results["classifier"][0]["seconds"] > 0
    assert results["real images"][0]["text_to_image_digit"] > 0.9
