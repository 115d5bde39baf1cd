"""Case study 1 (paper section 3 and appendix C) on LSUN-Bedroom at 256 pixels: generation.

    python -m lzn_jax.main --config=configs/lsun_bedroom_gen.py --config.data.path=DIR

DIR contains the 3,033,042 training images, at any depth. On one GPU add
--config.training.microbatch_size=8.
Expected (paper, 29,952 samples): FID 5.95, reconstruction error 37.01; for rectified flow alone
(--config.latent.enabled=False) 6.25 and 48.72. This config was not run by us.
Cost and memory per update, and chips: as for afhq_cat_gen.py. Estimate at 12 to 25 % of an
H100's bfloat16 peak: 2450 to 1170 hours, a third more with micro-batches.
"""

import ml_collections

from lzn_jax import configuration


def get_config() -> ml_collections.ConfigDict:
    """The config of this experiment: afhq_cat_gen with other data and more updates."""
    config = configuration.sibling(__file__, "afhq_cat_gen")
    config.data.path = "data/lsun_bedroom"  # 3,033,042 images, at any depth
    config.data.class_name = None
    config.data.holdout = 256
    config.training.num_steps = 2_050_000
    config.training.ema_decay = 0.99999
    config.evaluation.every_steps = 250_000
    config.evaluation.num_samples = 29_952  # the number of reference images in the paper
    return config
