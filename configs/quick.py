"""Draft."""

import ml_collections

from lzn_jax import configuration


def get_config() -> ml_collections.ConfigDict:
    """The config of this experiment."""
    config = configuration.sibling(__file__, "fashion_joint")
    config.data = {"name": "image_folder", "path": "DIR"}
    del config.sampling

    config.latent.dim = 32
    config.latent.num_steps = 10
    config.latent.context_size = 1000
    config.alignment.num_steps = 10

    config.encoder = {"name": "ncsnpp", "features": 16, "channel_multipliers": (1, 2)}
    config.encoder.update(num_res_blocks=1, tap_channels=8, tap_units=64, patch_size=2)
    config.decoder = {"name": "direct", "features": 16, "channel_multipliers": (1, 2)}
    config.decoder.update(num_res_blocks=1, patch_size=2, set_loss="energy", set_weight=2.0)

    config.training.batch_size = 256
    config.training.num_steps = 1000
    config.training.learning_rate.encoder = 2e-3
    config.training.learning_rate.decoder = 2e-3
    config.training.learning_rate.label_anchors = 2e-3
    config.training.warmup_steps = 50
    config.training.ema_decay = 0.99
    config.checkpoint.every_steps = 100
    config.evaluation.every_steps = 1000
    config.evaluation.num_samples = 2000
    config.evaluation.noise_scales = ()
    config.evaluation.batch_sizes = ()
    config.evaluation.context_sizes = ()
    return config
