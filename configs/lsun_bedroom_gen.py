"""Case study 1 (paper section 3 and appendix C) on LSUN-Bedroom at 256 pixels: generation.

    python -m lzn_jax.main --config=configs/lsun_bedroom_gen.py --config.data.path=DIR

DOC
"""

import ml_collections

from lzn_jax import configuration


def get_config() -> ml_collections.ConfigDict:
    """The config of this experiment: afhq_cat_gen with other data and for longer."""
    config = configuration.sibling(__file__, "afhq_cat_gen")

    # Data: a folder of 3,033,042 images, at any depth.
    config.data.path = "data/lsun_bedroom"
    config.data.class_name = None
    config.data.holdout = 256

    config.training.num_steps = 2_050_000
    config.training.ema_decay = 0.99999

    config.evaluation.every_steps = 250_000
    config.evaluation.num_samples = 29_952  # as many as the paper compares with
    return config
