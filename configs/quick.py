"""Own images of 28 to 32 pixels in ten minutes: images of each class in one pass, and classes.

The networks of the joint study (paper section 5 and appendix E), smaller, with the one-pass decoder
of appendix G.

    python -m lzn_jax.main --config=configs/quick.py --config.data.path=DIR

DIR is a folder of images, or of a folder for each class; --config.data.name=fashion for clothes.
Expected: docs/own_images.md. Settings were chosen on validation images. Cost: six to
thirteen minutes on one CPU core.
"""

import ml_collections

from lzn_jax import configuration


def get_config() -> ml_collections.ConfigDict:
    """The config of this experiment: digits_joint with convolutions and one-pass decoding."""
    config = configuration.sibling(__file__, "digits_joint")
    del config.sampling

    config.data = {"name": "image_folder", "path": "DIR"}  # size, colours and classes: its images'
    config.data.flip = False  # samples face as the images do

    config.latent.context_size = 1000
    config.alignment.noise_scale = 0.7

    # With 2x2 patches as channels, feature maps are half and a quarter of an image wide.
    config.encoder = {"name": "ncsnpp", "features": 8, "channel_multipliers": (1, 2)}
    config.encoder.update(num_res_blocks=1, tap_channels=8, tap_units=64, patch_size=2)
    # A one-pass decoder: after so few updates images of a small flow would be noisy.
    config.decoder = {"name": "direct", "features": 16, "channel_multipliers": (1, 2)}
    config.decoder.update(num_res_blocks=1, patch_size=2, set_loss="drift", set_weight=0.5)

    config.training.batch_size = 64  # more updates in equal time than 128
    config.training.num_steps = 3000
    config.training.learning_rate.encoder = 2e-3
    config.training.learning_rate.decoder = 6e-3  # 2e-3 learns colours later
    config.training.learning_rate.label_anchors = 2e-3
    config.training.ema_decay = 0.99  # averages over the last 100 updates
    config.checkpoint.every_steps = 300  # samples of each tenth can be drawn
    config.checkpoint.keep = 10
    config.evaluation.every_steps = 3000
    config.evaluation.num_samples = 2000
    config.evaluation.noise_scales = ()
    return config
