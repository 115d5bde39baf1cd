"""A run that commit 5ba0905 saved, before data types and names of keys: it is read, and trains on.

The run is `small.untrained_run` of configs/digits_joint.py, `expected.npz` what that version found.
"""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
import small

import lzn_jax
from lzn_jax import data, main, models
from lzn_jax.run import devices

ROOT = Path(__file__).parents[1]
STREAMS = {"image_latents": 3, "label_latents": 4, "label_members": 11, "image_noise": 5}


@pytest.fixture
def workdir(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    shutil.unpack_archive(ROOT / "tests" / "golden" / "older_run.zip", tmp_path)
    return tmp_path


def images(model):
    return data.load(model.config.data, "test").images[:6]


def test_what_it_finds_is_what_it_found(workdir, monkeypatch):
    monkeypatch.setattr(models, "named", lambda key, of: jax.random.fold_in(key, STREAMS[of]))
    expected = np.load(workdir / "expected.npz")
    with jax.set_mesh(devices.make_mesh(1)):
        model = lzn_jax.load(workdir)
    shown = images(model)
    np.testing.assert_allclose(model.anchors(shown), expected["anchors"], atol=1e-5)
    np.testing.assert_allclose(model.encode(shown, None), expected["latents"], atol=1e-4)
    found = model.classes(model.encode(shown, None, 0.0))
    assert found.classes.tolist() == expected["classes"].tolist()
    np.testing.assert_allclose(found.probabilities, expected["probabilities"], atol=1e-4)
    for name, drawn in {
        "images": model.sample(5, None).images,
        "reconstructed": model.reconstruct(shown[:3])["images"],
    }.items():
        assert np.max(np.abs(drawn.astype(int) - expected[name])) <= 1  # grey level, by rounding


@pytest.mark.slow
def test_it_trains_on_and_is_evaluated(workdir, monkeypatch):
    small.without_pictures(monkeypatch)
    longer = ["--config.training.num_steps=3", "--config.evaluation.every_steps=3"]
    assert main.main([f"--workdir={workdir}", *longer]) == 0
    assert json.loads((workdir / "summary.json").read_text())["step"] == 3
    model = lzn_jax.load(workdir)
    assert model.step == 3
    assert not np.array_equal(
        model.anchors(images(model)), np.load(workdir / "expected.npz")["anchors"]
    )
