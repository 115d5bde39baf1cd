"""Images and labels of digits: pixels are drawn one after another, given a latent and a label.

python -m lzn_jax.main --config=examples/autoregressive/config.py
"""

import ml_collections

from lzn_jax import configuration


def get_config() -> ml_collections.ConfigDict:
    """The config of digits_joint with another decoder."""
    config = configuration.sibling(__file__, "digits_joint")
    config.extensions = ("pixels.py",)
    config.decoder = {"name": "pixels", "features": 32, "num_layers": 3, "levels": 17}
    config.training.batch_size = 256
    config.training.learning_rate.encoder = 1e-3
    config.training.learning_rate.decoder = 2e-3
    config.training.ema_decay = 0.99
    config.training.num_steps = 600
    del config.sampling
    return config
