"""Digits with labels, and a diffusion transformer as image decoder.

python -m lzn_jax.main --config=examples/dit/config.py
"""

import ml_collections

from lzn_jax import configuration


def get_config() -> ml_collections.ConfigDict:
    """The config of digits_joint with another decoder."""
    config = configuration.sibling(__file__, "digits_joint")
    config.extensions = ("dit.py",)
    config.decoder = {"name": "dit", "condition": "label"}
    config.training.learning_rate.decoder = 1e-3
    return config
