"""Case study 2 (paper section 4 and appendix D) on scikit-learn's 8x8 digits.

Representations without labels, on a laptop's CPU.

    python -m lzn_jax.main --config=configs/digits_repr.py

Expected: linear probe on the backbone 0.977 ± 0.005 (5 seeds; docs/results.md). Cost: 4.3e9
operations per update, 0.2 GB, 3 minutes on one CPU core with evaluations. Noise and learning rate
were chosen on validation data (benchmarks/choose.py).
"""

import ml_collections

from lzn_jax import configuration


def get_config() -> ml_collections.ConfigDict:
    """The config of this experiment."""
    config = configuration.blank()
    config.study = "representation"
    config.data.name = "digits"  # 1437 training and 360 test images; labels are for evaluation

    # Views: a random crop on the host, other augmentations on the device.
    config.augmentation.min_area = 0.4
    config.augmentation.brightness = 0.4
    config.augmentation.contrast = 0.4
    config.augmentation.saturation = 0.0  # grey images lack saturation
    config.augmentation.hue = 0.0
    config.augmentation.grey_probability = 0.0
    config.augmentation.blur_probability = 0.5
    config.augmentation.blur_kernel = 3
    config.augmentation.blur_max_sigma = 1.0

    # The paper uses noise 0.45 and 20 alignment steps. With less noise and fewer steps, assignments
    # are softer and the encoder learns faster.
    config.latent.dim = 64
    config.latent.noise_scale = 0.2
    config.latent.solver = "adams"
    config.latent.num_steps = 10
    config.latent.context_size = 1437  # for latents in evaluation: all training images
    config.alignment.num_steps = 3
    config.simclr.temperature = 0.2  # of the baseline

    # A ResNet with feature maps 8 and 4 wide.
    config.encoder.name = "resnet"
    config.encoder.stage_sizes = (1, 1)
    config.encoder.stage_widths = (16, 32)
    config.encoder.stem = "small"
    config.encoder.stem_width = 16
    config.encoder.norm_groups = 8
    config.encoder.head_dim = 64

    config.training.batch_size = 256
    config.training.devices = "dividing"  # the largest number of devices that divides the batch
    config.training.num_steps = 600
    config.training.learning_rate.encoder = 4e-3
    config.training.warmup_steps = 50
    config.training.schedule = "cosine"
    config.training.ema_decay = 0.99
    config.training.log_every_steps = 10
    config.checkpoint.every_steps = 200
    config.evaluation.every_steps = 200
    return config
