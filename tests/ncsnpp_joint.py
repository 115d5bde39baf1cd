"""A config: digits_joint with NCSN++ as decoder, which has most fields."""

from pathlib import Path

from lzn_jax import configuration

CONFIGS = Path(__file__).parents[1] / "configs"
DECODER = {"features": 16, "channel_multipliers": (1, 2), "num_res_blocks": 1}


def get_config():
    named = {"decoder.name": "ncsnpp"}
    config = configuration.sibling(str(CONFIGS / "digits_joint.py"), "digits_joint", named)
    config.decoder.update(DECODER)
    config.training.batch_size = 256
    return config
