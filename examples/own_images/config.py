"""Patches of two photographs: own images, another solver and another alignment.

python -m lzn_jax.main --config=examples/own_images/config.py
"""

import ml_collections

from lzn_jax import configuration


def get_config() -> ml_collections.ConfigDict:
    """The config of digits_joint on other images."""
    config = configuration.sibling(__file__, "digits_joint")
    config.extensions = ("photographs.py",)
    config.data = {"name": "photographs", "image_size": 16}
    config.latent.solver = "midpoint"
    config.latent.context_size = 1024
    config.alignment.solver = "midpoint"
    config.alignment.form = "contrastive"
    config.alignment.temperature = 0.1
    config.training.num_steps = 600
    config.evaluation.batch_sizes = (1, 36, 324)
    config.evaluation.context_sizes = (1, 36, 1024)
    return config
