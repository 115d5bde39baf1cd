"""digits_joint with the NCSN++ decoder of full scale: a joint config with all of its fields."""

import ml_collections

from lzn_jax import configuration


def get_config() -> ml_collections.ConfigDict:
    """The config."""
    config = configuration.sibling(__file__, "digits_joint")
    config.encoder.features = 16
    config.encoder.tap_channels = 8
    config.decoder = ml_collections.ConfigDict({"name": "ncsnpp", "features": 16})
    config.decoder.channel_multipliers = (1, 2)
    config.decoder.num_res_blocks = 1
    del config.training.flow_draws
    config.training.learning_rate.decoder = 2e-3
    return config
