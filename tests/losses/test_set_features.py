"""benchmarks/set_features.py: maps of a frozen encoder in the loss between sets."""

import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lzn_jax
from lzn_jax import configuration, extensions
from lzn_jax.errors import UserError
from lzn_jax.latent_space import LatentSpace
from lzn_jax.losses.sets import energy_distance
from lzn_jax.models.resnet import ResNet
from lzn_jax.run import devices

EXTENSION = str(Path(__file__).parents[2] / "benchmarks/set_features.py")
SIZES = {"stage_sizes": (2, 1), "stage_widths": (8, 16), "stem_width": 8}
NETWORK = ResNet(**SIZES, stem="small", norm_groups=4, head_dim=4,
                 head_layers=1)  # fmt: skip


@pytest.fixture
def extension():
    extensions.extend([EXTENSION])
    return next(m for n, m in sys.modules.items() if n.startswith("lzn_jax_extension_set_features"))


@pytest.fixture
def variables():
    fresh = NETWORK.init(jax.random.key(0), jnp.zeros((1, 8, 8, 1)), train=False)
    leaves, treedef = jax.tree.flatten(fresh)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    pairs = zip(keys, leaves, strict=True)
    return treedef.unflatten([leaf + 0.3 * jax.random.normal(k, leaf.shape) for k, leaf in pairs])


def images(seed, count=5):
    return jax.random.uniform(jax.random.key(seed), (count, 8, 8, 1), minval=-1)


@pytest.mark.slow
def test_maps_are_those_after_each_stage(extension, variables):
    first, last = extension.stages(NETWORK, variables, images(2))
    assert (first.shape, last.shape) == ((5, 8, 8, 32), (5, 4, 4, 64))
    pooled = NETWORK.apply(variables, images(2), train=False, features="backbone")
    np.testing.assert_allclose(last.mean((1, 2)), pooled, rtol=1e-5, atol=1e-5)
    # The first maps are the output of the stage's last block.
    zeros = jax.tree.map(jnp.zeros_like, variables["params"]["stage_0_block_1"])
    params = variables["params"] | {"stage_0_block_1": zeros}
    other, _ = extension.stages(NETWORK, {"params": params}, images(2))
    assert np.abs(other - first).max() > 0.1


@pytest.mark.parametrize("side", [4, 5])  # an odd row and column are in no quarter
def test_features_are_moments_and_quarters(extension, side):
    maps = np.asarray(jax.random.normal(jax.random.key(3), (2, side, side, 3)), np.float64)
    moments, quarters = extension.features(jnp.asarray(maps, jnp.float32))
    expected = np.concatenate([maps.mean((1, 2)), maps.std((1, 2))], axis=1)
    np.testing.assert_allclose(moments, expected, rtol=1e-5, atol=1e-5)
    corners = [(0, 0), (0, 2), (2, 0), (2, 2)]
    expected = [maps[:, i : i + 2, j : j + 2].mean((1, 2)) for i, j in corners]
    np.testing.assert_allclose(quarters, expected, rtol=1e-5, atol=1e-5)
    in_half = extension.features(jnp.asarray(maps, jnp.bfloat16))
    assert all(each.dtype == jnp.float32 for each in in_half)


@pytest.mark.slow
def test_the_loss_between_sets_has_the_mean_over_features(extension, variables, monkeypatch):
    model = SimpleNamespace(variables={"encoder": variables})
    run = SimpleNamespace(space=SimpleNamespace(modules={"encoder": NETWORK}), model=model)
    monkeypatch.setattr(lzn_jax, "load", {"a_run": run}.__getitem__)

    def distance(name, *flags):
        flags = (f"decoder.name={name}", *flags)
        config = configuration.load("configs/digits_alone.py", flags, extensions=[EXTENSION])
        space = LatentSpace(config, devices.make_mesh(8, jax.devices()[:1]))
        decoder = space.decoders["image"]
        decoder.set_loss = energy_distance
        return decoder.loss_between_sets({}, images(4), images(5), jax.random.key(6))

    flags, terms = ("decoder.maps=a_run", "decoder.maps_weight=3"), []
    both = (extension.stages(NETWORK, variables, images(seed)) for seed in (4, 5))
    for maps in zip(*both, strict=True):
        for pair in zip(*map(extension.features, maps), strict=True):
            terms.append(energy_distance(*pair).mean())
    expected = distance("direct_mlp") + 3 * sum(terms) / 4
    np.testing.assert_allclose(distance("direct_mlp_maps", *flags), expected, rtol=1e-5)

    # Committed to no device, as a training mesh need not have those of the encoder.
    _, fixed = extension.frozen("a_run")
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(fixed))

    run.space.modules["encoder"] = object()
    extension.frozen.cache_clear()
    with pytest.raises(UserError, match=r"^decoder\.maps must name a run .* got a_run$"):
        distance("direct_mlp_maps", *flags)
    monkeypatch.undo()
    with pytest.raises(UserError, match=r"^decoder\.maps must name .*: nowhere is no run"):
        distance("direct_mlp_maps", "decoder.maps=nowhere")
