"""Generation by LZN alone (paper appendix G) on scikit-learn's 8x8 digits: one pass, no flow.

One evaluation of the decoder maps a latent from the prior to an image.

    python -m lzn_jax.main --config=configs/digits_alone.py

Expected: fd_features 2.01 ± 0.09, recognised 0.900 ± 0.004, nearest_ratio 0.891 ± 0.005 (five
seeds; docs/results.md). λ and dimensions were chosen on validation data. Cost: 6 to 8 minutes on
one CPU core.
"""

import ml_collections

from lzn_jax import configuration


def get_config() -> ml_collections.ConfigDict:
    """The config of this experiment."""
    config = configuration.blank()
    config.study = "alone"
    config.data.name = "digits"  # 1437 training and 360 test images; labels are for evaluation

    # An accurate flow: the decoder sees the same distribution in training and sampling only if the
    # latents exactly follow the prior.
    config.latent.dim = 8
    config.latent.solver = "adams"
    config.latent.num_steps = 8
    config.latent.context_size = 1437  # all training images

    # Alignment of latents with image zones for classification, or with label zones under
    # --config.alignments="('image:label',)".
    config.alignment.solver = "adams"
    config.alignment.num_steps = 10
    config.alignment.cutoff = 0.6
    config.alignment.noise_scale = 0.45
    config.training.learning_rate.label_anchors = 1e-3

    config.encoder.name = "mlp"
    config.encoder.features = 256
    config.encoder.num_blocks = 1

    config.decoder.name = "direct_mlp"
    config.decoder.features = 256
    config.decoder.num_blocks = 4
    config.decoder.set_loss = "drift"
    config.decoder.set_weight = 1.0

    # A batch of nearly all training images cuts the zones. A fifth of it is decoded.
    config.training.batch_size = 1280
    config.training.queries = 256
    config.training.devices = "dividing"
    config.training.num_steps = 1500  # 3000: better samples, closer to copies (docs/appendix.md)
    config.training.learning_rate.encoder = 2e-3
    config.training.learning_rate.decoder = 2e-3
    config.training.warmup_steps = 50
    config.training.schedule = "cosine"
    config.training.ema_decay = 0.995
    config.training.log_every_steps = 10
    config.checkpoint.every_steps = 500
    config.evaluation.every_steps = 1500
    config.evaluation.num_samples = 5000
    config.evaluation.noise_scales = ()
    config.evaluation.batch_sizes = ()
    config.evaluation.context_sizes = ()
    return config
