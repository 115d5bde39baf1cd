"""One space of images, labels and captions (paper figure 1) on scikit-learn's 8x8 digits.

    python -m lzn_jax.main --config=configs/digits_text.py

Captions describe measurements of the image: "a bold seven leaning left". All eight tasks of the
figure are evaluated. Expected: the whole caption is correct for 0.80 of the test images, the image
matches all parts of its caption for 0.73 of the captions, test accuracy 0.982 (five seeds;
docs/text.md). α and cut-off were chosen on validation data. Cost: 9 minutes on one CPU core.
"""

import ml_collections

from lzn_jax import configuration


def get_config() -> ml_collections.ConfigDict:
    """The config of this experiment: digits_joint with captions."""
    config = configuration.sibling(__file__, "digits_joint")
    config.study = "text"
    config.data.captions = True  # 90 distinct captions

    # Twice the evaluations of digits_joint, because a latent must match one of 90 captions.
    config.latent.num_steps = 20
    config.alignment.noise_scale = 0.45
    # With that many zones the gradient of a sharper flow is 100 times as large (docs/appendix.md).
    config.alignment.solver = "euler"
    config.alignment.num_steps = 20
    config.alignment.cutoff = 0.2

    # Captions: characters to an anchor and back.
    config.text.alphabet = " abcdefghijklmnopqrstuvwxyz"
    config.text.max_length = 40
    config.text.context_size = 90
    config.text_encoder.features = 64
    config.text_decoder.features = 64

    config.encoder = {"name": "ncsnpp", "features": 16, "channel_multipliers": (1, 2)}
    config.encoder.update(num_res_blocks=1, tap_channels=8, tap_units=64)
    config.decoder.num_blocks = 3
    # The decoder is conditioned on the caption's anchor, as the paper's is on the class.
    config.decoder.condition_dropout = 0.1

    config.training.batch_size = 256
    config.training.num_steps = 700
    config.training.flow_draws = 2
    config.training.learning_rate.encoder = 1e-3
    config.training.learning_rate.decoder = 2e-3
    config.training.learning_rate.label_anchors = 1e-3
    config.training.learning_rate.text_encoder = 1e-3
    config.training.learning_rate.text_decoder = 2e-3
    config.training.ema_decay = 0.99
    config.checkpoint.every_steps = 200
    config.evaluation.every_steps = 700
    config.evaluation.probability_time = 0.4  # calibrated on validation digits, for this solver
    return config
