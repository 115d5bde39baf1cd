"""Case study 1 (paper section 3 and appendix C) on Fashion-MNIST, 28x28 grey images of clothes.

    python -m lzn_jax.main --config=configs/fashion_gen.py

DOC
"""

import ml_collections

from lzn_jax import configuration


def get_config() -> ml_collections.ConfigDict:
    """The config of this experiment: digits_gen with other data and a level more."""
    config = configuration.sibling(__file__, "digits_gen")

    # Data: 60,000 training and 10,000 test images.
    config.data.name = "fashion"
    config.data.path = "/usr/share/datasets/fashion-mnist"  # of Debian's dataset-fashion-mnist
    config.data.image_size = 28
    config.data.flip = True

    config.latent.context_size = 2000

    # Feature maps 28, 14 and 7 wide.
    config.encoder.channel_multipliers = (1, 2, 2)
    config.decoder.channel_multipliers = (1, 2, 2)

    config.training.num_steps = 3000
    config.training.ema_decay = 0.999

    config.checkpoint.every_steps = 500
    config.evaluation.every_steps = 1500
    return config
