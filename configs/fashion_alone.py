"""Generation by LZN alone (paper appendix G) on Fashion-MNIST, 28x28 grey images of clothes.

    python -m lzn_jax.main --config=configs/fashion_alone.py

Reads the IDX files of Debian's package dataset-fashion-mnist; --config.data.path=DIR for others.
Expected: fd_features 8.0, precision 0.81, recall 0.43, nearest_ratio 0.92 (three seeds;
docs/alone.md); with features of a frozen encoder 5.3, 0.87, 0.56, 0.87, by set_features.py.
Settings were chosen by these measurements.
Cost: 2.8e10 operations per update, 52 minutes on one CPU core, and 4 for evaluation.
"""

import ml_collections

from lzn_jax import configuration


def get_config() -> ml_collections.ConfigDict:
    """The config of this experiment: digits_alone with other data, more zones and convolutions."""
    config = configuration.sibling(__file__, "digits_alone")

    config.data.name = "fashion"  # 60,000 training and 10,000 test images
    config.data.flip = False  # all shoes point to the left, as samples should

    config.latent.dim = 24
    config.latent.context_size = 6144

    # A convolutional decoder on 2x2 patches as four channels, with feature maps 7 and 14 wide.
    # With dense layers, pixels are noisy and features differ from real images (docs/appendix.md).
    del config.decoder.num_blocks
    config.decoder.name = "direct"
    config.decoder.patch_size = 2
    config.decoder.features = 16
    config.decoder.channel_multipliers = (1, 2)
    config.decoder.num_res_blocks = 1
    config.decoder.set_loss = "energy"
    config.decoder.set_weight = 7.0

    # All anchors of a batch cut zones and get gradients, because the encoder is small.
    config.training.batch_size = 6144
    config.training.num_steps = 3000
    config.evaluation.every_steps = 3000
    config.checkpoint.every_steps = 500
    config.evaluation.num_samples = 2000
    return config
