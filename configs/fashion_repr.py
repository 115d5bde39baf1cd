"""Case study 2 (paper section 4 and appendix D) on Fashion-MNIST, 28x28 grey images of clothes.

    python -m lzn_jax.main --config=configs/fashion_repr.py

Reads the IDX files of Debian's package dataset-fashion-mnist; --config.data.path=DIR for others.

Expected: not measured yet. Cost: 9.2e9 operations an update, which should be less than an hour of
training on 2 CPU cores (estimate).
"""

import ml_collections

from lzn_jax import configuration


def get_config() -> ml_collections.ConfigDict:
    """The config of this experiment: digits_repr with other data and a stage more."""
    config = configuration.sibling(__file__, "digits_repr")

    # Data: 60,000 training and 10,000 test images; labels are for evaluation alone.
    config.data.name = "fashion"
    config.data.path = "/usr/share/datasets/fashion-mnist"  # of Debian's dataset-fashion-mnist
    config.data.image_size = 28
    config.data.flip = True

    config.augmentation.min_area = 0.3

    config.latent.context_size = 2000

    # A narrow ResNet with feature maps 28, 14 and 7 wide.
    config.encoder.stage_sizes = (1, 1, 1)
    config.encoder.stage_widths = (8, 16, 32)
    config.encoder.stem_width = 8
    config.encoder.norm_groups = 4

    config.training.batch_size = 128
    config.training.num_steps = 2000  # 4.3 epochs
    config.training.ema_decay = 0.999

    config.checkpoint.every_steps = 500
    config.evaluation.every_steps = 1000
    return config
