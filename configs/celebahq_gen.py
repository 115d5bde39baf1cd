"""Case study 1 (paper section 3 and appendix C) on CelebA-HQ at 256 pixels: generation.

    python -m lzn_jax.main --config=configs/celebahq_gen.py --config.data.path=DIR

DIR contains the 30,000 images. On one GPU add --config.training.microbatch_size=8.
Expected (paper, 29,952 samples): FID 7.17, reconstruction error 15.90; for rectified flow alone
(--config.latent.enabled=False) 6.95 and 26.20. This config was not run by us.
Cost and memory per update, and chips: as for afhq_cat_gen.py. Estimate at 12 to 25 % of an
H100's bfloat16 peak: 420 to 200 hours, a third more with micro-batches.
"""

import ml_collections

from lzn_jax import configuration


def get_config() -> ml_collections.ConfigDict:
    """The config of this experiment: afhq_cat_gen with other data and more updates."""
    config = configuration.sibling(__file__, "afhq_cat_gen")
    config.data.path = "data/celebahq"  # a flat folder of 30,000 images
    config.data.class_name = None
    config.data.holdout = (
        48  # leaves 29,952 for training, the number of reference images in the paper
    )
    config.training.num_steps = 350_000
    config.training.learning_rate.encoder = 4e-6
    config.training.ema_decay = 0.9999
    config.evaluation.every_steps = 50_000
    config.evaluation.num_samples = 29_952
    return config
