"""A config: digits_alone with a decoder of convolutions, NCSN++'s upward half.

python -m lzn_jax.main --config=benchmarks/digits_convolutions.py
"""

import ml_collections

from lzn_jax import configuration


def get_config() -> ml_collections.ConfigDict:
    """The config of this experiment."""
    config = configuration.sibling("configs/any.py", "digits_alone")
    del config.decoder.num_blocks
    config.decoder.name = "direct"
    config.decoder.features = 32
    config.decoder.channel_multipliers = (1, 2)
    config.decoder.num_res_blocks = 1
    return config
