"""Digits with labels, trained by Muon.

python -m lzn_jax.main --config=examples/muon/config.py
"""

import ml_collections

from lzn_jax import configuration


def get_config() -> ml_collections.ConfigDict:
    """The config of digits_joint with another optimiser."""
    config = configuration.sibling(__file__, "digits_joint")
    config.extensions = ("muon.py",)
    config.training.optimizer = "muon"
    config.training.batch_size = 256
    config.training.learning_rate.encoder = 1e-3
    config.training.learning_rate.decoder = 2e-3
    config.training.ema_decay = 0.99
    config.training.num_steps = 600
    return config
