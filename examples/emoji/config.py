"""One space of images and texts (paper figure 1): emoji of 32x32 pixels and their names.

pip install -e '.[emoji]'
python -m lzn_jax.main --config=examples/emoji/config.py
"""

import ml_collections

from lzn_jax import configuration


def get_config() -> ml_collections.ConfigDict:
    """The config of this experiment."""
    config = configuration.blank()
    config.extensions = ("emoji.py",)
    config.study = "pairs"
    config.data.name = "openmoji"
    config.data.image_size = 32

    config.latent.dim = 64
    config.latent.solver = "adams"
    config.latent.num_steps = 10
    config.latent.context_size = 2048

    # In both directions: images with the zones of names, names with the zones of images.
    config.alignment.noise_scale = 0.2  # 0.45 aligns more slowly
    config.alignment.sharpness = 1.0  # the paper's form, None, finds fewer partners of new emoji
    config.alignment.num_steps = 20  # to find the zone of a latent

    config.encoder.name = "ncsnpp"
    config.encoder.features = 16
    config.encoder.channel_multipliers = (1, 2, 4)
    config.encoder.num_res_blocks = 1
    config.encoder.patch_size = 2
    config.encoder.tap_channels = 8
    config.encoder.tap_units = 64
    # A one-pass decoder: after so few updates images of a small flow would be noisy.
    config.decoder.name = "direct"
    config.decoder.features = 16
    config.decoder.channel_multipliers = (1, 2, 4)
    config.decoder.num_res_blocks = 1
    config.decoder.patch_size = 2
    config.decoder.set_weight = 2.0
    config.decoder.condition_dropout = 0.1

    # Names as UTF-8 bytes: at most 76 in English, up to twice as many in other languages.
    config.text.max_length = 80
    config.text.context_size = 2048
    config.text_encoder.features = 128
    config.text_decoder.features = 128

    config.training.batch_size = 256
    config.training.devices = "dividing"
    config.training.num_steps = 600
    config.training.learning_rate.encoder = 1e-3
    config.training.learning_rate.decoder = 2e-3
    config.training.learning_rate.text_encoder = 1e-3
    config.training.learning_rate.text_decoder = 2e-3
    config.training.warmup_steps = 50
    config.training.schedule = "cosine"
    config.training.ema_decay = 0.99
    config.training.log_every_steps = 10
    config.checkpoint.every_steps = 100
    config.evaluation.every_steps = 600
    config.evaluation.num_samples = 500
    return config
