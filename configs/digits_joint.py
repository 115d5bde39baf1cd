"""Case study 3 (paper section 5 and appendix E) on scikit-learn's 8x8 digits.

One latent space for images and labels: class-conditional generation, unconditional generation
and classification from one model, small enough for a laptop's CPU.

    python -m lzn_jax.main --config=configs/digits_joint.py

Expected: test accuracy 0.992 ± 0.004, samples recognised 0.987 ± 0.008 (three seeds;
docs/results.md). Cost: 5 to 6 minutes on two CPU cores.
"""

import ml_collections

from lzn_jax import configuration


def get_config() -> ml_collections.ConfigDict:
    """The config of this experiment."""
    config = configuration.blank()
    config.study = "joint"
    config.data.name = "digits"  # 1437 training and 360 test images

    # Latents of images, for generation.
    config.latent.dim = 32
    config.latent.solver = "euler"
    config.latent.context_size = 1437  # all training images; the paper: 0, the batch itself

    # Alignment of image latents with label zones; its form is "log", the paper's "prob".
    # The middle of the zone; at 1, as in the paper, its border dominates the loss.
    config.alignment.noise_scale = 0.45
    config.alignment.num_steps = 20  # of Euler; the solver "adams" wants a cut-off of 0.6

    # Image encoder, image -> anchor, and decoder, noisy image, time, latent and label -> velocity.
    for network in (config.encoder, config.decoder):
        network.name = "ncsnpp"
        network.features = 16
        network.channel_multipliers = (1, 2)  # feature maps 8 and 4 wide
        network.num_res_blocks = 1
    config.encoder.tap_channels = 8
    config.encoder.tap_units = 64

    config.training.batch_size = 256
    config.training.devices = "dividing"  # of many devices as many as share a batch evenly
    config.training.num_steps = 1000  # 178 epochs
    config.training.learning_rate.encoder = 1e-3
    config.training.learning_rate.decoder = 2e-3
    config.training.learning_rate.label_anchors = 1e-3
    config.training.warmup_steps = 50
    config.training.schedule = "cosine"  # the paper: "constant", for much longer
    config.training.ema_decay = 0.99  # averages over the last 100 updates
    config.training.log_every_steps = 10
    config.checkpoint.every_steps = 200
    config.evaluation.every_steps = 500
    config.evaluation.num_samples = 500  # 50 of each class
    # Classification: how accuracy depends on what an image's anchor stands among.
    config.evaluation.batch_sizes = (1, 6, 36, 360)
    config.evaluation.context_sizes = (1, 6, 36, 216, 1437)
    config.sampling.sampler = "euler"
    config.sampling.num_steps = 50
    return config
