"""Digits with labels, and a loss between whole and partly erased images.

python -m lzn_jax.main --config=examples/erasing/config.py
"""

import ml_collections

from lzn_jax import configuration


def get_config() -> ml_collections.ConfigDict:
    """The config of digits_joint with one more loss."""
    config = configuration.sibling(__file__, "digits_joint")
    config.extensions = ("erasing.py",)
    config.training.losses = ("erasing",)
    config.training.batch_size = 256
    config.training.learning_rate.encoder = 1e-3
    config.training.learning_rate.decoder = 2e-3
    config.training.ema_decay = 0.99
    config.training.num_steps = 600
    config.training.erasing_weight = 0.1
    return config
