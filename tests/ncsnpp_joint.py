"""A config: digits_joint with NCSN++, which has most fields."""

from pathlib import Path

from lzn_jax import configuration

CONFIGS = Path(__file__).parents[1] / "configs"
NETWORK = {"channel_multipliers": (1, 2), "num_res_blocks": 1}


def get_config():
    named = {"encoder.name": "ncsnpp", "decoder.name": "ncsnpp"}
    config = configuration.sibling(str(CONFIGS / "digits_joint.py"), "digits_joint", named)
    config.encoder.update(NETWORK, features=8, tap_channels=8, tap_units=64)
    config.decoder.update(NETWORK, features=16)
    config.training.batch_size = 256
    return config
