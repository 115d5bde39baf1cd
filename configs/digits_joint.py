"""Case study 3 (paper section 5 and appendix E) on scikit-learn's 8x8 digits.

One latent space for images and labels: generation with or without a class, and classification.

    python -m lzn_jax.main --config=configs/digits_joint.py

Expected: test accuracy 0.973 ± 0.008, samples recognised 0.996 ± 0.002 (five seeds;
docs/results.md). α, form and learning rate were chosen on validation data. Cost: 107 s on two CPU
cores.
"""

import ml_collections

from lzn_jax import configuration


def get_config() -> ml_collections.ConfigDict:
    """The config of this experiment."""
    config = configuration.blank()
    config.study = "joint"
    config.data.name = "digits"  # 1437 training and 360 test images

    config.latent.dim = 32
    config.latent.solver = "adams"  # 10 evaluations are as good as 20 of Euler (docs/results.md)
    config.latent.num_steps = 10
    config.latent.context_size = 1437  # all training images; the paper: 0, the batch itself

    # Alignment of image latents with label zones, in the form "log" where the paper uses "prob".
    # Latents are near the zone's centre. At the paper's 1, the zone's border dominates the loss.
    config.alignment.noise_scale = 0.2
    config.alignment.solver = "adams"
    config.alignment.num_steps = 10
    config.alignment.cutoff = 0.6  # for this solver; 0.2 for Euler (docs/appendix.md)

    # Image encoder (image -> anchor) and decoder (noisy image, time, latent, label -> velocity).
    # The networks of cifar10_joint, NCSN++, make better samples but take longer.
    config.encoder.name = "mlp"
    config.encoder.features = 256
    config.decoder.name = "mlp"
    config.decoder.features = 256

    config.training.batch_size = 128
    config.training.devices = "dividing"  # the largest number of devices that divides the batch
    config.training.num_steps = 2000  # 178 epochs
    config.training.learning_rate.encoder = 2e-3
    config.training.learning_rate.decoder = 3e-3
    config.training.learning_rate.label_anchors = 3e-3
    config.training.warmup_steps = 50
    config.training.schedule = "cosine"  # the paper: "constant", for much longer
    config.training.ema_decay = 0.995  # averages over the last 200 updates
    config.training.log_every_steps = 10
    config.checkpoint.every_steps = 500
    config.evaluation.every_steps = 2000
    config.evaluation.num_samples = 500  # 50 of each class
    config.evaluation.probability_time = 0.6  # calibrated on validation digits (docs/own_images.md)
    config.sampling.sampler = "euler"
    config.sampling.num_steps = 50
    return config
