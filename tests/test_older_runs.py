"""A run that commit 5ba0905 saved, before there were data types: it is read, and trains on.

The run is `small.untrained_run` of configs/digits_joint.py, `expected.npz` what that version found.
"""

import shutil
from pathlib import Path

import numpy as np
import one_weight
import pytest
import small

import lzn_jax
from lzn_jax import data, main, train

ROOT = Path(__file__).parents[1]


@pytest.fixture
def workdir(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    shutil.unpack_archive(ROOT / "tests" / "golden" / "older_run.zip", tmp_path)
    return tmp_path


def images(model):
    return data.load(model.config.data, "test").images[:6]


def test_what_it_finds_is_what_it_found(workdir):
    model, expected = lzn_jax.load(workdir), np.load(workdir / "expected.npz")
    shown = images(model)
    np.testing.assert_allclose(model.anchors(shown), expected["anchors"], atol=1e-5)
    np.testing.assert_allclose(model.encode(shown, None), expected["latents"], atol=1e-4)
    found = model.classify(shown)
    assert found.classes.tolist() == expected["classes"].tolist()
    np.testing.assert_allclose(found.probabilities, expected["probabilities"], atol=1e-4)
    for name, drawn in {
        "images": model.sample(5, None).images,
        "reconstructed": model.reconstruct(shown[:3])["images"],
    }.items():
        assert np.max(np.abs(drawn.astype(int) - expected[name])) <= 1  # grey level, by rounding


def test_its_training_goes_on(workdir, monkeypatch):
    monkeypatch.setattr(train, "Measurements", lambda tasks: one_weight.Context())
    longer = {"training__num_steps": 3, "evaluation__every_steps": 3}
    assert main.main(small.flags("configs/digits_joint.py", workdir, **longer)) == 0
    model = lzn_jax.load(workdir)
    assert model.step == 3
    assert not np.array_equal(
        model.anchors(images(model)), np.load(workdir / "expected.npz")["anchors"]
    )
