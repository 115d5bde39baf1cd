"""benchmarks/vae.py: the autoencoder that LZN alone is compared with."""

import importlib
import itertools
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from lzn_jax import configuration, data, models

ROOT = Path(__file__).parent.parent


@pytest.fixture
def vae(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("vae")


def reconstructed(vae, monkeypatch, beta):
    """Means and log-deviations of digits, and squared errors over variance, after 149 updates."""
    monkeypatch.setattr(vae.time, "perf_counter", itertools.count().__next__)  # a tick an update
    flags = ["training.queries=64", "training.ema_decay=0.9"]
    config = configuration.load("configs/digits_alone.py", flags)
    examples, _ = data.load_data(config)
    variables, count = vae.train(config, examples, beta, seconds=150)
    assert count == 149
    images = data.normalise(jnp.asarray(examples.images))
    networks = models.build(config)
    encoder = networks["encoder"].clone(latent_dim=2 * config.latent.dim)
    encoded = encoder.apply(variables["encoder"], images, train=False)
    mean, log_std = jnp.split(encoded, 2, axis=1)
    made = networks["decoder"].apply(variables["decoder"], mean, None, train=False)
    return mean, log_std, jnp.mean((made - images) ** 2) / jnp.var(images - images.mean(0))


@pytest.mark.slow
def test_a_large_weight_keeps_the_prior_and_a_small_one_the_images(vae, monkeypatch):
    """Closed forms: N(0, 1) for β to infinity; certain latents and small errors for β to 0."""
    _, log_std, error = reconstructed(vae, monkeypatch, beta=0.01)
    assert error < 0.4
    assert jax.device_get(log_std).max() < -0.5
    mean, log_std, error = reconstructed(vae, monkeypatch, beta=1000.0)
    assert jnp.sqrt(jnp.mean(mean**2)) < 0.3
    assert jnp.abs(log_std).mean() < 0.3
    assert 0.8 < error < 1.3
