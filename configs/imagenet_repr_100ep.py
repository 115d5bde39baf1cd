"""Case study 2 (paper section 4 and appendix D) on ImageNet for 100 epochs, not 32,000.

    python -m lzn_jax.main --config=configs/imagenet_repr_100ep.py --config.data.path=DIR

DOC
"""

import ml_collections

from lzn_jax import configuration


def get_config() -> ml_collections.ConfigDict:
    """The config of this experiment: imagenet_repr for less long."""
    config = configuration.sibling(__file__, "imagenet_repr")
    config.training.num_steps = 15_639  # 100 epochs of 1,281,167 images
    config.training.warmup_steps = 1564  # 10 epochs
    config.training.schedule = "cosine"
    config.evaluation.every_steps = 5213  # a third
    return config
