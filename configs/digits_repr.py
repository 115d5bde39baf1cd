"""Case study 2 (paper section 4 and appendix D) on scikit-learn's 8x8 digits.

Representations without labels, small enough for a laptop's CPU.

    python -m lzn_jax.main --config=configs/digits_repr.py

Expected: linear probe on the backbone 0.967 ± 0.005 (5 seeds; docs/results.md). Cost: 4.3e9
operations an update, 0.2 GB, 3 minutes on one CPU core with its evaluations.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """The config of this experiment."""
    config = ml_collections.ConfigDict()
    config.study = "representation"
    config.objective = "lzn"  # "simclr": the baseline
    config.seed = 0

    # Data: 1437 training and 360 test images; labels are for evaluation alone.
    config.data = ml_collections.ConfigDict()
    config.data.name = "digits"
    config.data.image_size = 8
    config.data.channels = 1
    config.data.num_classes = 10
    config.data.flip = False  # a mirrored digit is no digit

    # Views: a random crop on the host, the rest on the device.
    config.augmentation = ml_collections.ConfigDict()
    config.augmentation.min_area = 0.4
    config.augmentation.jitter_probability = 0.8
    config.augmentation.brightness = 0.4
    config.augmentation.contrast = 0.4
    config.augmentation.saturation = 0.0  # grey images have none
    config.augmentation.hue = 0.0
    config.augmentation.grey_probability = 0.0
    config.augmentation.blur_probability = 0.5
    config.augmentation.blur_kernel = 3
    config.augmentation.blur_max_sigma = 1.0

    # Latents of the first views. Less noise and fewer alignment steps than the paper's 0.45 and 20:
    # an assignment that stays softer, by which the encoder learns sooner.
    config.latent = ml_collections.ConfigDict()
    config.latent.dim = 64
    config.latent.noise_scale = 0.2
    config.latent.solver = "euler"
    config.latent.num_steps = 20
    config.latent.precision = "float32"
    config.latent.context_size = 1437  # for latents in evaluation: all training images

    # Alignment with the zones of the second views.
    config.alignment = ml_collections.ConfigDict()
    config.alignment.solver = "euler"
    config.alignment.num_steps = 3
    config.alignment.cutoff = 0.2
    config.alignment.form = "log"

    config.simclr = ml_collections.ConfigDict()
    config.simclr.temperature = 0.2  # of the baseline

    # A ResNet with feature maps 8 and 4 wide.
    config.encoder = ml_collections.ConfigDict()
    config.encoder.name = "resnet"
    config.encoder.stage_sizes = (1, 1)
    config.encoder.stage_widths = (16, 32)
    config.encoder.stem = "small"
    config.encoder.stem_width = 16
    config.encoder.selective_kernel_ratio = 0.0
    config.encoder.norm_groups = 8
    config.encoder.head_dim = 64
    config.encoder.head_layers = 2

    config.training = ml_collections.ConfigDict()
    config.training.batch_size = 256
    config.training.microbatch_size = None  # the encoder sees the whole batch at once
    config.training.shard_parameters = False  # True: for networks that do not fit a device
    config.training.devices = "dividing"  # of many devices as many as share a batch evenly
    config.training.remat = False  # True: residual blocks compute their insides twice
    config.training.num_steps = 600
    config.training.learning_rate = ml_collections.ConfigDict()
    config.training.learning_rate.encoder = 1e-3
    config.training.warmup_steps = 50
    config.training.schedule = "cosine"
    config.training.gradient_clip = 1.0
    config.training.ema_decay = 0.99
    config.training.compute_dtype = "float32"
    config.training.log_every_steps = 10

    config.checkpoint = ml_collections.ConfigDict()
    config.checkpoint.every_steps = 200
    config.checkpoint.keep = 2

    config.evaluation = ml_collections.ConfigDict()
    config.evaluation.every_steps = 200
    config.evaluation.probe_protocol = "cached"
    return config
