"""Generation by LZN alone (paper, appendix G) on Fashion-MNIST, 28x28 grey images of clothes.

python -m lzn_jax.main --config=configs/fashion_alone.py
"""

import ml_collections

from lzn_jax import configuration


def get_config() -> ml_collections.ConfigDict:
    """The config of this experiment: digits_alone with other data and more zones."""
    config = configuration.sibling(__file__, "digits_alone")

    config.data.name = "fashion"  # 60,000 training and 10,000 test images

    config.latent.dim = 24
    config.latent.num_steps = 8
    config.latent.context_size = 6000

    config.encoder.features = 256
    config.encoder.num_blocks = 1
    config.decoder.features = 512
    config.decoder.num_blocks = 3

    config.training.batch_size = 6144
    config.training.queries = 256
    config.training.num_steps = 2500
    config.evaluation.every_steps = 500
    config.checkpoint.every_steps = 500
    config.evaluation.num_samples = 2000
    return config
