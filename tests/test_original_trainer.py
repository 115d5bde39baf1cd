"""Updates against those of the original's own trainer, given its draws.

Recordings of case studies 3 and 1 with tiny networks, 'joint' and 'gen': weights and averages
before and after (`_start.pt`, `_end.pt`), and of each update images, labels, noise of latents
(`prior`), noise (`x0`) and time (`t`) of the flow, loss, and gradient norm before clipping
(`_rec.npz`). LZN_TRAINER_GOLDEN names a folder of others with the same settings.
"""

import functools
import os
from pathlib import Path

import jax
import numpy as np
import pytest

from lzn_jax import configuration, convert, train
from lzn_jax.latent_space import LatentSpace
from lzn_jax.models import split_variables
from lzn_jax.release import weights as released
from lzn_jax.run import devices

ROOT = Path(__file__).parents[1]
GOLDEN = Path(os.environ.get("LZN_TRAINER_GOLDEN", ROOT / "tests" / "golden" / "trainer"))

NETWORK = {
    "features": 8,
    "channel_multipliers": (1, 2, 2),
    "num_res_blocks": 1,
    "attention_resolutions": (8,),
    "dropout": 0.0,
}
SETTINGS = {
    "data.name": "image_folder",  # of any size and number of classes
    "data.path": "not read",
    "data.image_size": 16,
    "data.channels": 3,
    "latent.dim": 10,
    **{f"encoder.{name}": value for name, value in NETWORK.items()},
    **{f"decoder.{name}": value for name, value in NETWORK.items()},
    "encoder.tap_channels": 2,
    "encoder.tap_units": 12,
    "training.batch_size": 12,
    "training.warmup_steps": 5,
}
JOINT = {"data.num_classes": 6, "alignment.num_steps": 20, "training.decoder_steps": 7}


@functools.cache
def config_of(name):
    settings = SETTINGS | (JOINT if name == "joint" else {"data.num_classes": 1})
    overrides = [f"{field}={value}" for field, value in settings.items()]
    return configuration.load(str(ROOT / "configs" / f"cifar10_{name}.py"), overrides)


@functools.cache
def layouts(name):
    return convert.network_layouts(config_of(name))


def weights(name, end):
    """Networks of a recording, as trained and averaged."""
    found = released.read(GOLDEN / f"{name}_{end}.pt", layouts(name), ema=True)
    return found.raw, found.averaged


def batches(record):
    """What each update is given."""
    for images, labels, prior, x0, t in zip(
        *(record[key] for key in ("images", "labels", "prior", "x0", "t")), strict=True
    ):
        yield {
            "images": images,
            "labels": labels.astype(np.int32),
            "image_latent_noise": prior,
            "flow_noise": x0.transpose(0, 2, 3, 1),
            "flow_time": t,
        }


@functools.cache
def trained(name):
    """The state after all updates from the recording's start, and each update's metrics."""
    config = config_of(name)
    space = LatentSpace(config, devices.make_mesh(1))
    optimizer = train.make_optimizer(config.training, list(space.modules))
    raw, averaged = weights(name, "start")
    (params, constants), (ema, _) = split_variables(raw), split_variables(averaged)
    zero = np.int32(0)
    state = train.TrainState(zero, params, constants, ema, optimizer.init(params), zero, zero)
    update = jax.jit(
        functools.partial(
            train.update_state,
            space=space,
            optimizer=optimizer,
            training=config.training,
            seed=config.seed,
        )
    )
    found = []
    with np.load(GOLDEN / f"{name}_rec.npz") as record:
        for batch in batches(record):
            state, metrics = update(state, batch)
            found.append(jax.device_get(metrics))
    return state, found


@pytest.mark.parametrize("name", ["gen", pytest.param("joint", marks=pytest.mark.slow)])
def test_losses_and_gradient_norms_are_the_originals(name):
    _, found = trained(name)
    with np.load(GOLDEN / f"{name}_rec.npz") as record:
        expected = {"loss": record["loss_total"], "gradient_norm": record["gnorm"]}
    for metric, values in expected.items():
        np.testing.assert_allclose([each[metric] for each in found], values, rtol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["joint", "gen"])
def test_weights_and_averages_end_where_the_originals_do(name):
    state, _ = trained(name)
    starts, ends = (map(split_variables, weights(name, end)) for end in ("start", "end"))
    for found, (start, _), (end, _) in zip((state.params, state.ema), starts, ends, strict=True):
        assert found.keys() == end.keys()
        for network in end:
            way, missed = (distance(each[network], end[network]) for each in (start, found))
            assert way > 0
            assert missed < 0.01 * way, (network, missed / way)


def distance(a, b):
    squares = jax.tree.map(lambda a, b: np.sum((np.float64(a) - np.float64(b)) ** 2), a, b)
    return np.sqrt(sum(jax.tree.leaves(squares)))
