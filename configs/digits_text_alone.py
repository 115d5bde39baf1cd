"""One space of images, labels and captions (paper figure 1), images in one pass (appendix G).

    python -m lzn_jax.main --config=configs/digits_text_alone.py

Expected: images of a caption vary far less than in digits_text (docs/alone.md). Cost: 8 minutes on
one CPU core.
"""

import ml_collections

from lzn_jax import configuration


def get_config() -> ml_collections.ConfigDict:
    """The config of this experiment: digits_text with a one-pass image decoder."""
    config = configuration.sibling(__file__, "digits_text")
    del config.sampling
    config.decoder = ml_collections.ConfigDict({"name": "direct_mlp", "features": 256})
    config.decoder.num_blocks = 4
    config.decoder.set_weight = 2.0
    config.training.flow_draws = 1
    return config
